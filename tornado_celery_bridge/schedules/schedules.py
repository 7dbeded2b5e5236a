"""The schedules for an event loop: it makes, changes, reads and removes entries while beat runs."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import time
import uuid
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Literal, NamedTuple

import celery.beat
from celery import Celery

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.exceptions import BridgeError
from tornado_celery_bridge.ledger import Job, Ledger
from tornado_celery_bridge.ledger.connection import ms
from tornado_celery_bridge.schedules import calls
from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry, from_ms, to_ms
from tornado_celery_bridge.schedules.policy import next_slot, slots_of
from tornado_celery_bridge.schedules.runs import KEPT_RUNS, check_entry, check_input, new_run, run_id

#: Our scheduler, as the setting names it.
OURS = "tornado_celery_bridge.schedules:Scheduler"
_OUR_NAMES = ("tornado_celery_bridge.schedules.Scheduler", "tornado_celery_bridge.schedules.scheduler.Scheduler")
#: How often a change is tried if somebody else changes the entry at the same time.
ATTEMPTS = 5
#: The most entries that a page of a list looks at, and how many it reads at a time.
LOOKS, STEP = 2_000, 50
#: Seconds for a request to find out when an entry is due: the sun at a pole takes 30 ms for each time.
PATIENCE = 0.5
#: The most slots of one backfill; and the number of runs that Redis accepts in one step, and their bytes, about.
MAX_BACKFILL, BACKFILL_STEP, STEP_BYTES = 1_000, 100, 1024 * 1024


class ScheduleEntryNotFound(BridgeError):
    """
    There is no schedule entry with this name.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 404


class ScheduleConflict(BridgeError):
    """
    The entry is not in the expected state: it exists already, was changed since you read it, or comes from the
    configuration. Read it again before you try again.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 409


class TooManySchedules(BridgeError):
    """
    The owner has as many schedule entries as they may. Delete one before you add another.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 429


class RunRefused(BridgeError):
    """
    A run of a schedule entry may not begin now: ``why`` says the reason.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 429

    def __init__(self, key: str, why: Literal["full", "revoked", "off"]) -> None:
        told = {
            "full": "its owner has as many unfinished jobs, or runs of schedules, as they may",
            "revoked": "its owner has no API key that may run it",
            "off": "its task is switched off",
        }
        super().__init__(f"schedule entry {key!r} does not run: {told[why]}")
        #: ``full``: wait until jobs of the owner's have ended. ``revoked``: they need a key that may run it. ``off``:
        #: the task is switched off.
        self.why = why


class BackfillTooLarge(BridgeError):
    """
    There are more than a thousand slots in this period, or it takes more than half a second of CPU time to find them.
    Backfill shorter periods, one after the other.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 422


class Backfill(NamedTuple):
    """
    The runs that a backfill begins, or would begin.

    .. versionadded:: 0.1.0
    """

    #: The slots that had no job, the oldest first.
    slots: list[datetime]
    #: The ids of their jobs, in the same order; empty after a dry run.
    job_ids: list[str]


class Scheduled(NamedTuple):
    """
    A schedule entry as it is stored, and what has happened to it so far.

    .. versionadded:: 0.1.0
    """

    entry: Entry
    #: It rises with each change. Of one name no version comes twice, not even after the entry was deleted.
    version: int
    #: The next run, without jitter; None if the entry is never due again.
    next_run: datetime | None = None
    #: How many runs it has had, without those on demand.
    runs: int = 0
    #: How many of its latest jobs have failed in a row.
    failures: int = 0
    #: The id of the last run's job.
    last_job: str | None = None
    #: When the last run began; None if there was none.
    last_run: datetime | None = None
    #: Why the entry is halted; empty if it is not. Resuming or replacing it ends this.
    halted: str = ""
    #: Whether the entry comes from the configuration.
    static: bool = False


class SchedulePage(NamedTuple):
    """
    A part of a list of schedule entries, in the order of their names.

    .. versionadded:: 0.1.0
    """

    schedules: list[Scheduled]
    #: The cursor of the next page; None at the end.
    cursor: str | None


