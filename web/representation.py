"""What a client is shown: jobs, tasks, and times."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tornado_celery_bridge.ledger import Job, dumps
from tornado_celery_bridge.progress import STATE as PROGRESS
from web import documents
from web.catalogue import ExposedTask
from web.problems import type_uri

__all__ = ("encode", "job", "rfc3339", "task", "task_summary")

# What happened to the worker and not to the task's own code: the same job may well succeed the next time.
_RETRYABLE = {
    "ConnectionError",
    "OperationalError",
    "SoftTimeLimitExceeded",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
}


def rfc3339(moment: datetime) -> str:
    """Return *moment*, which has a time zone, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job(shown: Job) -> documents.Job:
    """Return a job: what was asked for, and what has become of it."""
    record = shown.record
    links: documents.JobLinks = {"self": f"/v1/jobs/{record.id}", "events": f"/v1/jobs/{record.id}/events"}
    if record.retry_of is not None:
        links["retry_of"] = f"/v1/jobs/{record.retry_of}"
    document: documents.Job = {
        "id": record.id,
        "task": record.task,
        "state": shown.state,
        "done": shown.done,
        "progress": shown.progress if shown.state == PROGRESS else None,
        "queue": record.queue,
        "priority": record.priority,
        "attempt": shown.attempt,
        "tags": record.tags,
        "created_at": record.created_at,
        "started_at": shown.started_at,
        "finished_at": shown.finished_at,
        "eta": record.eta,
        "links": links,
    }
    if shown.state == "SUCCESS":
        document["result"] = shown.result
    if shown.error is not None:
        document["error"] = error(shown.state, shown.error)
    return document


def error(state: str, failure: Mapping[str, str]) -> documents.JobError:
    """Return why a job failed: text, whatever it was."""
    name, module = failure["type"], failure["module"]
    code, title = _kind_of(state, name)
    return {
        "type": type_uri(code),
        "title": title,
        "detail": failure["message"],
        "exception": f"{module}.{name}" if module else name,
        "retryable": state == "RETRY" or name in _RETRYABLE,
    }


def _kind_of(state: str, exception: str) -> tuple[str, str]:
    if state == "REVOKED":
        return "task-revoked", "The job was cancelled, or expired before it ran."
    if state == "RETRY":
        return "task-retry", "The task failed and will be tried again."
    if exception in ("TimeLimitExceeded", "SoftTimeLimitExceeded"):
        return "time-limit-exceeded", "The task ran for longer than it may."
    if exception == "WorkerLostError":
        return "worker-lost", "The worker died while it ran the task."
    return "task-failed", "The task raised an exception."


def task_summary(shown: ExposedTask) -> documents.TaskSummary:
    """Return a task as a list of tasks has it."""
    path = f"/v1/tasks/{shown.name}"
    links: documents.TaskLinks = {"self": path, "jobs": f"{path}/jobs"}
    return {"name": shown.name, "summary": shown.summary, "queue": shown.queue, "links": links}


def task(shown: ExposedTask) -> documents.Task:
    """Return a task with its schemas."""
    return {
        **task_summary(shown),
        "description": shown.description,
        "defaults": shown.defaults,
        "input": shown.input_schema,
        "result": shown.result_schema,
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """Return *document* as JSON. What a task returned may have more in it than JSON has; see docs/http.md."""
    return dumps(document).encode()
