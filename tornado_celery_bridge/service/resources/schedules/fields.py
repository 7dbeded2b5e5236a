"""What a client may say of a schedule. What of it can't be meant, :class:`Entry` knows."""

from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from tornado_celery_bridge.schedules import Entry
from tornado_celery_bridge.schedules.entry import (
    MAX_CAP,
    MAX_INTERVAL,
    MAX_NOTE,
    MAX_TAGS,
    MIN_INTERVAL,
    WAYS,
    YEAR,
    Misfire,
    Overlap,
)
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.moments import Moment
from tornado_celery_bridge.service.http.query import Flag, Name, Page, Query, Tag
from tornado_celery_bridge.service.resources.jobs.options import RunOptions

#: Names that are given over HTTP: they need no escaping, in a path, a shell or a log.
NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
#: What a schedule has and a client can't say: in a body it changes nothing, so that what was read may be sent back.
READ_ONLY = ("owner", "version", "last_run", "next_run", "runs", "failures", "halted", "static", "links")


def _complete(schema: JsonDict) -> None:
    """Add to a schedule's schema what pydantic does not see."""
    given = schema["properties"]
    assert isinstance(given, dict)
    given.update({name: {"readOnly": True} for name in READ_ONLY})
    schema["oneOf"] = [{"required": [way], "properties": {way: {"not": {"type": "null"}}}} for way in WAYS]


class Solar(Body):
    """An event of the sun's, as Celery names it, at a place."""

    event: str
    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]


class ScheduleFields(Body):
    """
    A schedule: one of `crontab`, `interval`, `once` and `solar`. Durations are seconds. What is read only changes
    nothing here.
    """

    model_config = ConfigDict(json_schema_extra=_complete)

    name: Annotated[str, Field(pattern=NAME)] | None = None
    task: str
    input: dict[str, Any] | list[Any] = {}
    options: RunOptions = RunOptions()
    enabled: bool = True
    crontab: Annotated[str, Field(max_length=1_000)] | None = None
    interval: Annotated[float, Field(ge=MIN_INTERVAL, le=MAX_INTERVAL)] | None = None
    anchor: Moment | None = None
    once: Moment | None = None
    solar: Solar | None = None
    timezone: Annotated[str, Field(max_length=100)] = "UTC"
    start: Moment | None = None
    end: Moment | None = None
    jitter: Annotated[float, Field(ge=0, le=YEAR)] = 0.0
    max_runs: Annotated[int, Field(ge=1)] | None = None
    overlap: Overlap = "allow"
    misfire: Misfire = "once"
    misfire_cap: Annotated[int, Field(ge=1, le=MAX_CAP)] = 100
    grace: Annotated[float, Field(ge=0, le=YEAR)] = 60.0
    paused_until: Moment | None = None
    pause_after: Annotated[int, Field(ge=1)] | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS)] = []


class NewSchedule(ScheduleFields):
    """A schedule with a name of its own."""

    name: Annotated[str, Field(pattern=NAME)]


_CHANGES: Any = {name: (annotation | None, None) for name, annotation in ScheduleFields.__annotations__.items()}
#: What changes a schedule: for the OpenAPI document. What comes of it is read as :class:`ScheduleFields`.
ScheduleChange: Any = pydantic.create_model(
    "ScheduleChange",
    __config__=ConfigDict(extra="forbid"),
    __doc__="What to change in a schedule, as a JSON merge patch (RFC 7396): null removes a member.",
    **_CHANGES,
)


class Pause(Body):
    """For how long a schedule is paused."""

    until: Annotated[Moment | None, Field(description="Without one, until it is resumed.")] = None


class Backfilling(Body):
    """Which slots are to be run that are past, or only listed."""

    since: Annotated[Moment, Field(description="The first slot may be then.")]
    until: Annotated[Moment, Field(description="The last slot is before then.")]
    dry_run: Annotated[bool, Field(description="Only say which slots these are.")] = True


class ScheduleFilters(Page):
    """Which schedules, and how many of them."""

    task: Name | None = None
    tag: Annotated[list[Tag], Field(max_length=20, description="Only those with all of these.")] = []
    enabled: Flag | None = None

    def fit(self, entry: Entry) -> bool:
        """Return whether it is one of these."""
        return (
            self.task in (None, entry.task)
            and set(self.tag) <= set(entry.tags)
            and self.enabled in (None, entry.enabled)
        )


class Count(Query):
    """How many."""

    count: Annotated[int, Field(ge=1, le=100)] = 10


def writable(given: dict[str, Any]) -> dict[str, Any]:
    """Return what of a schedule is not read only."""
    return {name: value for name, value in given.items() if name not in READ_ONLY}


def merged(target: Any, patch: Any) -> Any:
    """Return what a JSON merge patch (RFC 7396) makes of *target*."""
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merged(made.get(name), value)
    return made
