"""The operations on schedules: make, read, list, change, pause, run. It knows neither requests nor responses."""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from celery.exceptions import QueueNotFound

from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.schedules import (
    Backfill,
    Beat,
    Entry,
    InvalidEntry,
    Run,
    RunRefused,
    ScheduleConflict,
    Scheduled,
    ScheduleEntryNotFound,
    SchedulePage,
    Schedules,
    TooManySchedules,
)
from tornado_celery_bridge.schedules.entry import OWNED, WAYS, YEAR
from tornado_celery_bridge.schedules.runs import check_entry
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.body import parse
from tornado_celery_bridge.service.http.conditions import Conditions
from tornado_celery_bridge.service.http.faults import Fault, escape
from tornado_celery_bridge.service.http.problems import (
    INVALID_SCHEDULE,
    TASK_SWITCHED_OFF,
    UNKNOWN_SCHEDULE,
    Kind,
    Problem,
)
from tornado_celery_bridge.service.http.query import MAX_PAGE
from tornado_celery_bridge.service.resources.catalogue import unknown_task
from tornado_celery_bridge.service.resources.jobs.service import Jobs, not_accepted, unpublishable
from tornado_celery_bridge.service.resources.schedules import documents
from tornado_celery_bridge.service.resources.schedules.fields import (
    NAME,
    Backfilling,
    NewSchedule,
    ScheduleFields,
    ScheduleFilters,
    merged,
    writable,
)

SCHEDULE_EXISTS = Kind("schedule-exists", 409, "The name is taken, by a schedule of yours.")
SCHEDULE_REVOKED = Kind("schedule-revoked", 409, "The schedule's owner has no key, any more, that may run it.")
TOO_MANY_SCHEDULES = Kind("too-many-schedules", 429, "The key's owner has as many schedules as they may.")
STATIC_SCHEDULE = Kind("static-schedule", 409, "The configuration has this schedule: change it there, or pause it.")
SCHEDULE_QUARANTINED = Kind("schedule-quarantined", 409, "What is stored by this name is malformed: PUT or DELETE it.")

_log = logging.getLogger(__name__)

#: The least interval of a schedule whose owner has a key, in seconds.
LEAST_INTERVAL = 1.0
#: How often a change is tried if somebody else changes the schedule at the same time.
ATTEMPTS = 5

#: What a name stands for: an entry, the reason why the entry cannot be used, or nothing.
_Found = Scheduled | InvalidEntry | None


class Listing(NamedTuple):
    """A page of a list, and what is told with it."""

    page: SchedulePage
    #: Entries that cannot be used, with the reasons.
    quarantined: dict[str, str]
    #: Who runs them.
    beat: Beat
    #: What another scheduler runs of the app's ``beat_schedule``.
    others: list[documents.OtherSchedule]


