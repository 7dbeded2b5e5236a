"""``/v1/schedules``: make, list, read, change, pause, run and remove schedules."""

import asyncio
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tornado_celery_bridge.schedules import Scheduled
from tornado_celery_bridge.service.http.conditions import PRECONDITION_FAILED, Conditions, IfNoneMatch
from tornado_celery_bridge.service.http.endpoint import NOT_MODIFIED, Answer, delete, get, patch, post, put
from tornado_celery_bridge.service.http.prefer import Preferences
from tornado_celery_bridge.service.http.problems import (
    BACKFILL_TOO_LARGE,
    INVALID_SCHEDULE,
    SCHEDULE_CONFLICT,
    SHUTTING_DOWN,
    TASK_SWITCHED_OFF,
    UNKNOWN_SCHEDULE,
)
from tornado_celery_bridge.service.resources.catalogue import INVALID_INPUT, UNKNOWN_TASK
from tornado_celery_bridge.service.resources.jobs.accepting import ACCEPTED, AcceptingEndpoint
from tornado_celery_bridge.service.resources.jobs.documents import Job
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint
from tornado_celery_bridge.service.resources.jobs.problems import TOO_MANY_UNFINISHED_JOBS, UNPUBLISHABLE
from tornado_celery_bridge.service.resources.jobs.service import Submission
from tornado_celery_bridge.service.resources.schedules import documents, fields
from tornado_celery_bridge.service.resources.schedules.service import (
    SCHEDULE_EXISTS,
    SCHEDULE_QUARANTINED,
    SCHEDULE_REVOKED,
    STATIC_SCHEDULE,
    TOO_MANY_SCHEDULES,
    Timetable,
)

_SCHEDULE = (UNKNOWN_SCHEDULE, SCHEDULE_QUARANTINED)
_CHANGE = (STATIC_SCHEDULE, SCHEDULE_CONFLICT, PRECONDITION_FAILED)
_FIELDS = (INVALID_SCHEDULE, INVALID_INPUT)
# A run of it is a job that the ledger accepts, and a worker publishes.
_RUN = (*_SCHEDULE, INVALID_SCHEDULE, SCHEDULE_CONFLICT, UNKNOWN_TASK)
# Its owner may not begin a run now.
_REFUSED = (TOO_MANY_UNFINISHED_JOBS, SCHEDULE_REVOKED, TASK_SWITCHED_OFF)

ScheduleName = Annotated[
    str, Field(description="A schedule's name. An admin calls somebody else's by its owner, too: `owner~name`.")
]


class ScheduleEndpoint(ResourceEndpoint):
    """A route of schedules."""

    @property
    def timetable(self) -> Timetable:
        """The service's schedules."""
        return Timetable(self.jobs)

    def document(self, found: Scheduled) -> documents.Schedule:
        """Return a schedule as clients are shown it."""
        return documents.schedule(found, self.links, self.jobs.catalogue.priorities)

    def show_schedule(self, found: Scheduled) -> documents.Schedule:
        """Return a schedule, with its entity tag in the header."""
        self.version = found.version
        return self.document(found)

    def show_new(self, found: Scheduled) -> documents.Schedule:
        """Return a schedule that was made just now, with its place in the header."""
        self.set_status(201)
        self.set_header("Location", self.links.schedule(found.entry.key))
        return self.show_schedule(found)


class ListSchedules(ScheduleEndpoint):
    """List schedules, by name."""

    route = get("/v1/schedules", scope="read", tag="schedules")
    answers: ClassVar = {200: Answer("A page, which may be shorter than its limit.")}

    async def answer(self, query: fields.ScheduleFilters) -> documents.Schedules:
        found = await self.timetable.find(self.caller, query)
        return {
            "schedules": [self.document(each) for each in found.page.schedules],
            "quarantined": [{"name": name, "detail": why} for name, why in found.quarantined.items()],
            "next_cursor": found.page.cursor,
            "beat": documents.beat(found.beat),
            "beat_schedule": found.others,
        }


class CreateSchedule(ScheduleEndpoint):
    """Make a schedule."""

    route = post("/v1/schedules", scope="schedule", tag="schedules")
    answers: ClassVar = {201: Answer("The schedule.", headers=("Location", "ETag"))}
    problems: ClassVar = (*_FIELDS, SCHEDULE_EXISTS, TOO_MANY_SCHEDULES)

    async def answer(self, body: Annotated[dict[str, Any], fields.NewSchedule]) -> documents.Schedule:
        return self.show_new(await self.timetable.create(self.caller, body))


class ReadSchedule(ScheduleEndpoint):
    """
    Read a schedule.

    The `ETag` begins with the version, which is all that `If-Match` looks at: what the schedule's runs change
    (`last_run`, `next_run` and the like) makes another `ETag`, and refuses no change.
    """

    route = get("/v1/schedules/{name}", scope="read", tag="schedules")
    answers: ClassVar = {
        200: Answer("The schedule.", headers=("ETag",)),
        304: NOT_MODIFIED,
    }
    problems: ClassVar = _SCHEDULE

    async def answer(self, name: ScheduleName, known: IfNoneMatch) -> documents.Schedule:
        return self.show_schedule(await self.timetable.get(self.caller, name))


