"""The schedules, as an event loop uses them: to make, change, read and remove entries while beat runs."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import uuid
from datetime import datetime
from typing import Any, NamedTuple

from celery import Celery

from tornado_celery_bridge.exceptions import BridgeError
from tornado_celery_bridge.ledger import Job, Ledger
from tornado_celery_bridge.schedules import calls
from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry, from_ms, to_ms
from tornado_celery_bridge.schedules.policy import next_slot, slots_of
from tornado_celery_bridge.schedules.runs import KEPT_RUNS, NewRun, check_input, new_run, run_id, ttl_of

__all__ = (
    "Backfill",
    "BackfillTooLarge",
    "Run",
    "ScheduleConflict",
    "ScheduleEntryNotFound",
    "Scheduled",
    "Schedules",
    "Statistics",
)

#: Times that a change is tried anew when somebody else's came first.
ATTEMPTS = 5
#: Slots that one backfill may have, and of how many Redis accepts the runs in one step.
MAX_BACKFILL, BACKFILL_STEP = 1_000, 100


class ScheduleEntryNotFound(BridgeError):
    """
    There is no schedule entry of this name.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 404


class ScheduleConflict(BridgeError):
    """
    The entry is not as it was thought to be: it is there already, was changed since, or is the configuration's. Read
    it again before you try again.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 409


class BackfillTooLarge(BridgeError):
    """
    There are more than a thousand slots in this time: backfill a shorter one, and then the next.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 422


class Backfill(NamedTuple):
    """
    What a backfill begins, or would.

    .. versionadded:: 0.1.0
    """

    #: The slots that had no job, oldest first.
    slots: list[datetime]
    #: Their jobs, in the same order; none on a dry run.
    job_ids: list[str]


class Scheduled(NamedTuple):
    """
    A schedule entry as it is stored, and what it has come to.

    .. versionadded:: 0.1.0
    """

    entry: Entry
    #: Counted from 1, one for each change.
    version: int
    #: But for jitter; None for never.
    next_run: datetime | None = None
    #: How many it has had, but for those on demand.
    runs: int = 0
    #: How many in a row have failed of late.
    failures: int = 0
    #: The last run's job.
    last_job: str | None = None
    #: When that began; None if none has.
    last_run: datetime | None = None
    #: Why it is due no more, until it is resumed or replaced.
    halted: str = ""
    #: Whether the configuration has it.
    static: bool = False


class Run(NamedTuple):
    """
    What became of a run that was due.

    .. versionadded:: 0.1.0
    """

    #: When it was due, but for jitter; None for one on demand.
    slot: datetime | None
    #: When that was decided.
    at: datetime
    #: Its job's id; None for one that did not begin.
    job_id: str | None = None
    #: Why it did not: ``missed`` (from this slot on) or ``skipped`` (the last one was unfinished).
    why: str = ""
    #: Its job, while that is kept.
    job: Job | None = None


class Statistics(NamedTuple):
    """
    How the schedules fare. What is counted is counted since Redis was empty, by all beats together.

    .. versionadded:: 0.1.0
    """

    #: How many there are; of these, the configuration's, and those that nobody can use.
    entries: int
    static: int
    quarantined: int
    #: Which beat leads, as :meth:`Schedules.leader`; None while none does.
    leader: str | None
    #: How many beats have come to lead, one after another.
    leaders: int
    #: Seconds since when the first entry that is due has been: more than some mean that no beat leads, or keeps up.
    overdue: float
    #: Runs that were due, and began.
    runs: int
    #: How often runs were left out, one or several at a time, because they were missed, and because the last run was
    #: unfinished.
    missed: int
    skipped: int
    #: How often an entry was halted by its failures.
    paused: int
    #: Runs by how late they began, in seconds at most (jitter is no delay), each counted in all bounds that fit, as
    #: Prometheus has its histograms; the last is infinite. Without those that waited for the last run to end.
    lateness: dict[float, int]
    #: Seconds, over all of them.
    lateness_sum: float


