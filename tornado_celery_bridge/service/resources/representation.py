"""What a client is shown: jobs, tasks, and times."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from cron_descriptor import ExpressionDescriptor, FormatException, Options

from tornado_celery_bridge.ledger import (
    Counts,
    Delivery,
    FailureGroup,
    Histogram,
    Job,
    Period,
    QueueState,
    Totals,
    WorkerState,
    Workflow,
    dumps,
)
from tornado_celery_bridge.progress import STATE as PROGRESS
from tornado_celery_bridge.schedules import Backfill, Entry, Run, Scheduled
from tornado_celery_bridge.service.access.keys import SCOPES, Principal
from tornado_celery_bridge.service.http.problems import type_uri
from tornado_celery_bridge.service.resources import documents
from tornado_celery_bridge.service.resources.monitoring.diagnosis import Diagnosis
from tornado_celery_bridge.service.resources.tasks.catalogue import ExposedTask
from tornado_celery_bridge.transports import Priorities

__all__ = (
    "backfill",
    "delivery",
    "encode",
    "failure",
    "in_words",
    "job",
    "me",
    "milliseconds",
    "queues",
    "rfc3339",
    "run",
    "schedule",
    "schedule_path",
    "slots",
    "statistics",
    "task",
    "task_summary",
    "worker",
    "workflow",
)

# What happened to the worker and not to the task's own code: the same job may well succeed the next time.
_RETRYABLE = {
    "ConnectionError",
    "OperationalError",
    "SoftTimeLimitExceeded",
    "StoreUnavailable",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
}


def milliseconds(moment: datetime) -> int:
    """Return *moment*, which has a time zone, as the ledger has it: since 1970."""
    return round(moment.timestamp() * 1000)


def rfc3339(moment: int) -> str:
    """Return milliseconds since 1970 as RFC 3339 has a time."""
    text = datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def job(shown: Job, *, traceback: bool = False) -> documents.Job:
    """Return a job: what was asked for, and what has become of it; with its *traceback* for those who may see it."""
    record = shown.record
    links: documents.JobLinks = {"self": f"/v1/jobs/{record.id}", "events": f"/v1/jobs/{record.id}/events"}
    if record.retry_of is not None:
        links["retry_of"] = f"/v1/jobs/{record.retry_of}"
    if record.callback_url is not None:
        links["deliveries"] = f"/v1/jobs/{record.id}/deliveries"
    if record.workflow is not None:
        links["workflow"] = f"/v1/workflows/{record.workflow}"
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
        "created_at": rfc3339(record.created_at),
        "started_at": None if shown.started_at is None else rfc3339(shown.started_at),
        "finished_at": None if shown.finished_at is None else rfc3339(shown.finished_at),
        "eta": None if record.eta is None else rfc3339(record.eta),
        "links": links,
    }
    if record.schedule is not None:
        document["schedule"] = record.schedule
        links["schedule"] = schedule_path(record.schedule)
    if shown.stored is not None:
        document["result_size"] = shown.stored.size
        links["result"] = f"/v1/jobs/{record.id}/result"
    elif shown.state == "SUCCESS":
        document["result"] = shown.result
    if shown.error is not None:
        document["error"] = error(shown.state, shown.error)
        if traceback and shown.traceback is not None:
            document["error"]["traceback"] = shown.traceback
    if shown.queue_depth is not None:
        document["queue_depth"] = shown.queue_depth
    return document


def delivery(of: Job, shown: Delivery) -> documents.Delivery:
    """Return how it stands with calling a job's callback_url."""
    due = shown.next_attempt
    return {
        "id": shown.id,
        "url": of.record.callback_url or "",
        "state": shown.state,
        "attempts": shown.attempts,
        "next_attempt_at": None if due is None else rfc3339(due),
    }


def workflow(shown: Workflow) -> documents.Workflow:
    """Return a workflow: its tree as it was sent, with a job in the place of each step."""
    record, jobs = shown.record, _steps_of(shown)
    path = f"/v1/workflows/{record.id}"
    ended = sum(job.done for job in jobs)
    document: documents.Workflow = {
        "id": record.id,
        "state": _state_of(shown),
        "done": ended,
        "total": len(jobs),
        "finished": shown.done,
        "tags": record.tags,
        "created_at": rfc3339(record.created_at),
        "tree": _tree(record.tree, shown.jobs)[0],
        "links": {"self": path, "cancel": f"{path}/cancel"},
    }
    if record.on_error is not None:
        document["on_error"] = job(shown.jobs[record.on_error])
    return document


