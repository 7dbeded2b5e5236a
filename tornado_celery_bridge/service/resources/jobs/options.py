"""A job's options: the few that we know, checked, and what they are to Celery."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from tornado_celery_bridge.service.access.receivers import Receivers
from tornado_celery_bridge.service.http.body import Body, parse
from tornado_celery_bridge.service.http.faults import Fault
from tornado_celery_bridge.service.http.moments import Moment
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.http.query import Tag
from tornado_celery_bridge.service.resources.jobs.problems import INVALID_OPTIONS
from tornado_celery_bridge.transports import Priorities

#: Seconds; a longer delay is a schedule.
YEAR = 366 * 86_400

Url = Annotated[
    str, StringConstraints(pattern="^https?://", max_length=2_000), Field(json_schema_extra={"format": "uri"})
]


# What _one_time holds, as JSON Schema.
_BOTH_TIMES: JsonDict = {
    "required": ["countdown", "eta"],
    "properties": {"countdown": {"type": "number"}, "eta": {"type": "string"}},
}


def check_is_near(moment: datetime) -> datetime:
    """Return a time that a job may wait for. ValueError for one that is too far away."""
    if moment > datetime.now(UTC) + timedelta(seconds=YEAR):
        raise ValueError("this should be at most 366 days from now")
    return moment


class RunOptions(Body):
    """What a client may ask for each run of a schedule. All durations are seconds."""

    queue: str | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    expires: Annotated[float, Field(gt=0, le=YEAR)] | Moment | None = None
    time_limit: Annotated[float, Field(gt=0, le=YEAR)] | None = None
    soft_time_limit: Annotated[float, Field(gt=0, le=YEAR)] | None = None

    def for_celery(self, now: datetime | None, priorities: Priorities) -> dict[str, Any]:
        """Return the options as ``apply_async`` spells them; with *now*, so that they mean the same later."""
        names = ("queue", "expires", "time_limit", "soft_time_limit")
        options = {name: value for name in names if (value := getattr(self, name)) is not None}
        if now is not None and isinstance(self.expires, int | float):
            options["expires"] = now + timedelta(seconds=self.expires)
        if self.priority is not None:
            options["priority"] = priorities.to_broker(self.priority)
        return options


class JobOptions(RunOptions):
    """What a client may ask for beside the input. All durations are seconds."""

    model_config = ConfigDict(json_schema_extra={"not": _BOTH_TIMES})

    countdown: Annotated[float, Field(ge=0, le=YEAR)] | None = None
    eta: Annotated[Moment, AfterValidator(check_is_near)] | None = None
    tags: Annotated[list[Tag], Field(max_length=20)] = []
    on_disconnect: Literal["detach", "cancel", "cancel-if-unstarted"] = "detach"
    callback_url: Url | None = None
    metadata: Annotated[
        dict[Annotated[str, StringConstraints(min_length=1, max_length=100)], Annotated[str, Field(max_length=500)]],
        Field(max_length=20, description="Texts of your own, by name: shown with the job, and searched."),
    ] = {}

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.countdown is not None and self.eta is not None:
            raise ValueError("countdown and eta exclude each other")
        return self

    def due(self, now: datetime) -> datetime | None:
        """Return when the job is to run, if not at once."""
        return now + timedelta(seconds=self.countdown) if self.countdown is not None else self.eta

    def for_celery(self, now: datetime | None, priorities: Priorities) -> dict[str, Any]:
        """Return the options as ``apply_async`` spells them; with *now*, so that they mean the same later."""
        options = super().for_celery(now, priorities)
        if now is not None and self.countdown is not None:
            options["eta"] = now + timedelta(seconds=self.countdown)
        elif self.countdown is not None:
            options["countdown"] = self.countdown
        elif self.eta is not None:
            options["eta"] = self.eta
        return options


def parse_options(given: Any, queues: Collection[str], receivers: Receivers) -> JobOptions:
    """Return the options that a body asks for. 422, with a pointer for everything that is unknown or does not fit."""
    options = parse(JobOptions, given, INVALID_OPTIONS, "/options")
    if options.queue is not None and options.queue not in queues:
        raise misfit("/options/queue", "There is no queue of this name.")
    if options.callback_url is not None and (detail := receivers.fault_of(options.callback_url)):
        raise misfit("/options/callback_url", detail)
    return options


def check_limits(options: RunOptions, task: Any) -> None:
    """
    Raise 422 if the soft limit that is asked for would come after the hard one.

    A hard limit alone may be below the task's soft one, which then does not count: the job asks for less.
    """
    hard = options.time_limit or task.time_limit
    soft = options.soft_time_limit
    if hard and soft and soft > hard:
        given = "time_limit" if options.time_limit else "soft_time_limit"
        raise misfit(f"/options/{given}", f"time_limit ({hard:g} s) is below soft_time_limit ({soft:g} s).")


def misfit(pointer: str, detail: str) -> Problem:
    """Return what to say of an option that does not fit."""
    return INVALID_OPTIONS("The options do not fit.", faults=[Fault(pointer, detail)])
