"""The product, started by its supervisor."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.up.processes import ROOT, VARIABLES, Up

#: `tcb up` whose patience with a heartbeat is another.
IMPATIENT = """
import sys
from tornado_celery_bridge.cli.main import main
from tornado_celery_bridge.up import supervisor

supervisor.STALE = {stale}
sys.exit(main(["up"]))
"""


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Up]]:
    """
    Start a supervisor: ``up("name: command", PORT="1234")``. Ended with the test.

    Without a Procfile of its own it is the whole product, by `make up`, or in a *folder* without any Procfile. With
    *stale*, a heartbeat is so after as many seconds.
    """
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    started: list[Up] = []

    def start(
        procfile: str | None = None, *, stale: float | None = None, folder: Path = ROOT, **environment: str
    ) -> Up:
        command = [sys.executable, "-m", "tornado_celery_bridge", "up"]
        if stale is not None:
            command = [sys.executable, "-c", IMPATIENT.format(stale=stale)]
        if procfile:
            (tmp_path / "Procfile").write_text(procfile, "utf-8")
            folder = tmp_path
        elif (
            folder == ROOT and Path(sys.prefix) == ROOT / ".venv"
        ):  # else make would build it, or build it anew with another Python
            command = ["make", "up", f"PYTHON={sys.executable}"]
        started.append(Up(tmp_path, command, folder, **environment))
        return started[-1]

    yield start
    for one in started:
        one.close()