class Schedules:
    """
    The schedule entries in a ledger's Redis, for one event loop. Never blocks it.

    Every call raises :exc:`LedgerUnavailable` if Redis does not answer in time; a change may have been made then.

    Args:
        ledger: Where they are, and the jobs that their runs are.
        app: The Celery app.

    .. versionadded:: 0.1.0
    """

    def __init__(self, ledger: Ledger, app: Celery) -> None:
        self._redis = ledger.redis
        self._jobs = ledger.jobs
        self._app = app

    async def create(self, entry: Entry) -> Scheduled:
        """
        Add an entry.

        Raises:
            ScheduleConflict: There is one of this name.
            InvalidEntry: It is never due.
        """
        return await self._put(entry, 0, must_be_due=True)

    async def replace(self, entry: Entry, *, version: int | None = None) -> Scheduled:
        """
        Put an entry in the place of the one of its name, or add it. It is due anew from now on; its runs are kept.

        Args:
            entry: The entry.
            version: The one that it has to have; None for any, or none.

        Raises:
            ScheduleConflict: It has another, or is the configuration's.
            InvalidEntry: It is never due.
        """
        return await self._put(entry, version, must_be_due=True)

    async def delete(self, name: str, *, version: int | None = None) -> None:
        """
        Remove an entry. Jobs that it has begun go on.

        Raises:
            ScheduleEntryNotFound: There is none.
            ScheduleConflict: As :meth:`replace`.
        """
        answer = await self._redis.run(calls.delete(name=name, version=version))
        if answer == 0:
            raise _not_found(name)
        _check(name, answer)

    async def get(self, name: str) -> Scheduled:
        """
        Return an entry.

        Raises:
            ScheduleEntryNotFound: There is none.
            InvalidEntry: There is one, which nobody can use.
        """
        [row] = await self._redis.run(calls.read_entries(names=[name]))
        if not row:
            raise _not_found(name)
        return await asyncio.to_thread(_scheduled, row)

    async def find(self, *, owner: str = "", after: str = "", limit: int = 50) -> list[Scheduled]:
        """
        Return entries in the order of their names, from the one after *after* on; none that nobody can use.

        Args:
            owner: Only theirs; empty for everybody's.
            after: A name; there need not be an entry that has it.
            limit: At most so many.
        """
        low: str | bytes = f"({after}" if after else "-"
        found: list[Scheduled] = []
        while len(found) < limit:
            key = f"{self._redis.prefix}schedules" + (owner and f":owner:{owner}")
            names = await self._redis.call("ZRANGEBYLEX", key, low, "+", "LIMIT", 0, limit - len(found))
            if not names:
                break
            rows = await self._redis.run(calls.read_entries(names=names))
            found += await asyncio.to_thread(_usable, rows)
            low = b"(" + names[-1]
        return found

    async def count(self) -> int:
        """Return how many entries there are."""
        return int(await self._redis.call("ZCARD", f"{self._redis.prefix}schedules"))

    async def pause(self, name: str, *, until: datetime | None = None) -> Scheduled:
        """
        Have an entry not be due until a time, or, with None, until it is resumed. What it would have run meanwhile was
        not missed.

        Raises:
            ScheduleEntryNotFound, InvalidEntry: As :meth:`get`.
        """
        return await self._change(name, enabled=until is not None, paused_until=until)

    async def resume(self, name: str) -> Scheduled:
        """Have an entry be due again that was paused, by somebody or by its failures; errors as :meth:`pause`."""
        return await self._change(name, enabled=True, paused_until=None)

    async def run(self, name: str) -> str:
        """
        Have an entry run now, whatever its schedule and its policies say; a worker publishes the job.

        Returns:
            The job's id.

        Raises:
            ScheduleEntryNotFound, InvalidEntry: As :meth:`get`; or its task does not take its input.
            QueueNotFound: Its queue is none of the app's.
        """
        entry, job_id = (await self.get(name)).entry, str(uuid.uuid4())
        check_input(self._app, entry)
        run = new_run(self._app, entry, job_id, slot=None, now=await self._now())
        call = calls.run_now(name=name, **run.row()._asdict(), kept=KEPT_RUNS, ttl=ttl_of(self._app))
        if not await self._redis.run(call):
            raise _not_found(name)
        return job_id

    async def backfill(self, name: str, since: datetime, until: datetime, *, dry_run: bool = False) -> Backfill:
        """
        Have an entry run once for each of its slots in a time that is past; workers publish the jobs, oldest first.

        A slot that has had its run does not run again, however often this is called: a job's id is made of the entry's
        name and the slot. That is known for as long as the ledger remembers the job: its time, and a week. (The history
        does not matter to it; as ever, its last hundred runs are shown.)

        All are begun together, whatever the entry's ``overlap`` says, and go at the pace of their queue. The entry
        itself does not notice: whether it is paused or halted, what it is due for next, ``max_runs`` and
        ``pause_after`` stay what they were, and no run that is due waits for one of these.

        If Redis goes away meanwhile, some may have begun: call it again.

        Args:
            name: The entry's.
            since: The first slot may be then. An interval has none before its ``anchor``, and nothing has before
                ``start``.
            until: The last slot is before then, and not in the future.
            dry_run: Only say which slots these are.

        Raises:
            BackfillTooLarge: There are more than 1,000 slots; those with a job are counted, too.
            ScheduleEntryNotFound, InvalidEntry, QueueNotFound: As :meth:`run`.
        """
        entry = (await self.get(name)).entry
        check_input(self._app, entry)
        now = await self._now()
        last = min(to_ms(until) - 1, now)
        runs = await asyncio.to_thread(_runs_of, self._app, entry, to_ms(since), last, now)
        begun: set[str] = set()
        for first in range(0, len(runs), BACKFILL_STEP):
            rows = [run.row() for _, run in runs[first : first + BACKFILL_STEP]]
            call = calls.backfill(name=name, kept=KEPT_RUNS, ttl=ttl_of(self._app), dry_run=dry_run, runs=rows)
            job_ids = await self._redis.run(call)
            if job_ids is None:
                raise _not_found(name)
            begun.update(job_ids)
        found = [(slot, run.job_id) for slot, run in runs if run.job_id in begun]
        return Backfill([slot for slot, _ in found], [] if dry_run else [job_id for _, job_id in found])

    async def next_runs(self, name: str, count: int = 10) -> list[datetime]:
        """Return when an entry is due next, but for jitter, in UTC; errors as :meth:`get`."""
        found = await self.get(name)
        now = from_ms(await self._now())
        return [] if found.halted else await asyncio.to_thread(found.entry.next_runs, now, count)

    async def runs(self, name: str, *, limit: int = KEPT_RUNS) -> list[Run]:
        """Return what became of the last runs of an entry, the latest first; of more than a hundred nothing is kept."""
        key = f"{self._redis.prefix}schedules:runs:{name}"
        notes = [json.loads(note) for note in await self._redis.call("LRANGE", key, 0, limit - 1)]
        ids = [note["job"] for note in notes if "job" in note]
        jobs = dict(zip(ids, await asyncio.gather(*map(self._jobs.get, ids)), strict=True))
        return [_run(note, jobs.get(note.get("job"))) for note in notes]

    async def quarantined(self) -> dict[str, str]:
        """Return the names of entries that nobody can use, and why; replacing or deleting one is what helps."""
        names = sorted(await self._redis.call("SMEMBERS", f"{self._redis.prefix}schedules:quarantined"))
        rows = await self._redis.run(calls.read_entries(names=names))
        return {
            name.decode(errors="replace"): (row[7] or b"not a hash").decode(errors="replace")
            for name, row in zip(names, rows, strict=True)
            if row
        }

    async def leader(self) -> str | None:
        """Return which beat leads, as host, process and a word of its own; None while none does."""
        leader = await self._redis.call("GET", f"{self._redis.prefix}schedules:leader")
        return _who(leader)

    async def statistics(self) -> Statistics:
        """Return what a monitor wants to know; costs Redis the same however many entries and runs there are."""
        answer = await self._redis.run(calls.statistics())
        entries, static, quarantined, leader, leaders, overdue, counted = answer
        found = {name.decode(): int(value) for name, value in zip(counted[::2], counted[1::2], strict=True)}
        late = itertools.accumulate(found.get(f"late:{bound}", 0) for bound in (*calls.LATE, ""))
        return Statistics(
            entries=entries,
            static=static,
            quarantined=quarantined,
            leader=_who(leader),
            leaders=int(leaders),
            overdue=overdue / 1000,
            runs=found.get("runs", 0),
            missed=found.get("missed", 0),
            skipped=found.get("skipped", 0),
            paused=found.get("paused", 0),
            lateness=dict(zip([*(bound / 1000 for bound in calls.LATE), math.inf], late, strict=True)),
            lateness_sum=found.get("late", 0) / 1000,
        )

    # How.

    async def _now(self) -> int:
        seconds, micros = await self._redis.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _put(
        self, entry: Entry, version: int | None, *, must_be_due: bool = False, may_be_static: bool = False
    ) -> Scheduled:
        now = await self._now()
        entry = entry.begun(now)
        slot = await asyncio.to_thread(next_slot, entry, now)
        if must_be_due and entry.enabled and slot is None:
            raise InvalidEntry("once" if entry.once else "end", "it is never due again")
        call = calls.put(
            name=entry.name,
            version=version,
            entry=entry.encode(),
            slot=slot,
            due=None if slot is None else entry.due(slot),
            may_be_static=may_be_static,
        )
        _check(entry.name, await self._redis.run(call))
        return await self.get(entry.name)

    async def _change(self, name: str, **fields: Any) -> Scheduled:
        for _ in range(ATTEMPTS):
            found = await self.get(name)
            try:
                changed = dataclasses.replace(found.entry, **fields)
                return await self._put(changed, found.version, may_be_static=True)
            except ScheduleConflict as exc:
                conflict = exc
        raise conflict


