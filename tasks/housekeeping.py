"""
Periodic chores; not for callers, so nothing here is exposed.

Why there is anything to remove: a worker's child that is killed (at its hard time limit, for want of memory)
leaves its temporary files behind, and so does the embedded server when it is killed while it saves.
Tasks put temporary files in ``DATA_DIR/tmp``: ``tempfile.TemporaryFile(dir=scratch_dir())``, or any use of
``tempfile`` at all where the worker runs with ``TMPDIR`` set to that folder.
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

__all__ = ("Removed", "remove_old_files", "scratch_dir")

#: Seconds. No task runs for longer than `task_time_limit` (600), so what is a day old belongs to nobody.
MAX_AGE = 86_400.0

_log = get_task_logger(__name__)


class Removed(TypedDict):
    """What was removed."""

    files: int
    directories: int
    bytes: int


def data_dir() -> Path:
    """Return the folder of everything that this deployment writes."""
    return Path(os.environ.get("DATA_DIR") or ".data").resolve()


def scratch_dir() -> Path:
    """Return the folder for tasks' temporary files, which is made if need be."""
    path = data_dir() / "tmp"
    path.mkdir(parents=True, exist_ok=True)
    return path


@app.task(ignore_result=True)
def remove_old_files() -> Removed:
    """Remove temporary files that are a day old: in ``DATA_DIR/tmp``, and what a killed server left."""
    removed = remove_older_than(data_dir(), time.time() - MAX_AGE)
    if removed["files"] or removed["directories"]:
        _log.info("removed %(files)d files (%(bytes)d bytes) and %(directories)d directories", removed)
    return removed


def remove_older_than(directory: Path, before: float) -> Removed:
    """Remove what was last written to *before*, a Unix time; what resists is left to the next run."""
    removed: Removed = {"files": 0, "directories": 0, "bytes": 0}
    for path in _candidates(directory):
        with suppress(OSError):
            status = path.lstat()
            if status.st_mtime >= before:
                continue
            if stat.S_ISDIR(status.st_mode):
                path.rmdir()  # fails when something is left in it
                removed["directories"] += 1
            else:
                path.unlink()
                removed["files"] += 1
                removed["bytes"] += status.st_size
    return removed


def _candidates(directory: Path) -> Iterator[Path]:
    """Yield temporary files and folders, contents before their folder; links are never followed."""
    for folder, subfolders, files in os.walk(directory / "tmp", topdown=False):
        yield from (Path(folder, name) for name in files)
        yield from (Path(folder, name) for name in subfolders)
    # Valkey writes snapshots and rewritten logs under these names and renames them when they are whole.
    for pattern in ("temp-*.rdb", "temp-*.aof", "appendonlydir/temp-*.aof"):
        yield from directory.glob(pattern)