def _steps_of(shown: Workflow) -> list[Job]:
    """Return the jobs that are in the tree."""
    return [each for name, each in shown.jobs.items() if name != shown.record.on_error]


def _state_of(shown: Workflow) -> str:
    if not shown.done:
        return "STARTED" if any(job.attempt for job in shown.jobs.values()) else "PENDING"
    if all(job.state == "SUCCESS" for job in _steps_of(shown)):
        return "SUCCESS"
    return "REVOKED" if shown.cancelled else "FAILURE"


def _tree(node: Any, jobs: Mapping[str, Job]) -> tuple[Any, int, int]:
    """Return a node with jobs in the places of their ids; how many of them are done, and how many there are."""
    if isinstance(node, str):
        return job(jobs[node]), int(jobs[node].done), 1
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    parts = {key: _tree(child, jobs) for key, child in pairs}
    done, total = (sum(part[place] for part in parts.values()) for place in (1, 2))
    if isinstance(node, list):
        return [part[0] for part in parts.values()], done, total
    shown = {key: part[0] for key, part in parts.items()}
    if "header" in node:  # what a chord is made of, and no node of its own
        return shown, done, total
    return shown | {"done": done, "total": total}, done, total


def error(state: str, failure: Mapping[str, str]) -> documents.JobError:
    """Return why a job failed: text, whatever it was."""
    name, module = failure["type"], failure["module"]
    code, title = _kind_of(state, failure)
    return {
        "type": type_uri(code),
        "title": title,
        "detail": failure["message"],
        "exception": f"{module}.{name}" if module else name,
        "retryable": code != "dead-lettered" and (state == "RETRY" or name in _RETRYABLE),
    }


def _kind_of(state: str, failure: Mapping[str, str]) -> tuple[str, str]:
    exception = failure["type"]
    if failure.get("kind") == "dead-lettered":
        return "dead-lettered", "The job was given up: worker after worker was lost while it ran the task."
    if state == "REVOKED":
        return "task-revoked", "The job was cancelled, expired before it ran, or waited for one that did not succeed."
    if state == "RETRY":
        return "task-retry", "The task failed and will be tried again."
    if exception in ("TimeLimitExceeded", "SoftTimeLimitExceeded"):
        return "time-limit-exceeded", "The task ran for longer than it may."
    if exception == "WorkerLostError":
        return "worker-lost", "The worker died while it ran the task."
    return "task-failed", "The task raised an exception."


def diagnosis(found: Diagnosis) -> dict[str, Any]:
    """Return what the service stands on, as a part of whether it is ready."""
    findings: list[documents.Finding] = [
        {"name": each.name, "verdict": each.verdict, "what": each.what, "remedy": each.remedy}
        for each in found.findings
    ]
    broker: documents.Broker = {
        "url": found.broker.url,
        "server": found.broker.server,
        "capabilities": dict(found.broker.capabilities),
    }
    return {"broker": broker, "findings": findings}


def failure(shown: FailureGroup) -> documents.FailureGroup:
    """Return a group of failures."""
    path = f"/v1/failures/{shown.id}"
    return {
        "id": shown.id,
        "owner": shown.owner,
        "task": shown.task,
        "exception": shown.exception,
        "place": shown.place or None,
        "detail": shown.detail,
        "first_seen": rfc3339(shown.first_seen),
        "last_seen": rfc3339(shown.last_seen),
        "count": shown.times,
        "jobs": shown.jobs,
        "links": {"jobs": f"/v1/jobs?failure={shown.id}", "retry": f"{path}/retry", "resolve": f"{path}/resolve"},
    }


def schedule_path(name: str) -> str:
    """Return where a schedule of this name is, whatever characters that has."""
    return f"/v1/schedules/{quote(name, safe='')}"


