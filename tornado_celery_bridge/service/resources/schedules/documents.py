"""What is shown of schedules. What is read of them is in ``fields``."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, Required, cast
from zoneinfo import ZoneInfo

from celery import Celery
from cron_descriptor import ExpressionDescriptor, FormatException, Options
from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge import schedules
from tornado_celery_bridge.schedules import sources
from tornado_celery_bridge.service.http.documents import MOMENT, Moment, Path, milliseconds, rfc3339
from tornado_celery_bridge.service.resources.jobs.documents import Job, job
from tornado_celery_bridge.service.resources.links import Links
from tornado_celery_bridge.transports import Priorities


class ScheduleLinks(TypedDict):
    """Where else there is something about a schedule."""

    self: Path
    next: Path
    runs: Path
    task: Path
    last_job: NotRequired[Annotated[Path, Field(description="The last run.")]]


class _Schedule(TypedDict):
    name: Annotated[str, Field(description="The owner's; others have schedules of this name, too.")]
    task: str
    input: Annotated[Any, Field(description="Named arguments, or a list of positional ones.")]
    options: Annotated[dict[str, Any], Field(description="RunOptions, and what else Python or the configuration set.")]
    timezone: Annotated[str, Field(description="IANA name of the zone that a crontab is in.")]
    enabled: bool
    paused_until: Annotated[Moment | None, Field(description="Not due before.")]
    overlap: Literal["allow", "skip", "queue", "cancel"]
    misfire: Literal["skip", "once", "all"]
    misfire_cap: int
    grace: Annotated[float, Field(description="Seconds after which a run has been missed, with misfire skip.")]
    pause_after: Annotated[int | None, Field(description="Failures in a row after which it is halted.")]
    start: Annotated[Moment | None, Field(description="Not due before.")]
    end: Annotated[Moment | None, Field(description="Not due after.")]
    jitter: Annotated[float, Field(description="Seconds by up to which each run is put off.")]
    max_runs: int | None
    note: str
    tags: Annotated[list[str], Field(description="Its jobs', too.")]
    owner: Annotated[str, Field(description="Empty where there are no keys.")]
    version: Annotated[int, Field(description="The ETag has it.")]
    static: Annotated[bool, Field(description="It is in the configuration: it can be paused here, but not changed.")]
    halted: Annotated[str | None, Field(description="Why it does not run any more, until it is resumed or replaced.")]
    failures: Annotated[int, Field(description="Failures in a row.")]
    runs: Annotated[int, Field(description="How many runs there were, without those on demand.")]
    last_run: Annotated[Moment | None, Field(description="When the last run began.")]
    next_run: Annotated[Moment | None, Field(description="Without jitter; null for never.")]
    links: ScheduleLinks


class Schedule(_Schedule, total=False):
    """What is run when: by one of crontab, interval, once and solar."""

    crontab: str
    interval: Annotated[float, Field(description="Seconds.")]
    anchor: Annotated[Moment, Field(description="From when an interval is counted.")]
    once: Moment
    solar: Annotated[dict[str, Any], Field(description="event, lat and lon.")]


class QuarantinedSchedule(TypedDict):
    """A stored entry that is malformed."""

    name: str
    detail: str


class Beat(TypedDict):
    """Who runs schedules."""

    scheduler: Annotated[str, Field(description="The class of beat's scheduler, by the app's settings.")]
    runs_these: Annotated[bool, Field(description="Whether a beat that runs these schedules leads.")]
    leader: Annotated[str | None, Field(description="That beat: its host, its process id and a word of its own.")]
    hint: Annotated[str | None, Field(description="Why these schedules are not run, and what to do.")]


class OtherSchedule(TypedDict, total=False):
    """An entry of the app's `beat_schedule` that another scheduler runs: to be read only."""

    name: Required[str]
    task: str
    input: Any
    options: dict[str, Any]
    crontab: str
    timezone: str
    interval: Annotated[float, Field(description="Seconds.")]
    anchor: Moment
    solar: dict[str, Any]
    detail: Annotated[str, Field(description="Why it can't be shown.")]


class Schedules(TypedDict):
    """A page of schedules, in the order of their names."""

    schedules: list[Schedule]
    quarantined: Annotated[list[QuarantinedSchedule], Field(description="On the first page, and to admins only.")]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins.")]
    beat: Beat
    beat_schedule: Annotated[
        list[OtherSchedule],
        Field(description="Of the configuration, if another scheduler runs it; on the first page, to admins only."),
    ]


class Slot(TypedDict):
    """A time at which a schedule is due, without jitter."""

    utc: Moment
    local: Annotated[str, Field(description="The same in the schedule's time zone.", json_schema_extra=MOMENT)]


class Slots(TypedDict):
    """When a schedule is due next."""

    description: Annotated[str, Field(description="The schedule in words.")]
    timezone: str
    next: list[Slot]


class ScheduleRun(TypedDict):
    """The outcome of a run that was due."""

    slot: Annotated[Moment | None, Field(description="When it was due, without jitter; null for a run on demand.")]
    at: Annotated[Moment, Field(description="When that was decided.")]
    delay: Annotated[float | None, Field(description="Seconds from the one to the other.")]
    job_id: str | None
    job: Annotated[Job | None, Field(description="While it is kept; without its result.")]
    reason: Annotated[
        str | None, Field(description="Why it did not begin: missed, skipped, paused, full, revoked or off.")
    ]