class Run(NamedTuple):
    """
    What happened to a run that was due.

    .. versionadded:: 0.1.0
    """

    #: When it was due, without jitter; None for a run on demand.
    slot: datetime | None
    #: When beat decided about it.
    at: datetime
    #: The id of its job; None if the run did not begin.
    job_id: str | None = None
    #: Why it did not begin: ``missed`` (from this slot on), ``skipped`` (the last run was unfinished), ``full`` (its
    #: owner had as many unfinished jobs, or runs, as they may), ``revoked`` (its owner had no API key that may) or
    #: ``off`` (its task was switched off).
    why: str = ""
    #: Its job, as long as the job is kept.
    job: Job | None = None


class Beat(NamedTuple):
    """
    Who runs the schedules of an app.

    .. versionadded:: 0.1.0
    """

    #: The class of beat's scheduler, as the app's setting ``beat_scheduler`` names it, or Celery's own.
    scheduler: str
    #: Whether it is :class:`Scheduler`. A beat may have been started with another one, by ``-S``.
    is_ours: bool
    #: The beat that leads, as in :meth:`Schedules.leader`; None while no beat of ours leads.
    leader: str | None

    @property
    def hint(self) -> str:
        """What to know if the entries here are not run; empty if they are."""
        if self.leader is not None:
            return ""
        if self.is_ours:
            return "No beat leads: nothing is run. To start one: tcb beat"
        return (
            f"The app's beat has the scheduler {self.scheduler}, which does not run these schedules. To have them run, "
            f"set beat_scheduler to {OURS!r}, or start beat with -S {OURS}"
        )


class Statistics(NamedTuple):
    """
    Numbers about all schedules. The counters count from when Redis was empty, for all beats together.

    .. versionadded:: 0.1.0
    """

    #: The number of entries, of those from the configuration, and of those that cannot be used.
    entries: int
    static: int
    quarantined: int
    #: The beat that leads, as in :meth:`Schedules.leader`; None while no beat leads.
    leader: str | None
    #: How often a beat became the leader.
    leaders: int
    #: How many seconds the first due entry has been due. If it is more than a few, no beat leads, or it is too slow.
    overdue: float
    #: How many due runs began.
    runs: int
    #: How often runs were left out because they were missed, or because the last run was unfinished. One count may
    #: stand for several runs.
    missed: int
    skipped: int
    #: How often an entry was halted because of its failures.
    paused: int
    #: The number of runs by how many seconds late they began, without jitter. A run counts in every bound that it does
    #: not exceed, as in Prometheus's histograms, and the last bound is infinite. Runs that waited for the last run to
    #: end do not count.
    lateness: dict[float, int]
    #: The sum of these delays in seconds.
    lateness_sum: float


