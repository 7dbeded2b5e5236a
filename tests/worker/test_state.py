"""A worker's file of state: what it knows of revoked tasks lives on from one start to the next."""

import dbm
import dbm.dumb
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.worker import state as worker_state
from celery.worker.state import Persistent

from tornado_celery_bridge.base.shelf import put_aside
from tornado_celery_bridge.worker.bootsteps import read_revoked


@pytest.fixture(autouse=True, params=["default", "dumb"])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps the file: this Python's, and the one that all have."""
    if request.param == "dumb":
        monkeypatch.setattr(dbm, "_defaultmod", dbm.dumb)
        monkeypatch.setitem(vars(dbm)["_modules"], "dbm.dumb", dbm.dumb)


@pytest.fixture(autouse=True)
def revoked() -> Iterator[None]:
    yield
    worker_state.revoked.clear()


def end_of_a_worker(path: Path) -> None:
    """Do as Celery does as a worker ends."""
    Persistent(worker_state, str(path)).save()


def test_what_a_worker_has_left_is_read_at_each_start(tmp_path: Path) -> None:
    worker_state.revoked.add("a")
    for _ in range(3):
        end_of_a_worker(tmp_path / "state")
        worker_state.revoked.clear()
        assert put_aside(tmp_path / "state", read_revoked) == ""
        assert "a" in worker_state.revoked


def test_what_can_not_be_read_is_put_aside_once(tmp_path: Path) -> None:
    end_of_a_worker(tmp_path / "state")
    with dbm.open(str(tmp_path / "state"), "w") as kept:
        kept[b"zrevoked"] = b"cno_such_module\nNoSuchClass\n."
    assert "can't be read" in put_aside(tmp_path / "state", read_revoked)
    gc.collect()  # what is left of reading writes nothing
    assert all(path.name.endswith(".unreadable") for path in tmp_path.iterdir())
    end_of_a_worker(tmp_path / "state")
    assert put_aside(tmp_path / "state", read_revoked) == ""