class Timetable:
    """
    The schedules of one Celery app, with the rules for who may see and change them.

    Its methods raise a :class:`Problem` for what the client is told: 404 for an unknown schedule and for another
    owner's, 409 for one that nobody can use or that is taken, 412 if *conditions* do not hold, 422 with a pointer for
    everything that does not fit. They raise LedgerUnavailable when the ledger does not answer. What they were to change
    may then have been changed.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._schedules = Schedules(jobs.ledger, jobs.bridge.app)

    # Reading.

    async def get(self, principal: Principal, name: str) -> Scheduled:
        """Return a schedule as it is now."""
        _, found = await self._look_up(principal, name)
        return _visible(principal, found)

    async def find(self, principal: Principal, filters: ScheduleFilters) -> Listing:
        """Return a page of the schedules that *principal* may see, in the order of their names."""
        owner = "" if principal.is_admin else principal.owner
        beat = await self._schedules.beat()
        of_admins = principal.is_admin and not filters.cursor
        quarantined = await self._schedules.quarantined() if of_admins else {}
        is_others = of_admins and not beat.is_ours and beat.leader is None
        others = await asyncio.to_thread(documents.of_settings, self._jobs.bridge.app) if is_others else []
        page = await self._schedules.find(
            owner=owner, fits=filters.fit, limit=filters.limit, cursor=filters.cursor, page_bytes=MAX_PAGE
        )
        return Listing(page, quarantined, beat, others)

    async def next_runs(self, principal: Principal, name: str, count: int) -> tuple[Entry, Sequence[datetime]]:
        """Return an entry, and when it is due next, without jitter."""
        found = await self.get(principal, name)
        return found.entry, await self._schedules.next_runs(found.entry.key, count)

    async def runs(self, principal: Principal, name: str) -> Sequence[Run]:
        """Return what happened to the last runs of a schedule, the latest first."""
        found = await self.get(principal, name)
        runs = await self._schedules.runs(found.entry.key, most_bytes=0)
        return [run if run.job is None or principal.may_see(run.job) else run._replace(job=None) for run in runs]

    # Changing.

    async def create(self, principal: Principal, body: dict[str, Any]) -> Scheduled:
        """Add a schedule."""
        entry = await asyncio.to_thread(self._entry, principal, body, principal.owner)
        try:
            return await self._create(principal, entry)
        except ScheduleConflict:
            raise _taken() from None
        except InvalidEntry as exc:
            raise _invalid(exc) from None

    async def put(
        self, principal: Principal, name: str, body: dict[str, Any], conditions: Conditions
    ) -> tuple[Scheduled, bool]:
        """Replace the schedule with this name, or add it. Return it, and whether it is new."""

        def as_sent(found: _Found) -> dict[str, Any]:
            if found is None and not re.fullmatch(NAME, _split(key)[1]):
                raise _misfit(Fault("/name", f"A name should fit {NAME}"))
            if not principal.is_admin and _split(key)[0] != principal.owner:
                raise _unknown()
            return body

        key = _key(principal, name)

        return await self._change(principal, name, conditions, as_sent)

    async def patch(self, principal: Principal, name: str, patch: dict[str, Any], conditions: Conditions) -> Scheduled:
        """Change a schedule by a JSON merge patch of the members that a client may write."""
        priorities = self._jobs.catalogue.priorities

        def patched(found: _Found) -> dict[str, Any]:
            shown = dict(documents.schedule(_visible(principal, found), self._jobs.links, priorities))
            del shown["name"]  # the name may be one that HTTP would not accept
            return cast("dict[str, Any]", merged(writable(shown), patch))

        changed, _ = await self._change(principal, name, conditions, patched)
        return changed

    async def delete(self, principal: Principal, name: str, conditions: Conditions) -> None:
        """Remove a schedule. Jobs that it has begun go on."""
        for attempt in range(1, ATTEMPTS + 1):
            key, found = await self._look_up(principal, name)
            if found is None or not _may_see(principal, found):
                raise _unknown()
            _check(found, conditions)
            try:
                return await self._schedules.delete(key, version=_version_of(found))
            except ScheduleConflict:
                if attempt == ATTEMPTS:
                    raise

    async def pause(self, principal: Principal, name: str, until: datetime | None) -> Scheduled:
        """Pause a schedule until a time, or, with None, until it is resumed."""
        found = await self.get(principal, name)
        return await self._schedules.pause(found.entry.key, until=until)

    async def resume(self, principal: Principal, name: str) -> Scheduled:
        """Let a schedule be due again that was paused or halted. 404 if *principal* may not run its task."""
        return await self._schedules.resume(await self._runnable(principal, name))

    async def run(self, principal: Principal, name: str) -> Job:
        """Run a schedule now, whatever its times say. Return the job. 404 if *principal* may not run its task."""
        key = await self._runnable(principal, name)
        try:
            job_id = await self._schedules.run(key)
        except QueueNotFound as exc:
            raise _unpublishable(name, exc) from exc
        except RunRefused as exc:
            raise _refused(exc) from None
        return await self._jobs.get(principal, job_id)

    async def backfill(self, principal: Principal, name: str, asked: Backfilling) -> Backfill:
        """
        Run a schedule once for each of its slots in a past period, or only return these slots.

        Raises:
            BackfillTooLarge: There are too many slots.
        """
        key = await self._runnable(principal, name)
        try:
            return await self._schedules.backfill(key, asked.since, asked.until, dry_run=asked.dry_run)
        except QueueNotFound as exc:
            raise _unpublishable(name, exc) from exc
        except RunRefused as exc:
            raise _refused(exc) from None

    # Internals.

    async def _look_up(self, principal: Principal, name: str) -> tuple[str, _Found]:
        """Return the key that a name stands for, and what it is: an admin also asks for those without an owner."""
        key = _key(principal, name)
        for each in (key, name) if principal.is_admin and key != name else (key,):
            try:
                return each, await self._schedules.get(each)
            except ScheduleEntryNotFound:
                continue
            except InvalidEntry as exc:
                return each, exc
        return key, None

    async def _runnable(self, principal: Principal, name: str) -> str:
        """
        Return the key of a schedule that *principal* may run.

        Its task must be exposed, unless it was not made over HTTP.
        """
        found = await self.get(principal, name)
        if not principal.may_run(found.entry.task):
            raise unknown_task()
        return found.entry.key

    async def _create(self, principal: Principal, entry: Entry) -> Scheduled:
        try:
            return await self._schedules.create(entry, most=principal.max_schedules)
        except TooManySchedules:
            detail = f"You have {principal.max_schedules} schedules, and may have no more: delete one first."
            raise TOO_MANY_SCHEDULES(detail) from None

    async def _change(
        self, principal: Principal, name: str, conditions: Conditions, body_for: Callable[[_Found], dict[str, Any]]
    ) -> tuple[Scheduled, bool]:
        """Store what *body_for* makes of the schedule, if that has not changed. Return it, and whether it is new."""
        for _ in range(ATTEMPTS):
            key, found = await self._look_up(principal, name)
            body = body_for(found)
            _check(found, conditions)
            entry = await asyncio.to_thread(self._entry, principal, body, *_split(key))
            try:
                if found is None:
                    return await self._create(principal, entry), True
                return await self._schedules.replace(entry, version=_version_of(found)), False
            except ScheduleConflict as exc:
                conflict = exc
            except InvalidEntry as exc:
                raise _invalid(exc) from None
        raise conflict

    def _entry(self, principal: Principal, body: dict[str, Any], owner: str, name: str | None = None) -> Entry:
        """Return the entry for a body, or say all that is wrong. It keeps the name of an existing entry. Blocks."""
        fields, found = _parsed(NewSchedule if name is None else ScheduleFields, writable(body))
        catalogue, faults = self._jobs.catalogue, [*found.faults] if found else []
        is_of_a_way = not {_member(fault) for fault in faults}.isdisjoint(WAYS)
        if name is not None and fields.name not in (None, name):
            faults.append(Fault("/name", "The path has another name."))
        if fields.options.queue is not None and fields.options.queue not in catalogue.queues:
            faults.append(Fault("/options/queue", "There is no queue of this name."))
        if principal.key_id and fields.interval is not None and fields.interval < LEAST_INTERVAL:
            faults.append(Fault("/interval", f"This should be {LEAST_INTERVAL:g} seconds or more."))
        try:
            self._check_input(principal, fields)
        except Problem as exc:
            found = found or exc
            faults += exc.faults
        given = {field: getattr(fields, field) for field in fields.model_fields_set}
        given |= {"name": name or fields.name or "-", "owner": owner}
        given["options"] = fields.options.for_celery(None, catalogue.priorities)
        given["solar"] = None if fields.solar is None else fields.solar.model_dump()
        if is_of_a_way and all(given.get(way) is None for way in WAYS):
            given["interval"] = YEAR  # for what was given instead, and is a fault already
        try:
            entry = Entry(**given)
            if not faults:
                check_entry(self._jobs.bridge.app, entry)
        except InvalidEntry as exc:
            faults += _faults_of(exc)
        if faults:
            raise found if found and faults == [*found.faults] else _misfit(*faults)
        return entry

    def _check_input(self, principal: Principal, fields: ScheduleFields) -> None:
        try:
            task = self._jobs.task(principal, fields.task)
        except Problem as exc:
            raise _misfit(Fault("/task", exc.detail)) from None
        arguments = task.arguments(fields.input)
        if isinstance(fields.input, dict) and arguments.args:
            raise _misfit(Fault("/input", "The task takes some of its parameters by position only: give a list."))


def _parsed(model: type[ScheduleFields], given: dict[str, Any]) -> tuple[ScheduleFields, Problem | None]:
    """
    Return what a body says, as far as it can be read, and the problem of the rest.

    Raises:
        Problem: Without a task there is nothing more to look at.
    """
    try:
        return parse(model, given, INVALID_SCHEDULE), None
    except Problem as exc:
        wrong = {_member(fault) for fault in exc.faults}
        good = {field: value for field, value in given.items() if escape(field) not in wrong}
        if "task" not in good:
            raise
        return parse(ScheduleFields, good, INVALID_SCHEDULE), exc


def _key(principal: Principal, name: str) -> str:
    """Return the key of the schedule that *principal* calls so: by its name if it is theirs, else by ``owner~name``."""
    return name if OWNED in name or not principal.owner else f"{principal.owner}{OWNED}{name}"


def _split(key: str) -> tuple[str, str]:
    """Return the owner, empty for none, and the name in a key."""
    owner, _, name = key.rpartition(OWNED)
    return owner, name


def _refused(exc: RunRefused) -> Problem:
    if exc.why == "full":
        return not_accepted("full", {})
    if exc.why == "off":
        return TASK_SWITCHED_OFF("The schedule's task is switched off.")
    return SCHEDULE_REVOKED("The schedule's owner has no key, any more, that may run it.")


def _may_see(principal: Principal, found: Scheduled | InvalidEntry) -> bool:
    """Return whether *principal* may see what a name stands for. The owner of an entry in quarantine is not known."""
    return principal.may_see(found.entry) if isinstance(found, Scheduled) else principal.is_admin


def _visible(principal: Principal, found: _Found) -> Scheduled:
    if found is None or not _may_see(principal, found):
        raise _unknown()
    if isinstance(found, InvalidEntry):
        raise SCHEDULE_QUARANTINED(f"Nobody can use what is stored by this name: {found}")
    return found


def _check(found: _Found, conditions: Conditions) -> None:
    """Check that what a name stands for may be replaced or removed."""
    if isinstance(found, Scheduled) and found.static:
        raise STATIC_SCHEDULE("The configuration has this schedule: change it there, or pause it.")
    conditions.check(None if found is None else found.version if isinstance(found, Scheduled) else "")


def _version_of(found: Scheduled | InvalidEntry) -> int | None:
    return found.version if isinstance(found, Scheduled) else None


def _unknown() -> Problem:
    return UNKNOWN_SCHEDULE("There is no schedule of this name.")


def _taken() -> Problem:
    return SCHEDULE_EXISTS("You have a schedule of this name already.")


def _member(fault: Fault) -> str:
    """Return the member of the body in which it is, as a pointer has it."""
    return fault.pointer.removeprefix("/").partition("/")[0]


def _misfit(*faults: Fault) -> Problem:
    return INVALID_SCHEDULE("The schedule does not fit.", faults=faults)


def _invalid(exc: InvalidEntry) -> Problem:
    return _misfit(*_faults_of(exc))


def _faults_of(exc: InvalidEntry) -> list[Fault]:
    return [Fault("" if field == "entry" else f"/{field.replace('.', '/')}", text) for field, text in exc.faults]


def _unpublishable(name: str, exc: Exception) -> Problem:
    _log.warning("schedule %s can't run: %r", name, exc)
    return unpublishable()
