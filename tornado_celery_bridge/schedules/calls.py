"""
The schedules' commands, each declared once: see :mod:`tornado_celery_bridge.base.lua`, and ``lua/README.md``.

Theory of operation. :func:`due` returns what is due and changes nothing. The beat that called it then decides what to
do, and :func:`run` does that in one step: it accepts the runs as jobs and makes the entry due for its next slot.
:func:`run` refuses a beat that no longer leads (the lease has another number). It also refuses a decision about an
entry that has changed since (another version, or another slot is due). So whichever process dies at whichever moment,
each run is accepted once or is still due. The message of an accepted job is published by the first that can: the beat,
or a worker that finds it missing.

All times are the server's, in milliseconds since 1970.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tornado_celery_bridge.base.lua import commands
from tornado_celery_bridge.ledger.calls import LUA as LEDGER_LUA

__all__ = ("LATE", "DueRun", "PastRun", "StaticEntry")

#: Milliseconds. Runs are counted by how late they were at most: a few ordinarily, and up to 6,000 in a fail-over.
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
    """An entry of the configuration, for :func:`load`. An entry that has not changed has only its name."""

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
    """A run for a slot in the past, for :func:`backfill`."""

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
