"""What can be done with schedules: make, read, list, change, pause, run. Knows no request and no response."""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from celery.exceptions import QueueNotFound

from tornado_celery_bridge.ledger import MAX_INLINE, Job, dumps
from tornado_celery_bridge.schedules import (
    Backfill,
    Entry,
    InvalidEntry,
    Run,
    ScheduleConflict,
    Scheduled,
    ScheduleEntryNotFound,
    Schedules,
)
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.body import parse
from tornado_celery_bridge.service.http.conditions import Conditions
from tornado_celery_bridge.service.http.faults import Fault
from tornado_celery_bridge.service.http.problems import INVALID_SCHEDULE, UNKNOWN_SCHEDULE, Kind, Problem
from tornado_celery_bridge.service.resources.jobs.service import Jobs, unpublishable
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
from tornado_celery_bridge.service.resources.tasks.problems import unknown_task

__all__ = ("SCHEDULE_EXISTS", "SCHEDULE_QUARANTINED", "STATIC_SCHEDULE", "Listing", "Timetable", "etag_of")

SCHEDULE_EXISTS = Kind("schedule-exists", 409, "The name is taken: by a schedule of yours, or somebody else's.")
STATIC_SCHEDULE = Kind("static-schedule", 409, "The configuration has this schedule: change it there, or pause it.")
SCHEDULE_QUARANTINED = Kind("schedule-quarantined", 409, "What is stored by this name is malformed: PUT or DELETE it.")

_log = logging.getLogger(__name__)

#: Entries that a page of a list looks at, and that it reads at a time.
LOOKS, STEP = 2_000, 200
#: Times that a change is tried anew when somebody else's came first.
ATTEMPTS = 5

#: What has a name: an entry, why nobody can use it, or nothing.
_Found = Scheduled | InvalidEntry | None


class Listing(NamedTuple):
    """A page of a list."""

    schedules: list[Scheduled]
    #: Where the next page begins; None at the end.
    cursor: str | None
    #: Entries that nobody can use, and why.
    quarantined: dict[str, str]


