"""
The schedules' commands, each declared once: see :mod:`tornado_celery_bridge.base.lua`, and ``lua/README.md``.

Theory of operation. :func:`due` says what is due and changes nothing; what is to be done is worked out by who asked;
:func:`run` does it in one step: the runs are accepted as jobs, and the entry is due for the next. It is refused to a
beat that does not lead any more (the lease has another number), and to one that worked it out from what is not so any
more (the entry has another version, or is due for another run). So whoever dies, and wherever, each run is accepted
once or is still due. The message of an accepted job is published by whoever comes first: its beat, or a worker that
finds it lost.

All times are the server's, in milliseconds since 1970.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tornado_celery_bridge.base.lua import commands
from tornado_celery_bridge.ledger.calls import LUA as LEDGER_LUA

__all__ = ("LATE", "DueRun", "PastRun", "StaticEntry")

#: Milliseconds: runs are counted by how late they were at most. That is a few ordinarily, and 6,000 in a fail-over.
LATE = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000)

_BOUNDS = ",".join(map(str, LATE))

command = commands(Path(__file__).parent / "lua", parts=[LEDGER_LUA])


# Entries.


@command("schedule:{name}", "schedules", "schedules:due")
def put(
    answer: int,
    *,
    name: str,
    version: int | None,
    entry: str | bytes,
    slot: int | None,
    due: int | None,
    may_be_static: bool,
) -> int:
    return answer


@command("schedule:{name}", "schedules", "schedules:due")
def delete(answer: int, *, name: str, version: int | None) -> int:
    return answer


class StaticEntry(NamedTuple):
    """An entry that the configuration has, for :func:`load`; only its name if it stays as it is."""

    name: str
    entry: str | bytes | None = None
    slot: int | None = None
    due: int | None = None


@command("schedules", "schedules:due", "schedules:static")
def load(answer: None, *, entries: Sequence[StaticEntry]) -> None:
    return None


@command("schedules", "schedules:static")
def read_entries(answer: list[list[Any]], *, names: Sequence[str | bytes]) -> list[list[Any]]:
    return answer


@command("schedules", "schedules:statistics")
def statistics(answer: list[Any]) -> list[Any]:
    return answer


# The lead.


@command("schedules:leader", "schedules:fence")
def lead(answer: int, *, me: str, lease: int, fence: int) -> int:
    return answer


@command("schedules:leader")
def step_down(answer: int, *, leader: str) -> bool:
    return bool(answer)


# What is due.


@command("schedules:leader", "schedules:due", "schedules:static")
def due(answer: list[Any] | None, *, leader: str, most: int) -> list[Any] | None:
    return answer


class PastRun(NamedTuple):
    """A run of a slot that is past, for :func:`backfill`."""

    job_id: str
    record: str
    input: str
    message: str
    its_note: str


class DueRun(NamedTuple):
    """A run that is due, for :func:`run`."""

    job_id: str
    record: str
    input: str
    message: str
    its_note: str
    since: int | None


@command("schedule:{name}", "schedules:leader", "schedules:due", "schedules:runs:{name}", "schedules:statistics")
def run(
    answer: list[bytes],
    *,
    name: str,
    leader: str,
    version: str,
    slot: int,
    next_slot: int | None,
    due: int | None,
    failures: int,
    held: bool,
    note_beside: str,
    kept: int,
    to_cancel: str,
    grace: int,
    ttl: int,
    counted: str,
    bounds: str = _BOUNDS,
    runs: Sequence[DueRun],
) -> list[str]:
    return [text.decode() for text in answer]


@command("schedule:{name}", "schedules:leader", "schedules:due")
def halt(answer: int, *, name: str, leader: str, version: str, why: str) -> bool:
    return bool(answer)


@command("schedule:{name}", "schedules:leader", "schedules:due", "schedules:quarantined")
def quarantine(answer: int, *, name: str | bytes, leader: str, why: str) -> bool:
    return bool(answer)


# Runs on demand.


@command("schedule:{name}", "schedules:runs:{name}")
def run_now(
    answer: int,
    *,
    name: str,
    job_id: str,
    record: str,
    input: str,
    message: str,
    its_note: str,
    kept: int,
    ttl: int,
) -> bool:
    return bool(answer)


@command("schedule:{name}", "schedules:runs:{name}")
def backfill(
    answer: list[bytes] | None, *, name: str, kept: int, ttl: int, dry_run: bool, runs: Sequence[PastRun]
) -> list[str] | None:
    return None if answer is None else [job_id.decode() for job_id in answer]
