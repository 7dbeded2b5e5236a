"""What a client is shown: jobs, tasks, and times."""

import base64
import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any

from tornado_celery_bridge import TaskState
from tornado_celery_bridge.ledger import JobRecord
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


def rfc3339(moment: datetime | str | None) -> str | None:
    """Return *moment* in UTC; one without a time zone is UTC already, as Celery's are."""
    if moment is None:
        return None
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job(record: JobRecord, state: TaskState) -> documents.Job:
    """Return a job: what was asked for, and what the result backend says of it."""
    shown: documents.Job = {
        "id": record.id,
        "task": record.task,
        "state": state.state,
        "done": state.ready,
        "progress": progress(state),
        "queue": record.queue,
        "priority": record.priority,
        "attempt": 0 if state.state == "PENDING" else state.retries + 1,
        "tags": record.tags,
        "created_at": record.created_at,
        "started_at": None,  # nobody writes it down yet
        "finished_at": rfc3339(state.date_done) if state.ready else None,
        "eta": record.eta,
        "links": {"self": f"/v1/jobs/{record.id}", "events": f"/v1/jobs/{record.id}/events"},
    }
    if state.state == "SUCCESS":
        shown["result"] = state.result
    if state.error is not None:
        shown["error"] = error(state)
    return shown


def progress(state: TaskState) -> documents.Progress | None:
    """Return how far the job has come, if it says."""
    told = state.progress
    return None if told is None else {"current": told.current, "total": told.total, "message": told.message}


def error(state: TaskState) -> documents.JobError:
    """Return why the job failed: text, whatever it was."""
    failure = state.error
    assert failure is not None
    code, title = _kind_of(state.state, failure.type)
    return {
        "type": type_uri(code),
        "title": title,
        "detail": failure.message,
        "exception": f"{failure.module}.{failure.type}" if failure.module else failure.type,
        "retryable": state.state == "RETRY" or failure.type in _RETRYABLE,
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
    try:
        return _dumps(document)
    except ValueError:  # NaN, an infinity, or a lone surrogate
        return _dumps(_clean(document))


def _dumps(document: Any) -> bytes:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.encode()


def _plain(value: Any) -> Any:
    """Return what stands for a value that kombu's JSON has and JSON has not."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


def _clean(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case str():
            return value.encode("utf-8", "replace").decode()
        case Mapping():
            return {_clean(str(key)): _clean(child) for key, child in value.items()}
        case list() | tuple():
            return [_clean(child) for child in value]
    return value
