"""What is shown of tasks."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from tornado_celery_bridge.ledger.limits import TaskLimit, interval_of
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Path
from tornado_celery_bridge.service.resources.catalogue import ExposedTask
from tornado_celery_bridge.service.resources.links import Links


def _rate(text: str) -> str:
    interval_of(text)
    return text


#: How many jobs may begin in a time.
Rate = Annotated[str, Field(max_length=30), AfterValidator(_rate)]


class TaskLinks(TypedDict):
    """Where a task is described, and where its jobs are submitted."""

    self: Path
    jobs: Path


class TaskSummary(TypedDict):
    """A task in a list."""

    name: str
    summary: str
    queue: Annotated[
        str, Field(description="Where its jobs go by default; a router that looks at arguments may send one elsewhere.")
    ]
    enabled: Annotated[bool | None, Field(description="Whether it takes new jobs; null while the ledger is away.")]
    reason: Annotated[str | None, Field(description="Why it is switched off.")]
    max_concurrency: Annotated[
        int | None, Field(description="As it is set at run time; null: what `defaults` says holds.")
    ]
    max_rate: Annotated[str | None, Field(description="As it is set at run time; null: what `defaults` says holds.")]
    limit: Annotated[str | None, Field(description="The named limit that holds as well.")]
    links: TaskLinks


class TaskChange(Body):
    """What to set of a task, as a JSON merge patch (RFC 7396): null takes back what was set."""

    enabled: Annotated[bool | None, Field(description="`false`: new jobs of it are refused.")] = None
    reason: Annotated[
        str | None, Field(max_length=300, description="With `enabled: false`: what whoever submits is told.")
    ] = None
    max_concurrency: Annotated[
        int | None, Field(ge=0, le=1_000_000, description="How many jobs may run at once; with 0 none begins.")
    ] = None
    max_rate: Annotated[Rate | None, Field(description="How many may begin in a time: `10/s`, `30/m`, `100/h`.")] = None


class TaskDefaults(TypedDict):
    """What applies when a job's options don't say otherwise; durations are seconds."""

    queue: str
    priority: int | None
    time_limit: float | None
    soft_time_limit: float | None
    rate_limit: Annotated[str | float | None, Field(description="As Celery spells it, per worker: 10/m.")]
    max_retries: int | None
    max_concurrency: Annotated[int | None, Field(description="How many jobs may run at once, over all workers.")]
    max_rate: Annotated[str | float | None, Field(description="How many may begin in a time, over all workers: 10/s.")]
    limit_by: Annotated[str | None, Field(description="The parameter by whose value both are counted.")]
    unique: Annotated[bool, Field(description="A job with the same input as an unfinished one is that one.")]


class Task(TaskSummary):
    """A task with its schemas."""

    description: Annotated[str, Field(description="Its docstring.")]
    defaults: TaskDefaults
    input: Annotated[dict[str, Any], Field(description="JSON Schema 2020-12.")]
    result: Annotated[dict[str, Any], Field(description="JSON Schema 2020-12.")]
    items: Annotated[
        dict[str, Any] | None,
        Field(description="JSON Schema 2020-12 of each item that it yields, if it is a generator."),
    ]


class Tasks(TypedDict):
    """The tasks that may be run."""

    tasks: list[TaskSummary]
    next_cursor: str | None


def task_summary(shown: ExposedTask, links: Links, limit: TaskLimit | None) -> TaskSummary:
    """Return a task as it stands in a list; *limit* is what is set of it, None while nobody knows."""
    path = links.task(shown.name)
    more: TaskLinks = {"self": path, "jobs": f"{path}/jobs"}
    off = None if limit is None else limit.off
    return {
        "name": shown.name,
        "summary": shown.summary,
        "queue": shown.queue,
        "enabled": None if limit is None else off is None,
        "reason": None if off is None else off.reason,
        "max_concurrency": None if limit is None else limit.max_concurrency,
        "max_rate": None if limit is None else limit.max_rate,
        "limit": None if limit is None else limit.limit,
        "links": more,
    }


def task(shown: ExposedTask, links: Links, limit: TaskLimit | None) -> Task:
    """Return a task with its schemas; *limit* is as for :func:`task_summary`."""
    return {
        **task_summary(shown, links, limit),
        "description": shown.description,
        "defaults": _defaults(shown),
        "input": shown.input_schema,
        "result": shown.result_schema,
        "items": shown.items_schema,
    }


def _defaults(shown: ExposedTask) -> TaskDefaults:
    task, conf = shown.task, shown.task.app.conf
    time_limit = task.time_limit or conf.task_time_limit
    soft_time_limit = task.soft_time_limit or conf.task_soft_time_limit
    return {
        "queue": shown.queue,
        "priority": shown.priority,
        "time_limit": time_limit,
        # One that comes later has no effect.
        "soft_time_limit": None if time_limit and soft_time_limit and soft_time_limit > time_limit else soft_time_limit,
        "rate_limit": getattr(task, "rate_limit", None),
        "max_retries": task.max_retries,
        "max_concurrency": getattr(task, "max_concurrency", None),
        "max_rate": getattr(task, "max_rate", None),
        "limit_by": getattr(task, "limit_by", None),
        "unique": bool(getattr(task, "unique", False)),
    }