class Schedules:
    """
    The schedule entries in a ledger's Redis, for one event loop. It never blocks the loop.

    Every call raises :exc:`LedgerUnavailable` if Redis does not answer in time. A change may have been made in that
    case.

    Args:
        ledger: The ledger that holds the entries and the jobs of their runs.
        app: The Celery app.

    .. versionadded:: 0.1.0
    """

    def __init__(self, ledger: Ledger, app: Celery) -> None:
        self._redis = ledger.redis
        self._jobs = ledger.jobs
        self._app = app

    async def create(self, entry: Entry, *, most: int | None = None) -> Scheduled:
        """
        Add an entry.

        Args:
            entry: The entry. Its name is its owner's: another owner may have an entry of the same name.
            most: How many entries its owner may have, with this one; None for any number.

        Raises:
            ScheduleConflict: Its owner has an entry with this name.
            TooManySchedules: Its owner has as many entries as they may.
            InvalidEntry: The entry is never due, or its runs could not be made: the task does not take its input, the
                app does not have its queue.
        """
        await asyncio.to_thread(check_entry, self._app, entry)
        return await self._put(entry, 0, must_be_due=True, most=most)

    async def replace(self, entry: Entry, *, version: int | None = None) -> Scheduled:
        """
        Replace the entry with the same name, or add this one. It is due anew from now on, and the old runs are kept.

        Args:
            entry: The entry.
            version: The version that the stored entry must have; None: any version, or no entry at all.

        Raises:
            ScheduleConflict: It has another version, or comes from the configuration.
            InvalidEntry: As in :meth:`create`.
        """
        await asyncio.to_thread(check_entry, self._app, entry)
        return await self._put(entry, version, must_be_due=True)

    async def delete(self, name: str, *, version: int | None = None) -> None:
        """
        Remove an entry. Jobs that it has begun go on.

        Raises:
            ScheduleEntryNotFound: There is no such entry.
            ScheduleConflict: As in :meth:`replace`.
        """
        answer = await self._redis.run(calls.delete(name=name, version=version))
        if answer == 0:
            raise _not_found(name)
        _check(name, answer)

    async def get(self, name: str) -> Scheduled:
        """
        Return an entry.

        Args:
            name: As in all methods here, the entry's :attr:`Entry.key`: its name, or ``owner~name``.

        Raises:
            ScheduleEntryNotFound: There is no such entry.
            InvalidEntry: The entry is in quarantine, because it cannot be used.
        """
        [row] = await self._redis.run(calls.read_entries(rows=[name]))
        if not row:
            raise _not_found(name)
        return await asyncio.to_thread(_scheduled, row)

    async def find(
        self,
        *,
        owner: str = "",
        fits: Callable[[Entry], bool] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        page_bytes: int | None = None,
    ) -> SchedulePage:
        """
        Return entries in the order of their names. Entries in quarantine are left out.

        A page may have fewer than *limit*, even none, and still not be the last.

        Args:
            owner: Return only the entries of this owner; empty: of all owners.
            fits: Return only the entries for which this returns true.
            limit: At most so many entries.
            cursor: The cursor of the page before. It is a name, and no entry needs to have it.
            page_bytes: The page ends with the entry that makes it larger. None: it may be of any size.
        """
        key = f"{self._redis.prefix}schedules" + (owner and f":owner:{owner}")
        found: list[Scheduled] = []
        looked, low = 0, f"({cursor}".encode() if cursor else b"-"
        while looked < LOOKS and (page_bytes is None or page_bytes >= 0):
            names = await self._redis.call("ZRANGEBYLEX", key, low, "+", "LIMIT", 0, STEP)
            if not names:
                return SchedulePage(found, None)
            rows = await self._redis.run(calls.read_entries(page_bytes=page_bytes, rows=names))
            for each in await asyncio.to_thread(_usable, rows):
                if fits is None or fits(each.entry):
                    if len(found) == limit:
                        return SchedulePage(found, found[-1].entry.key)
                    found.append(each)
            if len(rows) == len(names) < STEP:
                return SchedulePage(found, None)
            looked, low = looked + len(rows), b"(" + names[len(rows) - 1]
            if page_bytes is not None:
                page_bytes -= sum(len(row[0]) for row in rows if row)
        return SchedulePage(found, low[1:].decode(errors="replace"))

    async def tell_owners(self, owners: Collection[calls.Owner] | None) -> None:
        """
        Tell beat whose entries may run, now and until this is told anew.

        Args:
            owners: Each owner who has a key that may have schedules; None: there are no keys, and all may run.
        """
        await self._redis.run(calls.tell_owners(has_keys=owners is not None, rows=owners or ()))

    async def count(self) -> int:
        """Return how many entries there are."""
        return int(await self._redis.call("ZCARD", f"{self._redis.prefix}schedules"))

    async def pause(self, name: str, *, until: datetime | None = None) -> Scheduled:
        """
        Pause an entry until a time, or, with None, until it is resumed. Runs in that time do not count as missed.

        Raises:
            ScheduleEntryNotFound, InvalidEntry: As in :meth:`get`.
        """
        return await self._change(name, enabled=until is not None, paused_until=until)

    async def resume(self, name: str) -> Scheduled:
        """Let an entry be due again that was paused or halted. Raises as :meth:`pause` does."""
        return await self._change(name, enabled=True, paused_until=None)

    async def run(self, name: str) -> str:
        """
        Run an entry now, whatever its schedule and its policies say. A worker publishes the job.

        Returns:
            The id of the job.

        Raises:
            ScheduleEntryNotFound, InvalidEntry: As in :meth:`get`, or the task does not take the entry's input.
            QueueNotFound: The app does not have the entry's queue.
            RunRefused: The entry's owner may not begin another run now.
        """
        entry, job_id = (await self.get(name)).entry, str(uuid.uuid4())
        check_input(self._app, entry)
        run = new_run(self._app, entry, job_id, slot=None, now=await self._now())
        call = calls.run_now(name=name, **run.row()._asdict(), kept=KEPT_RUNS, ttl=ms(self._jobs.ttl))
        answer = (await self._redis.run(call)).decode()
        if answer == "unknown":
            raise _not_found(name)
        if answer != "accepted":
            raise RunRefused(name, answer)
        return job_id

    async def backfill(self, name: str, since: datetime, until: datetime, *, dry_run: bool = False) -> Backfill:
        """
        Run an entry once for each of its slots in a past period. Workers publish the jobs, the oldest first.

        A slot that has had a run does not run again, however often this is called, because the id of a job is made from
        the entry's name and the slot. The ledger remembers the id until the job expires, and a week more. (The history
        plays no part in this. It shows the last hundred runs, as always.)

        All runs begin together, whatever the entry's ``overlap`` says, and their queue sets the pace. The entry itself
        does not change: whether it is paused or halted, its next slot, ``max_runs`` and ``pause_after`` stay the same.
        No due run waits for a run of the backfill.

        If Redis goes away meanwhile, some runs may have begun: call this again. If the entry's owner may not begin so
        many, the first that they may begin have begun, and are returned.

        Args:
            name: The name of the entry.
            since: The earliest time of the first slot. An interval has no slots before its ``anchor``, and no entry has
                slots before ``start``.
            until: The last slot is before this time, and not in the future.
            dry_run: Only return the slots.

        Raises:
            BackfillTooLarge: There are more than 1,000 slots, including those that have a job.
            ScheduleEntryNotFound, InvalidEntry, QueueNotFound: As in :meth:`run`.
            RunRefused: As in :meth:`run`; none has begun.
        """
        entry = (await self.get(name)).entry
        check_input(self._app, entry)
        now = await self._now()
        last = min(to_ms(until) - 1, now)
        slots = await asyncio.to_thread(_slots_of, entry, to_ms(since), last)
        if dry_run:  # it needs the ids alone
            entry = dataclasses.replace(entry, input={})
        size = len(encoding.dumps(entry.input))  # a run has it twice: in its record and in its message
        step = max(1, min(BACKFILL_STEP, STEP_BYTES // (2 * size)))
        begun: set[str] = set()
        for first in range(0, len(slots), step):
            rows = await asyncio.to_thread(_rows, self._app, entry, slots[first : first + step], now)
            call = calls.backfill(name=name, kept=KEPT_RUNS, ttl=ms(self._jobs.ttl), dry_run=dry_run, rows=rows)
            answer = await self._redis.run(call)
            if answer is None:
                raise _not_found(name)
            refused, *job_ids = answer
            begun.update(job_ids)
            if refused and not begun:
                raise RunRefused(name, refused)
            if refused:
                break
        ids = {slot: run_id(entry.key, slot) for slot in slots}
        found = [slot for slot in slots if ids[slot] in begun]
        return Backfill([from_ms(slot) for slot in found], [] if dry_run else [ids[slot] for slot in found])

    async def next_runs(self, name: str, count: int = 10) -> list[datetime]:
        """
        Return the next times at which an entry is due, without jitter, in UTC. Raises as :meth:`get` does.

        There are fewer than *count* if the entry ends, or if they take more than half a second of CPU time to find.
        """
        found = await self.get(name)
        now = await self._now()
        return [] if found.halted else await asyncio.to_thread(_next_runs, found.entry, now, count)

    async def runs(self, name: str, *, limit: int = KEPT_RUNS, most_bytes: int | None = None) -> list[Run]:
        """
        Return what happened to the last runs of an entry, the latest first. The last hundred are kept.

        Args:
            name: The name of the entry.
            limit: At most so many runs.
            most_bytes: Of their jobs, larger results, errors and progress are left out, as by ``ledger.jobs.find``.
        """
        key = f"{self._redis.prefix}schedules:runs:{name}"
        notes = [json.loads(note) for note in await self._redis.call("LRANGE", key, 0, limit - 1)]
        ids = [note["job"] for note in notes if "job" in note]
        found = await asyncio.gather(*(self._jobs.get(job_id, most_bytes=most_bytes) for job_id in ids))
        jobs = dict(zip(ids, found, strict=True))
        return [_run(note, jobs.get(note.get("job"))) for note in notes]

    async def quarantined(self) -> dict[str, str]:
        """Return the names of entries that cannot be used, and why. Replace or delete such an entry."""
        names = sorted(await self._redis.call("SMEMBERS", f"{self._redis.prefix}schedules:quarantined"))
        rows = await self._redis.run(calls.read_entries(rows=names))
        return {
            name.decode(errors="replace"): (row[7] or b"not a hash").decode(errors="replace")
            for name, row in zip(names, rows, strict=True)
            if row
        }

    async def leader(self) -> str | None:
        """Return the beat that leads, as host, process id and a word of its own; None while no beat leads."""
        leader = await self._redis.call("GET", f"{self._redis.prefix}schedules:leader")
        return _who(leader)

    async def beat(self) -> Beat:
        """Return who runs the app's schedules: its beat may have the scheduler of Celery or of Django."""
        return beat_of(self._app, await self.leader())

    async def statistics(self) -> Statistics:
        """Return numbers for monitoring. The cost is the same however many entries and runs there are."""
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

    # Internals.

    async def _now(self) -> int:
        seconds, micros = await self._redis.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _put(
        self,
        entry: Entry,
        version: int | None,
        *,
        must_be_due: bool = False,
        may_be_static: bool = False,
        most: int | None = None,
    ) -> Scheduled:
        now = await self._now()
        entry = entry.begun(now)
        slot = await asyncio.to_thread(next_slot, entry, now)
        if must_be_due and entry.enabled and slot is None:
            raise InvalidEntry("once" if entry.once else "end", "it is never due again")
        call = calls.put(
            name=entry.key,
            version=version,
            entry=entry.encode(),
            slot=slot,
            due=None if slot is None else entry.due(slot),
            may_be_static=may_be_static,
            most=most,
        )
        _check(entry.key, await self._redis.run(call))
        return await self.get(entry.key)

    async def _change(self, name: str, **fields: Any) -> Scheduled:
        for _ in range(ATTEMPTS):
            found = await self.get(name)
            try:
                changed = dataclasses.replace(found.entry, **fields)
                return await self._put(changed, found.version, may_be_static=True)
            except ScheduleConflict as exc:
                conflict = exc
        raise conflict


def beat_of(app: Celery, leader: str | None) -> Beat:
    """Return who runs an app's schedules, by its settings and the beat of ours that leads."""
    given = app.conf.beat_scheduler or celery.beat.Service.scheduler_cls
    named = given if isinstance(given, str) else f"{given.__module__}:{given.__qualname__}"
    return Beat(named, named.replace(":", ".") in _OUR_NAMES, leader)


def _slots_of(entry: Entry, since: int, last: int) -> list[int]:
    """
    Return an entry's slots from one time to another, as if it were not paused.

    Raises:
        BackfillTooLarge: There are too many, or it takes too long to find them.
    """
    entry = dataclasses.replace(entry, enabled=True, paused_until=None)
    slots, until = list[int](), time.thread_time() + PATIENCE
    for slot in slots_of(entry, since - 1, last):
        if slots and (len(slots) == MAX_BACKFILL or time.thread_time() > until):
            raise BackfillTooLarge(
                f"schedule entry {entry.key!r} has more than {len(slots):,} slots in this time; "
                f"the last of the first {len(slots):,} is {from_ms(slots[-1]).isoformat()}"
            )
        slots.append(slot)
    return slots


def _next_runs(entry: Entry, now: int, count: int) -> list[datetime]:
    """Return the next times at which an entry is due: as many as are found in time, and one, if there is one."""
    found, until = entry.next_runs(from_ms(now), min(count, 1)), time.thread_time() + PATIENCE
    while found and len(found) < count and time.thread_time() < until:
        following = entry.next_runs(found[-1], 1)
        if not following:
            break
        found += following
    return found


def _rows(app: Celery, entry: Entry, slots: list[int], now: int) -> list[calls.PastRun]:
    """
    Return the runs of some slots as the commands take them.

    Raises:
        QueueNotFound: The app does not have the entry's queue.
    """
    return [new_run(app, entry, run_id(entry.key, slot), slot=slot, now=now).row() for slot in slots]


def _scheduled(row: list[Any]) -> Scheduled:
    """
    Return an entry from a row of :func:`.calls.read_entries`.

    Raises:
        InvalidEntry: The entry cannot be used.
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
            with contextlib.suppress(InvalidEntry):  # beat will put it into quarantine
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
    if answer == -3:
        raise TooManySchedules(f"the owner of schedule entry {name!r} has as many as they may: delete one first")
    if answer == -1:
        raise ScheduleConflict(f"schedule entry {name!r} has another version: read it again")
    if answer == -2:
        raise ScheduleConflict(f"schedule entry {name!r} is the configuration's: change it there, or pause it")


def _not_found(name: str) -> ScheduleEntryNotFound:
    return ScheduleEntryNotFound(f"there is no schedule entry {name!r}")
