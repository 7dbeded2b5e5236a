"""The product, started by its supervisor."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.up.processes import ROOT, VARIABLES, Up

UP = "tornado_celery_bridge.up"


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Up]]:
    """
    Start a supervisor: ``up("name: command", PORT="1234")``. Ended with the test.

    Without a Procfile of its own it is the whole product, by `make up`. With *stale*, a heartbeat is so after as many
    seconds.
    """
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    started: list[Up] = []

    def start(procfile: str | None = None, *, stale: float | None = None, **environment: str) -> Up:
        command = [sys.executable, "-m", "tornado_celery_bridge.up.supervisor"]
        if stale is not None:
            impatient = (
                f"import sys\nfrom {UP} import supervisor\nsupervisor.STALE = {stale}\nsupervisor.main(sys.argv[1])"
            )
            command = [sys.executable, "-c", impatient]
        if procfile:
            (tmp_path / "Procfile").write_text(procfile, "utf-8")
            command += [str(tmp_path / "Procfile")]
        elif Path(sys.prefix) == ROOT / ".venv":  # else make would build it, or build it anew with another Python
            command = ["make", "up", f"PYTHON={sys.executable}"]
        started.append(Up(tmp_path, command, **environment))
        return started[-1]

    yield start
    for one in started:
        one.close()