class Timetable:
    """
    The schedules of one Celery app, as principals may see and change them.

    Args:
        jobs: What their runs are.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._schedules = Schedules(jobs.ledger, jobs.bridge.app)

    # Reading.

    async def get(self, principal: Principal, name: str) -> Scheduled:
        """
        Return a schedule as it is now.

        Raises:
            Problem: 404, there is none of this name, or another's; 409, nobody can use it.
            LedgerUnavailable: Not known now.
        """
        return _visible(principal, await self._look_up(name))

    async def find(self, principal: Principal, filters: ScheduleFilters) -> Listing:
        """Return a page of the schedules that *principal* may see, in the order of their names."""
        owner, after = "" if principal.is_admin else principal.owner, filters.cursor or ""
        quarantined = await self._schedules.quarantined() if principal.is_admin and not after else {}
        shown: list[Scheduled] = []
        for _ in range(LOOKS // STEP):
            page = await self._schedules.find(owner=owner, after=after, limit=STEP)
            for each in page:
                if filters.fit(each.entry):
                    if len(shown) == filters.limit:
                        return Listing(shown, shown[-1].entry.name, quarantined)
                    shown.append(each)
            if len(page) < STEP:
                return Listing(shown, None, quarantined)
            after = page[-1].entry.name
        return Listing(shown, after, quarantined)

    async def next_runs(self, principal: Principal, name: str, count: int) -> tuple[Entry, Sequence[datetime]]:
        """Return an entry, and when it is due next, but for jitter; errors as :meth:`get`."""
        found = await self.get(principal, name)
        return found.entry, await self._schedules.next_runs(name, count)

    async def runs(self, principal: Principal, name: str) -> Sequence[Run]:
        """Return what became of a schedule's last runs, the latest first; errors as :meth:`get`."""
        await self.get(principal, name)
        runs = await self._schedules.runs(name)
        return [run if run.job is None or principal.may_see(run.job) else run._replace(job=None) for run in runs]

    # Changing.

    async def create(self, principal: Principal, body: dict[str, Any]) -> Scheduled:
        """
        Add a schedule.

        Raises:
            Problem: 409, there is one of this name; 422, with a pointer for everything that does not fit.
            LedgerUnavailable: It may have been added.
        """
        entry = await asyncio.to_thread(self._entry, principal, body, principal.owner)
        try:
            return await self._schedules.create(entry)
        except ScheduleConflict:
            raise _taken() from None
        except InvalidEntry as exc:
            raise _invalid(exc) from None

    async def put(
        self, principal: Principal, name: str, body: dict[str, Any], conditions: Conditions
    ) -> tuple[Scheduled, bool]:
        """
        Put a schedule in the place of the one of this name, or add it; return it, and whether it is new.

        Raises:
            Problem: As :meth:`create`; 409, it is somebody else's or the configuration's; 412, *conditions* don't hold.
            LedgerUnavailable: It may have been put there.
        """

        def as_sent(found: _Found) -> dict[str, Any]:
            if found is None and not re.fullmatch(NAME, name):
                raise _misfit("/name", f"A name should fit {NAME}")
            if found is not None and not _may_see(principal, found):
                raise _taken()
            return body

        return await self._change(principal, name, conditions, as_sent)

    async def patch(self, principal: Principal, name: str, patch: dict[str, Any], conditions: Conditions) -> Scheduled:
        """
        Change a schedule by a JSON merge patch of what a client may say of it.

        Raises:
            Problem: As :meth:`put`, and 404.
            LedgerUnavailable: It may have been changed.
        """
        priorities = self._jobs.catalogue.priorities

        def patched(found: _Found) -> dict[str, Any]:
            shown = dict(documents.schedule(_visible(principal, found), self._jobs.links, priorities))
            del shown["name"]  # which need not be one that could be given over HTTP
            changed: dict[str, Any] = merged(writable(shown), patch)
            return changed

        changed, _ = await self._change(principal, name, conditions, patched)
        return changed

    async def delete(self, principal: Principal, name: str, conditions: Conditions) -> None:
        """
        Remove a schedule. Jobs that it has begun go on.

        Raises:
            Problem: 404, there is none, or another's; 409, it is the configuration's; 412, *conditions* don't hold.
            LedgerUnavailable: It may have been removed.
        """
        for attempt in range(1, ATTEMPTS + 1):
            found = await self._look_up(name)
            if found is None or not _may_see(principal, found):
                raise _unknown()
            _check(found, conditions)
            try:
                return await self._schedules.delete(name, version=_version_of(found))
            except ScheduleConflict:
                if attempt == ATTEMPTS:
                    raise

    async def pause(self, principal: Principal, name: str, until: datetime | None) -> Scheduled:
        """Have a schedule not be due until a time, or, with None, until it is resumed; errors as :meth:`get`."""
        await self.get(principal, name)
        return await self._schedules.pause(name, until=until)

    async def resume(self, principal: Principal, name: str) -> Scheduled:
        """Have a schedule be due again that was paused or halted; errors as :meth:`run`."""
        await self._runnable(principal, name)
        return await self._schedules.resume(name)

    async def run(self, principal: Principal, name: str) -> Job:
        """
        Have a schedule run now, whatever it says; return the job.

        Raises:
            Problem: As :meth:`get`; 404, a task that *principal* may not run; 422, Celery does not take it.
            LedgerUnavailable: It may run.
        """
        await self._runnable(principal, name)
        try:
            job_id = await self._schedules.run(name)
        except QueueNotFound as exc:
            raise _unpublishable(name, exc) from exc
        return await self._jobs.get(principal, job_id)

    async def backfill(self, principal: Principal, name: str, asked: Backfilling) -> Backfill:
        """
        Have a schedule run once for each of its slots in a time that is past, or only say which these are.

        Raises:
            Problem: As :meth:`run`.
            BackfillTooLarge: There are too many.
            LedgerUnavailable: Some may run.
        """
        await self._runnable(principal, name)
        try:
            return await self._schedules.backfill(name, asked.since, asked.until, dry_run=asked.dry_run)
        except QueueNotFound as exc:
            raise _unpublishable(name, exc) from exc

    # How.

    async def _look_up(self, name: str) -> _Found:
        try:
            return await self._schedules.get(name)
        except ScheduleEntryNotFound:
            return None
        except InvalidEntry as exc:
            return exc

    async def _runnable(self, principal: Principal, name: str) -> None:
        """Return if *principal* may have a schedule run. Its task need not be exposed, if not over HTTP it was made."""
        found = await self.get(principal, name)
        if not principal.may_run(found.entry.task):
            raise unknown_task()

    async def _change(
        self, principal: Principal, name: str, conditions: Conditions, body_for: Callable[[_Found], dict[str, Any]]
    ) -> tuple[Scheduled, bool]:
        """Put there what *body_for* makes of what is there, and that only; return it, and whether it is new."""
        for _ in range(ATTEMPTS):
            found = await self._look_up(name)
            body = body_for(found)
            _check(found, conditions)
            owner = found.entry.owner if isinstance(found, Scheduled) else principal.owner
            entry = await asyncio.to_thread(self._entry, principal, body, owner, name)
            try:
                if found is None:
                    return await self._schedules.create(entry), True
                return await self._schedules.replace(entry, version=_version_of(found)), False
            except ScheduleConflict as exc:
                conflict = exc
            except InvalidEntry as exc:
                raise _invalid(exc) from None
        raise conflict

    def _entry(self, principal: Principal, body: dict[str, Any], owner: str, name: str | None = None) -> Entry:
        """
        Return the entry that a body says, of this name if there is one already. Blocks.

        Raises:
            Problem: 422, with a pointer for everything that does not fit.
        """
        fields = parse(NewSchedule if name is None else ScheduleFields, writable(body), INVALID_SCHEDULE)
        if name is not None and fields.name not in (None, name):
            raise _misfit("/name", "The path has another name.")
        catalogue = self._jobs.catalogue
        if fields.options.queue is not None and fields.options.queue not in catalogue.queues:
            raise _misfit("/options/queue", "There is no queue of this name.")
        self._check_input(principal, fields)
        given = {field: getattr(fields, field) for field in fields.model_fields_set}
        given |= {"name": name or fields.name, "owner": owner}
        given["options"] = fields.options.for_celery(None, catalogue.priorities)
        given["solar"] = None if fields.solar is None else fields.solar.model_dump()
        try:
            return Entry(**given)
        except InvalidEntry as exc:
            raise _invalid(exc) from None

    def _check_input(self, principal: Principal, fields: ScheduleFields) -> None:
        try:
            task = self._jobs.task(principal, fields.task)
        except Problem as exc:
            raise _misfit("/task", exc.detail) from None
        arguments = task.arguments(fields.input)
        if isinstance(fields.input, dict) and arguments.args:
            raise _misfit("/input", "The task takes some of its parameters by position only: give a list.")
        if len(dumps(fields.input)) > MAX_INLINE:
            raise _misfit("/input", f"A schedule's input has at most {MAX_INLINE:,} bytes.")