def schedule(shown: Scheduled, priorities: Priorities) -> documents.Schedule:
    """Return a schedule: what was asked for, and what it has come to."""
    entry, path = shown.entry, schedule_path(shown.entry.name)
    options = dict(entry.options)
    if isinstance(priority := options.get("priority"), int):
        options["priority"] = priorities.to_broker(priority)  # and back
    links: documents.ScheduleLinks = {
        "self": path,
        "next": f"{path}/next",
        "runs": f"{path}/runs",
        "task": f"/v1/tasks/{quote(entry.task, safe='')}",
    }
    if shown.last_job is not None:
        links["last_job"] = f"/v1/jobs/{shown.last_job}"
    document: documents.Schedule = {
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
        "links": links,
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


def _rfc3339(moment: datetime) -> str:
    return rfc3339(milliseconds(moment))


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else _rfc3339(moment)


def run(shown: Run) -> documents.ScheduleRun:
    """Return what became of a run that was due."""
    return {
        "slot": _time(shown.slot),
        "at": _rfc3339(shown.at),
        "delay": None if shown.slot is None else (shown.at - shown.slot).total_seconds(),
        "job_id": shown.job_id,
        "job": None if shown.job is None else job(shown.job),
        "reason": shown.why or None,
    }


def slots(entry: Entry, moments: Sequence[datetime]) -> documents.Slots:
    """Return when an entry is due, and what it says in words. Reads files."""
    zone = ZoneInfo(entry.timezone)
    local = [moment.astimezone(zone).isoformat(timespec="milliseconds") for moment in moments]
    shown: list[documents.Slot] = [
        {"utc": _rfc3339(moment), "local": text} for moment, text in zip(moments, local, strict=True)
    ]
    return {"description": in_words(entry), "timezone": entry.timezone, "next": shown}


def backfill(shown: Backfill, dry_run: bool) -> documents.Backfill:
    """Return what a backfill begins, or would."""
    return {"dry_run": dry_run, "slots": [_rfc3339(slot) for slot in shown.slots], "job_ids": shown.job_ids}


# A month or a day of the week by more than the three letters that are looked at.
_LONG_NAME = re.compile(r"\b([A-Za-z]{3})(?!L\b)[A-Za-z]+?(?=L?\b)")


def in_words(entry: Entry) -> str:
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


def me(principal: Principal, login: documents.Login) -> documents.Me:
    """Return what whoever asks may do."""
    return {
        "login": login,
        "key": principal.key_id or None,
        "owner": principal.owner,
        "role": principal.role,
        "scopes": [scope for scope in SCOPES if principal.may(scope)],
        "tasks": list(principal.tasks),
    }


def statistics(step: Period, history: Mapping[int, Counts], now: Totals) -> documents.Statistics:
    """Return what has happened in each *step*, by its first second since 1970, and how it stands."""
    series: list[documents.Step] = [{"at": rfc3339(at * 1000), **_counted(counts)} for at, counts in history.items()]
    return {
        "step": step,
        "series": series,
        "summary": _counted(sum(history.values(), start=Counts.of({}))),
        "now": {**now._asdict(), "done": now.succeeded + now.failed + now.revoked},  # type: ignore[typeddict-item]
    }


def _counted(counts: Counts) -> documents.Counted:
    return {
        "accepted": counts.accepted,
        "withdrawn": counts.withdrawn,
        "started": counts.started,
        "retried": counts.retried,
        "lost": counts.lost,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "revoked": counts.revoked,
        "wait": _quantiles(counts.waits),
        "run": _quantiles(counts.runs),
    }


def _quantiles(histogram: Histogram) -> documents.Quantiles:
    p50, p95 = (
        None if (found := histogram.quantile(share)) is None else float(f"{found:.3g}") for share in (0.5, 0.95)
    )
    return {"p50": p50, "p95": p95}


def queues(
    found: Sequence[QueueState], workers: Sequence[WorkerState], known: Collection[str], paused: Mapping[str, int]
) -> list[documents.Queue]:
    """
    Return the queues in which there are jobs, or that workers take from, or that are *known* by the settings, or
    *paused*, since then in milliseconds since 1970.
    """
    states = {queue.name: queue for queue in found}
    taken = [name for worker in workers if worker.is_alive for name in worker.queues]
    return [
        _queue(states.get(name) or QueueState(name, 0, 0, 0.0), taken.count(name), paused.get(name))
        for name in sorted({*states, *taken, *known, *paused})
    ]


def _queue(queue: QueueState, consumers: int, paused: int | None) -> documents.Queue:
    return {
        "name": queue.name,
        "depth": queue.depth,
        "scheduled": queue.scheduled,
        "oldest": queue.oldest,
        "consumers": consumers,
        "is_stuck": queue.depth > 0 and consumers == 0 and paused is None,
        "paused_since": None if paused is None else rfc3339(paused),
    }


def worker(shown: WorkerState, now: float) -> documents.Worker:
    """Return a worker; *now* is in seconds since 1970."""
    return {
        "name": shown.name,
        "alive": shown.is_alive,
        "last_seen": rfc3339(round((now - shown.silence) * 1000)),
        "slots": shown.slots,
        "queues": shown.queues,
        "jobs": shown.jobs if shown.is_alive else [],
        "memory": shown.memory if shown.is_alive else None,
    }
