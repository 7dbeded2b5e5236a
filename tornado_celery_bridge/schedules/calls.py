"""
The schedules' commands, each with what decodes its answer: see :mod:`tornado_celery_bridge.base.lua`.

Theory of operation. :func:`due` returns what is due and changes nothing. The beat that called it then decides what to
do, and :func:`run` does that in one step: it accepts the runs as jobs and makes the entry due for its next slot.
:func:`run` refuses a beat that no longer leads (the lease has another number). It also refuses a decision about an
entry that has changed since (another version, or another slot is due). So whichever process dies at whichever moment,
each run is accepted once or is still due. The message of an accepted job is published by the first that can: the beat,
or a worker that finds it missing.

All times are the server's, in milliseconds since 1970.
"""

from pathlib import Path
from typing import Any, NamedTuple

from tornado_celery_bridge.base.lua import Commands, as_it_is, nothing
from tornado_celery_bridge.ledger.calls import LUA as LEDGER_LUA
from tornado_celery_bridge.ledger.schema import GUARD

#: Milliseconds. Runs are counted by how late they were at most: a few ordinarily, and up to 6,000 in a fail-over.
LATE = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000)


class StaticEntry(NamedTuple):
    """A row of ``load``: an entry that the configuration has; only its name if it stays as it is."""

    name: str
    entry: str | bytes | None = None
    slot: int | None = None
    due: int | None = None


class PastRun(NamedTuple):
    """A row of ``backfill``: a run of a slot that is past."""

    job_id: str
    record: str
    input: str
    message: str
    its_note: str


class DueRun(NamedTuple):
    """A row of ``run``: a run that is due."""

    job_id: str
    record: str
    input: str
    message: str
    its_note: str
    since: int | None


class Owner(NamedTuple):
    """A row of ``tell_owners``: what an owner's API keys allow their entries."""

    owner: str
    #: When the last of the keys expires, in ms since 1970; None for never.
    ends: int | None
    #: Unfinished jobs that they may have; None for any number.
    most: int | None
    #: Of the tasks that they may run, with blanks between them.
    patterns: str


def _texts(found: list[bytes] | None) -> Any:
    return None if found is None else [text.decode() for text in found]


command = Commands(Path(__file__).parent / "lua", parts=[LEDGER_LUA], first=GUARD)

put = command("put", as_it_is, most=None)
delete = command("delete", as_it_is)
load = command("load", nothing)
read_entries = command("read_entries", as_it_is, page_bytes=None)
statistics = command("statistics", as_it_is)
lead = command("lead", int)
step_down = command("step_down", bool)
due = command("due", as_it_is)
run = command("run", _texts, bounds=",".join(map(str, LATE)))
halt = command("halt", bool)
quarantine = command("quarantine", bool)
run_now = command("run_now", as_it_is)
tell_owners = command("tell_owners", nothing)
backfill = command("backfill", _texts)
