"""The product, started by its supervisor."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.up.processes import ROOT, VARIABLES, Up

#: `tcb up` that runs any Procfile, and whose patience with a heartbeat may be another.
OTHER = """
import sys
from tornado_celery_bridge.cli.main import main
from tornado_celery_bridge.up import project, supervisor

project.is_ours = lambda text: True
supervisor.STALE = {stale} or supervisor.STALE
sys.exit(main(["up", *sys.argv[1:]]))
"""


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Up]]:
    """
    Start a supervisor: ``up("name: command", "--option", PORT="1234")``. Ended with the test.

    Without a Procfile of its own it is the whole product, by `make up`, or over the app in a *folder*. With
    *stale*, a heartbeat is so after as many seconds.
    """
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    started: list[Up] = []

    def start(
        procfile: str | None = None,
        *options: str,
        stale: float | None = None,
        folder: Path = ROOT,
        **environment: str,
    ) -> Up:
        command = [sys.executable, "-m", "tornado_celery_bridge", "up", *options]
        if procfile:
            command = [sys.executable, "-c", OTHER.format(stale=stale), *options]
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