def _runs_of(app: Celery, entry: Entry, since: int, last: int, now: int) -> list[tuple[datetime, NewRun]]:
    """
    Return an entry's runs from one time to another, as if it were not paused.

    Raises:
        BackfillTooLarge: There are too many.
        QueueNotFound: Its queue is none of the app's.
    """
    entry = dataclasses.replace(entry, enabled=True, paused_until=None)
    slots = list(itertools.islice(slots_of(entry, since - 1, last), MAX_BACKFILL + 1))
    if len(slots) > MAX_BACKFILL:
        raise BackfillTooLarge(
            f"schedule entry {entry.name!r} has more than {MAX_BACKFILL:,} slots in this time; "
            f"the last of the first {MAX_BACKFILL:,} is {from_ms(slots[-2]).isoformat()}"
        )
    runs = [new_run(app, entry, run_id(entry.name, slot), slot=slot, now=now) for slot in slots]
    return list(zip(map(from_ms, slots), runs, strict=True))


def _scheduled(row: list[Any]) -> Scheduled:
    """
    Return what READ says of an entry.

    Raises:
        InvalidEntry: Nobody can use it.
    """
    stored, version, slot, runs, failures, last, halted, quarantined, static, last_at = row
    if quarantined:
        raise InvalidEntry("entry", quarantined.decode(errors="replace"))
    return Scheduled(
        entry=Entry.decode(stored),
        version=int(version or 0),
        next_run=from_ms(int(slot)) if slot else None,
        runs=int(runs or 0),
        failures=int(failures or 0),
        last_job=last.decode() or None,
        last_run=from_ms(int(last_at)) if last_at else None,
        halted=halted.decode(),
        static=bool(static),
    )


def _usable(rows: list[Any]) -> list[Scheduled]:
    found = []
    for row in rows:
        if row:
            with contextlib.suppress(InvalidEntry):  # beat sets aside what is not yet
                found.append(_scheduled(row))
    return found


def _run(note: dict[str, Any], job: Any) -> Run:
    return Run(
        slot=None if note["slot"] is None else from_ms(note["slot"]),
        at=from_ms(note["at"]),
        job_id=note.get("job"),
        why=note.get("why", ""),
        job=job if isinstance(job, Job) else None,
    )


def _who(leader: bytes | None) -> str | None:
    return leader.decode().partition(" ")[2] if leader else None


def _check(name: str, answer: int) -> None:
    if answer == -1:
        raise ScheduleConflict(f"schedule entry {name!r} has another version: read it again")
    if answer == -2:
        raise ScheduleConflict(f"schedule entry {name!r} is the configuration's: change it there, or pause it")


def _not_found(name: str) -> ScheduleEntryNotFound:
    return ScheduleEntryNotFound(f"there is no schedule entry {name!r}")