class ScheduleRuns(TypedDict):
    """The outcomes of a schedule's last runs: at most 100, the latest first."""

    runs: list[ScheduleRun]


class Backfill(TypedDict):
    """What a backfill starts, or would start."""

    dry_run: bool
    slots: Annotated[list[Moment], Field(description="The slots without a job, oldest first.")]
    job_ids: Annotated[list[str], Field(description="Their jobs, in the same order; none on a dry run.")]


def schedule(shown: schedules.Scheduled, links: Links, priorities: Priorities) -> Schedule:
    """Return a schedule: what was asked for, and what it has come to."""
    entry, path = shown.entry, links.schedule(shown.entry.key)
    options = dict(entry.options)
    if isinstance(priority := options.get("priority"), int):
        options["priority"] = priorities.to_broker(priority)  # and back
    more: ScheduleLinks = {
        "self": path,
        "next": f"{path}/next",
        "runs": f"{path}/runs",
        "task": links.task(entry.task),
    }
    if shown.last_job is not None:
        more["last_job"] = links.job(shown.last_job)
    document: Schedule = {
        "name": entry.name,
        "task": entry.task,
        "input": entry.input,
        "options": options,
        "timezone": entry.timezone,
        "enabled": entry.enabled,
        "paused_until": _time(entry.paused_until),
        "overlap": entry.overlap,
        "misfire": entry.misfire,
        "misfire_cap": entry.misfire_cap,
        "grace": entry.grace,
        "pause_after": entry.pause_after,
        "start": _time(entry.start),
        "end": _time(entry.end),
        "jitter": entry.jitter,
        "max_runs": entry.max_runs,
        "note": entry.note,
        "tags": entry.tags,
        "owner": entry.owner,
        "version": shown.version,
        "static": shown.static,
        "halted": shown.halted or None,
        "failures": shown.failures,
        "runs": shown.runs,
        "last_run": _time(shown.last_run),
        "next_run": _time(shown.next_run),
        "links": more,
    }
    if entry.crontab is not None:
        document["crontab"] = entry.crontab
    if entry.interval is not None:
        document["interval"] = entry.interval
    if entry.anchor is not None:
        document["anchor"] = _rfc3339(entry.anchor)
    if entry.once is not None:
        document["once"] = _rfc3339(entry.once)
    if entry.solar is not None:
        document["solar"] = entry.solar
    return document


def beat(shown: schedules.Beat) -> Beat:
    """Return who runs schedules."""
    return {
        "scheduler": shown.scheduler,
        "runs_these": shown.leader is not None,
        "leader": shown.leader,
        "hint": shown.hint or None,
    }


_SHOWN = ("name", "task", "input", "options", "crontab", "timezone", "interval", "anchor", "solar")


def of_settings(app: Celery) -> list[OtherSchedule]:
    """Return the entries of an app's ``beat_schedule``. Reads files."""
    found = sources.from_settings(app)
    known = (sources.to_mapping(entry) for entry in found.entries)
    shown = [{name: entry[name] for name in _SHOWN if name in entry} for entry in known]
    shown += [{"name": name, "detail": why} for name, why in found.left_out.items()]
    return cast("list[OtherSchedule]", shown)


def _rfc3339(moment: datetime) -> str:
    return rfc3339(milliseconds(moment))


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else _rfc3339(moment)


def run(shown: schedules.Run, links: Links) -> ScheduleRun:
    """Return the outcome of a run that was due."""
    return {
        "slot": _time(shown.slot),
        "at": _rfc3339(shown.at),
        "delay": None if shown.slot is None else (shown.at - shown.slot).total_seconds(),
        "job_id": shown.job_id,
        "job": None if shown.job is None else job(shown.job, links, result=False),
        "reason": shown.why or None,
    }


def slots(entry: schedules.Entry, moments: Sequence[datetime]) -> Slots:
    """Return when an entry is due, and what it says in words. Reads files."""
    zone = ZoneInfo(entry.timezone)
    local = [moment.astimezone(zone).isoformat(timespec="milliseconds") for moment in moments]
    shown: list[Slot] = [{"utc": _rfc3339(moment), "local": text} for moment, text in zip(moments, local, strict=True)]
    return {"description": in_words(entry), "timezone": entry.timezone, "next": shown}


def backfill(shown: schedules.Backfill, dry_run: bool) -> Backfill:
    """Return what a backfill begins, or would."""
    return {"dry_run": dry_run, "slots": [_rfc3339(slot) for slot in shown.slots], "job_ids": shown.job_ids}


# A month or a day of the week by more than the three letters that are looked at.
_LONG_NAME = re.compile(r"\b([A-Za-z]{3})(?!L\b)[A-Za-z]+?(?=L?\b)")


def in_words(entry: schedules.Entry) -> str:
    """Return when an entry is due, in English; a crontab that can't be put into words as it is. Reads files."""
    if entry.interval is not None:
        return f"Every {entry.interval:g} seconds"
    if entry.once is not None:
        return f"Once, at {_rfc3339(entry.once)}"
    if entry.solar is not None:
        return f"At {entry.solar['event'].replace('_', ' ')}, at {entry.solar['lat']}, {entry.solar['lon']}"
    crontab, options = entry.crontab or "", Options()
    options.locale_code, options.use_24hour_time_format = "en_US", True
    try:
        text: str = ExpressionDescriptor(_LONG_NAME.sub(r"\1", crontab), options).get_description()
    except FormatException:
        return crontab
    return text.replace(", or on ", ", and only on ")  # as in Celery, a day has to fit both of its fields
