"""
Periodic chores. They are not for callers, so no task here is exposed.

A worker's child process that is killed (at its hard time limit, or because memory ran out) leaves its temporary files
behind. So does the embedded server if it is killed while it saves. Tasks put their temporary files into
``DATA_DIR/tmp``, with ``tempfile.TemporaryFile(dir=scratch_dir())``, or with any use of ``tempfile`` if the worker runs
with ``TMPDIR`` set to that folder.
"""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from celery.utils.log import get_task_logger
from typing_extensions import TypedDict

from tasks.celery import app

#: Seconds. No task runs longer than `task_time_limit` (600), so nobody uses files that are a day old.
MAX_AGE = 86_400.0

_log = get_task_logger(__name__)


class Removed(TypedDict):
    """How much was removed."""

    files: int
    directories: int
    bytes: int


def data_dir() -> Path:
    """Return the folder that this deployment writes all its files to."""
    return Path(os.environ.get("DATA_DIR") or ".data").resolve()


def scratch_dir() -> Path:
    """Return the folder for temporary files of tasks. It is made if it does not exist."""
    path = data_dir() / "tmp"
    path.mkdir(parents=True, exist_ok=True)
    return path


@app.task(ignore_result=True)
def remove_old_files() -> Removed:
    """Remove temporary files that are a day old: those in ``DATA_DIR/tmp``, and those that a killed server left."""
    removed = remove_older_than(data_dir(), time.time() - MAX_AGE)
    if removed["files"] or removed["directories"]:
        _log.info("removed %(files)d files (%(bytes)d bytes) and %(directories)d directories", removed)
    return removed


def remove_older_than(directory: Path, before: float) -> Removed:
    """Remove files last written before *before*, a Unix time. What cannot be removed now is left to the next run."""
    removed: Removed = {"files": 0, "directories": 0, "bytes": 0}
    for path in _candidates(directory):
        with suppress(OSError):
            status = path.lstat()
            if status.st_mtime >= before:
                continue
            if stat.S_ISDIR(status.st_mode):
                path.rmdir()  # fails if the folder is not empty
                removed["directories"] += 1
            else:
                path.unlink()
                removed["files"] += 1
                removed["bytes"] += status.st_size
    return removed


def _candidates(directory: Path) -> Iterator[Path]:
    """Yield temporary files and folders, the contents before their folder. Links are never followed."""
    for folder, subfolders, files in os.walk(directory / "tmp", topdown=False):
        yield from (Path(folder, name) for name in files)
        yield from (Path(folder, name) for name in subfolders)
    # Valkey writes snapshots and rewritten logs under these names, and renames them when they are complete.
    for pattern in ("temp-*.rdb", "temp-*.aof", "appendonlydir/temp-*.aof"):
        yield from directory.glob(pattern)