class PutSchedule(ScheduleEndpoint):
    """Make a schedule, or replace it."""

    route = put("/v1/schedules/{name}", scope="schedule", tag="schedules")
    answers: ClassVar = {
        200: Answer("The schedule, replaced.", headers=("ETag",)),
        201: Answer("The schedule, which is new.", headers=("Location", "ETag")),
    }
    problems: ClassVar = (*_FIELDS, *_CHANGE, UNKNOWN_SCHEDULE, TOO_MANY_SCHEDULES)

    async def answer(
        self, name: ScheduleName, body: Annotated[dict[str, Any], fields.ScheduleFields], conditions: Conditions
    ) -> documents.Schedule:
        found, is_new = await self.timetable.put(self.caller, name, body, conditions)
        return self.show_new(found) if is_new else self.show_schedule(found)


class ChangeSchedule(ScheduleEndpoint):
    """Change a schedule."""

    route = patch("/v1/schedules/{name}", scope="schedule", tag="schedules")
    answers: ClassVar = {200: Answer("The schedule, changed.", headers=("ETag",))}
    problems: ClassVar = (*_FIELDS, *_CHANGE, *_SCHEDULE)
    body_media_type: ClassVar = "application/merge-patch+json"

    async def answer(
        self, name: ScheduleName, body: Annotated[dict[str, Any], fields.ScheduleChange], conditions: Conditions
    ) -> documents.Schedule:
        return self.show_schedule(await self.timetable.patch(self.caller, name, body, conditions))


class DeleteSchedule(ScheduleEndpoint):
    """Remove a schedule."""

    route = delete("/v1/schedules/{name}", scope="schedule", tag="schedules")
    answers: ClassVar = {204: Answer("It is gone. Jobs that it has begun go on.")}
    problems: ClassVar = (*_CHANGE, *_SCHEDULE)

    async def answer(self, name: ScheduleName, conditions: Conditions) -> None:
        await self.timetable.delete(self.caller, name, conditions)


class RunSchedule(AcceptingEndpoint, ScheduleEndpoint):
    """Run a schedule now."""

    route = post("/v1/schedules/{name}/run", scope="schedule", tag="schedules")
    answers: ClassVar = ACCEPTED
    problems: ClassVar = (*_RUN, *_REFUSED, UNPUBLISHABLE, SHUTTING_DOWN)

    async def answer(self, name: ScheduleName, prefer: Preferences) -> Job | None:
        return await self.accepted(Submission(await self.timetable.run(self.caller, name)), None, prefer.wait)


class PauseSchedule(ScheduleEndpoint):
    """Pause a schedule, until a time or for good."""

    route = post("/v1/schedules/{name}/pause", scope="schedule", tag="schedules")
    answers: ClassVar = {200: Answer("The schedule.", headers=("ETag",))}
    problems: ClassVar = (*_SCHEDULE, INVALID_SCHEDULE, SCHEDULE_CONFLICT)

    async def answer(self, name: ScheduleName, body: fields.Pause = fields.Pause()) -> documents.Schedule:
        return self.show_schedule(await self.timetable.pause(self.caller, name, body.until))


class ResumeSchedule(ScheduleEndpoint):
    """Resume a schedule that was paused or halted."""

    route = post("/v1/schedules/{name}/resume", scope="schedule", tag="schedules")
    answers: ClassVar = {200: Answer("The schedule.", headers=("ETag",))}
    problems: ClassVar = _RUN

    async def answer(self, name: ScheduleName) -> documents.Schedule:
        return self.show_schedule(await self.timetable.resume(self.caller, name))


class BackfillSchedule(ScheduleEndpoint):
    """
    Run a schedule for slots that are past.

    Each slot that had no job gets one. Without `"dry_run": false` it only says which these are.
    """

    route = post("/v1/schedules/{name}/backfill", scope="schedule", tag="schedules")
    answers: ClassVar = {200: Answer("What it would begin."), 202: Answer("What it began.")}
    problems: ClassVar = (*_RUN, *_REFUSED, UNPUBLISHABLE, BACKFILL_TOO_LARGE)

    async def answer(self, name: ScheduleName, body: fields.Backfilling) -> documents.Backfill:
        found = await self.timetable.backfill(self.caller, name, body)
        self.set_status(200 if body.dry_run else 202)
        return documents.backfill(found, body.dry_run)


class ListNextRuns(ScheduleEndpoint):
    """See when a schedule is due next."""

    route = get("/v1/schedules/{name}/next", scope="read", tag="schedules")
    answers: ClassVar = {200: Answer("When, and the schedule in words.")}
    problems: ClassVar = _SCHEDULE

    async def answer(self, name: ScheduleName, query: fields.Count) -> documents.Slots:
        entry, moments = await self.timetable.next_runs(self.caller, name, query.count)
        return await asyncio.to_thread(documents.slots, entry, moments)


class ListRuns(ScheduleEndpoint):
    """List the outcomes of a schedule's runs."""

    route = get("/v1/schedules/{name}/runs", scope="read", tag="schedules")
    answers: ClassVar = {200: Answer("The last runs that were due.")}
    problems: ClassVar = _SCHEDULE

    async def answer(self, name: ScheduleName) -> documents.ScheduleRuns:
        runs = await self.timetable.runs(self.caller, name)
        return {"runs": [documents.run(each, self.links) for each in runs]}
