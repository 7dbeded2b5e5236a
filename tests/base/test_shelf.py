"""Files of state that can't be read are put aside, and the others are left alone."""

import dbm.dumb
import shelve
from pathlib import Path

import pytest

from tornado_celery_bridge.base.shelf import put_aside, read_all


def test_what_can_be_read_stays(tmp_path: Path) -> None:
    assert put_aside(tmp_path / "state", read_all) == ""
    with shelve.open(str(tmp_path / "state")) as kept:
        kept["a"] = 1
    assert put_aside(tmp_path / "state", read_all) == ""
    with shelve.open(str(tmp_path / "state")) as kept:
        assert dict(kept) == {"a": 1}


def damaged(path: Path) -> None:
    path.write_bytes(b"\0nothing that a database writes\0" * 100)


def unpicklable(path: Path) -> None:
    """As a class that this Python does not have."""
    with dbm.dumb.open(str(path), "n") as database:
        database[b"a"] = b"cno_such_module\nNoSuchClass\n."


@pytest.mark.parametrize("write", [damaged, unpicklable])
def test_what_can_not_is_put_aside(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "state")
    before = {path.name for path in tmp_path.iterdir()}
    said = put_aside(tmp_path / "state", read_all)
    assert said.startswith(f"{tmp_path}/state can't be read (")
    assert said.endswith("it is put aside as state.unreadable, and an empty one is begun")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.unreadable" for name in before}
    read_all(str(tmp_path / "state"))
