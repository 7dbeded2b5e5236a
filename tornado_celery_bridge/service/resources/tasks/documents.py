"""What is shown of tasks."""

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge.service.http.documents import Path
from tornado_celery_bridge.service.resources.catalogue import ExposedTask
from tornado_celery_bridge.service.resources.links import Links


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
    links: TaskLinks


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


class Tasks(TypedDict):
    """The tasks that may be run."""

    tasks: list[TaskSummary]
    next_cursor: str | None


def task_summary(shown: ExposedTask, links: Links) -> TaskSummary:
    """Return a task as it stands in a list."""
    path = links.task(shown.name)
    more: TaskLinks = {"self": path, "jobs": f"{path}/jobs"}
    return {"name": shown.name, "summary": shown.summary, "queue": shown.queue, "links": more}


def task(shown: ExposedTask, links: Links) -> Task:
    """Return a task with its schemas."""
    return {
        **task_summary(shown, links),
        "description": shown.description,
        "defaults": _defaults(shown),
        "input": shown.input_schema,
        "result": shown.result_schema,
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