def _may_see(principal: Principal, found: Scheduled | InvalidEntry) -> bool:
    """Return whether they may see what has a name; of what nobody can use it is not known whose it is."""
    return principal.may_see(found.entry) if isinstance(found, Scheduled) else principal.is_admin


def _visible(principal: Principal, found: _Found) -> Scheduled:
    if found is None or not _may_see(principal, found):
        raise _unknown()
    if isinstance(found, InvalidEntry):
        raise SCHEDULE_QUARANTINED(f"Nobody can use what is stored by this name: {found}")
    return found


def _check(found: _Found, conditions: Conditions) -> None:
    """Return if what has a name may be replaced or removed."""
    if isinstance(found, Scheduled) and found.static:
        raise STATIC_SCHEDULE("The configuration has this schedule: change it there, or pause it.")
    conditions.check(None if found is None else etag_of(found) if isinstance(found, Scheduled) else "")


def _version_of(found: Scheduled | InvalidEntry) -> int | None:
    return found.version if isinstance(found, Scheduled) else None


def etag_of(found: Scheduled) -> str:
    """Return what names this version of a schedule; what it has come to since is not in it."""
    return f'"{found.version}"'


def _unknown() -> Problem:
    return UNKNOWN_SCHEDULE("There is no schedule of this name.")


def _taken() -> Problem:
    return SCHEDULE_EXISTS("There is a schedule of this name already: yours, or another's.")


def _misfit(pointer: str, detail: str) -> Problem:
    return INVALID_SCHEDULE("The schedule does not fit.", faults=[Fault(pointer, detail)])


def _invalid(exc: InvalidEntry) -> Problem:
    return _misfit("" if exc.field == "entry" else f"/{exc.field}", str(exc).removeprefix(f"{exc.field}: "))


def _unpublishable(name: str, exc: Exception) -> Problem:
    _log.warning("schedule %s can't run: %r", name, exc)
    return unpublishable()
