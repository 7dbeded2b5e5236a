"""Housekeeping removes what is old, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from tasks.celery import app
from tasks.housekeeping import remove_old_files, scratch_dir

LONG_AGO = time.time() - 2 * 86_400


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def aged(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def test_removes_old_files_and_the_folders_that_they_leave_empty() -> None:
    old = aged(scratch_dir() / "run" / "part", "12345")
    os.utime(old.parent, (LONG_AGO, LONG_AGO))
    fresh = scratch_dir() / "fresh"
    fresh.write_text("")
    assert remove_old_files() == {"files": 1, "directories": 0, "bytes": 5}
    # The folder was written to just now, when its file went.
    os.utime(old.parent, (LONG_AGO, LONG_AGO))
    assert remove_old_files() == {"files": 0, "directories": 1, "bytes": 0}
    assert list(scratch_dir().iterdir()) == [fresh]


def test_removes_what_a_killed_server_left(data_dir: Path) -> None:
    aged(data_dir / "temp-123.rdb")
    aged(data_dir / "appendonlydir" / "temp-rewriteaof-bg-7.aof")
    kept = [
        aged(data_dir / "dump.rdb"),
        aged(data_dir / "appendonlydir" / "appendonly.aof.1.incr.aof"),
        aged(data_dir / "celerybeat-schedule"),
    ]
    assert remove_old_files()["files"] == 2
    assert all(path.exists() for path in kept)


def test_never_follows_a_link(tmp_path: Path) -> None:
    target = aged(tmp_path / "precious" / "file")
    (scratch_dir() / "link").symlink_to(target.parent)
    remove_old_files()
    assert target.exists()


def test_no_folder_is_no_work() -> None:
    assert remove_old_files() == {"files": 0, "directories": 0, "bytes": 0}


def test_is_on_beats_schedule_and_not_exposed() -> None:
    app.loader.import_default_modules()
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert remove_old_files.name in scheduled
    assert all(name in app.tasks for name in scheduled)
    assert not getattr(remove_old_files, "exposed", False)
