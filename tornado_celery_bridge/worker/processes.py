"""The processes that a process has started, as Linux tells of them in ``/proc``; elsewhere none are found."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started, and that are there."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in text(file).split()]


def descendants(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, and those that these have, by their ids: since when each is."""
    found: dict[int, str] = {}
    for child in children(pid):
        found |= {child: _beginning(child), **descendants(child)}
    return found


def kill(processes: Mapping[int, str]) -> None:
    """Kill the processes that :func:`descendants` has found; not another one that has the id of one that has ended."""
    for pid, beginning in processes.items():
        if _beginning(pid) == beginning:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def text(file: Path) -> str:
    """Return what a file in ``/proc`` says; '' if there is none, as its process has just ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


def _beginning(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; '' if there is none."""
    fields = text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()  # what is before is its name
    return fields[19] if fields else ""
