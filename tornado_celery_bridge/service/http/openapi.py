"""
The service as an OpenAPI 3.1 document.

A route is one :class:`Operation` in :data:`OPERATIONS`; submitting a job is one per exposed task. What an operation
reads and writes are types of ``service.resources.documents``, and the ways in which it fails are codes of
:data:`KINDS`: schemas, responses, headers and parameters follow from these.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from functools import cache
from itertools import chain
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from tornado_celery_bridge import __version__
from tornado_celery_bridge.ledger import PERIODS
from tornado_celery_bridge.service.http.handler import MAX_WAIT
from tornado_celery_bridge.service.http.problems import CONTENT_TYPE, KINDS, title, type_uri
from tornado_celery_bridge.service.http.query import STATES
from tornado_celery_bridge.service.pages import dashboard
from tornado_celery_bridge.service.pages import files as docs
from tornado_celery_bridge.service.resources import documents
from tornado_celery_bridge.service.resources.failures.service import RetryAll
from tornado_celery_bridge.service.resources.jobs.options import JobOptions
from tornado_celery_bridge.service.resources.monitoring.operations import Purge, Resize
from tornado_celery_bridge.service.resources.schedules.fields import (
    Backfilling,
    NewSchedule,
    Pause,
    ScheduleChange,
    ScheduleFields,
)
from tornado_celery_bridge.service.resources.tasks.catalogue import Catalogue, ExposedTask

__all__ = ("OPERATIONS", "Answer", "Operation", "make_document")

Schema = dict[str, Any]

SCHEMAS = "#/components/schemas/"

DESCRIPTION = """\
Jobs over HTTP: a *job* is one run of a Celery task, and its id is the task's id.

Every error is `application/problem+json` (RFC 9457), and every answer has an `X-Request-Id` and a
`traceparent`. A path that is not here
answers 404 `not-found`; a method that is not here, 405 `method-not-allowed` with `Allow`.

An integer has no more than 64 bits, and is written as one: `1`, not `1.0`."""

EVENTS = """\
Server-sent events, up to the job's end. Whoever connects gets them from the beginning, or those that come after the
one that it names.

| event | data |
| --- | --- |
| `state` | the job, at its acceptance and when its state changed |
| `progress` | `{"current", "total", "message"}` |
| `log` | `{"level", "message", "at"}`: a line that the task logged |
| `end` | the job, done: the last event |
| `snapshot` | the job as it is, in the place of events that are no longer kept |
| `close` | `{"reason"}`: the server ends the stream before the job's end; connect again |

A comment comes after every 15 silent seconds."""

SOCKET = """\
The same events on a WebSocket, each a text message `{"event", "id", "data"}`. Closed with 1000 after `end`, 1001 after
`close`, 1008 if the reader is too slow."""


WORKFLOW = """\
`{"chain": [step…]}`, `{"group": [step…]}` or `{"chord": {"header": [step…], "body": step}}`, with `tags` and
`on_error`, a step, beside it. A step is `{"task", "input", "options"}`, or again a chain, a group or a chord. A step
that comes after another gets its result as the first argument."""


@dataclass(frozen=True)
class Answer:
    """One way in which an operation succeeds. The body is a type of ``documents``, a JSON Schema, or None."""

    description: str
    body: Any = None
    _: KW_ONLY
    media_types: tuple[str, ...] = ("application/json",)
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """A method of a path: what it takes, and all that it may answer."""

    method: str
    path: str
    id: str
    summary: str
    _: KW_ONLY
    tag: str
    answers: Mapping[int, Answer]
    description: str = ""
    problems: tuple[str, ...] = ()  #: codes, besides those that every operation may answer with
    parameters: tuple[str, ...] = ()  #: names in ``PARAMETERS``, besides those in the path
    body: Any = None  #: as an answer's
    body_required: bool = True
    body_type: str = "application/json"
    is_public: bool = False  #: whether it answers without a key


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


# What goes wrong anywhere; where a key is needed; with any body; with a job.
_ALWAYS = ("bad-request", "body-too-large", "internal-error", "key-in-query")
_KEY = ("unauthorized", "forbidden-scope", "rate-limited", "ledger-unavailable")
_BODY = (
    *("invalid-json", "unacceptable-json", "too-deep", "too-large", "unsupported-media-type", "invalid-body"),
    "forbidden",
)
_JOB = ("unknown-job", "expired-job", "ledger-unavailable")
_WORKFLOW = ("unknown-workflow", "expired-workflow", "ledger-unavailable")
_SUBMIT = (
    *("broker-unavailable", "dispatch-saturated", "dispatch-uncertain", "unpublishable", "shutting-down"),
    *("store-unavailable", "ledger-unavailable", "too-many-unfinished-jobs"),
    *("unknown-task", "invalid-input", "invalid-options"),
    *("invalid-idempotency-key", "idempotency-key-in-flight", "idempotency-key-reused"),
)

_SCHEDULE = ("unknown-schedule", "schedule-quarantined", "ledger-unavailable")
_CHANGE = ("static-schedule", "schedule-conflict", "precondition-failed")
_FIELDS = (*_BODY, "invalid-schedule", "invalid-input")
# A run of it is a job that the ledger accepts, and a worker publishes.
_RUN = (*_SCHEDULE, "invalid-schedule", "schedule-conflict", "unknown-task")

_JOB_LINKS = ("read_job", "follow_job", "cancel_job")
#: Headers that every answer has.
_NAMES = ("X-Request-Id", "traceparent")
_NOT_MODIFIED = Answer("Not modified.", headers=("ETag",))
# OpenAPI 3.1 has no word for what a stream consists of: it is text, or, to a tool that takes it apart, events.
_STREAM = Answer(
    "The events.",
    {"anyOf": [{"type": "string"}, _ref("schemas", "Event")]},
    media_types=("text/event-stream",),
)
_INPUT = {"anyOf": [{"type": "object"}, {"type": "array", "items": {}}]}  # named arguments, or positional ones
_OPTIONS = _ref("schemas", "JobOptions")


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _accepted(job: Any) -> dict[int, Answer]:
    """Return how accepting a job succeeds."""
    return {
        200: Answer(
            "The job, done within the time that the request would wait.",
            job,
            headers=("Location", "Preference-Applied"),
            links=_JOB_LINKS,
        ),
        202: Answer(
            "The job was accepted, and is not done yet.",
            job,
            headers=("Location", "Retry-After", "Preference-Applied"),
            links=_JOB_LINKS,
        ),
    }


OPERATIONS = (
    Operation(
        *("get", "/v1/tasks", "list_tasks", "List the tasks that may be run"),
        tag="tasks",
        answers={200: Answer("The tasks.", documents.Tasks)},
    ),
    Operation(
        *("get", "/v1/tasks/{task}", "read_task", "Read a task, with the schemas of its input and result"),
        tag="tasks",
        answers={200: Answer("The task.", documents.Task)},
        problems=("unknown-task",),
    ),
    Operation(
        *("get", "/v1/jobs", "list_jobs", "List jobs, newest first"),
        tag="jobs",
        parameters=(
            *("filter_task", "filter_state", "filter_tag", "filter_since", "filter_dead", "filter_failure"),
            *("limit", "cursor"),
        ),
        answers={200: Answer("A page, which may be shorter than its limit and still not the last.", documents.Jobs)},
        problems=("invalid-query", "invalid-cursor", "ledger-unavailable"),
    ),
    Operation(
        *("post", "/v1/batches", "submit_batch", "Submit up to 1,000 jobs"),
        tag="submit",
        parameters=("Idempotency-Key",),
        body=_object(
            ("jobs",),
            jobs={
                **{"type": "array", "minItems": 1, "maxItems": 1000},
                "items": {"description": "`{task, input, options}`; one that does not fit is answered in its place."},
            },
        ),
        answers={207: Answer("For each job, what it would have been answered alone.", documents.BatchAnswers)},
        problems=(*_BODY, "shutting-down", "invalid-idempotency-key"),
    ),
    Operation(
        *("post", "/v1/workflows", "submit_workflow", "Submit a workflow of up to 1,000 jobs"),
        tag="submit",
        description=WORKFLOW,
        parameters=("Prefer", "Idempotency-Key"),
        body={"type": "object"},
        answers={
            status: Answer(told, documents.Workflow, headers=("Location", "Preference-Applied"))
            for status, told in {200: "The workflow, all of it done.", 202: "The workflow was accepted."}.items()
        },
        problems=(*_BODY, *_SUBMIT, "invalid-workflow", "workflow-too-large"),
    ),
    Operation(
        *("get", "/v1/workflows/{id}", "read_workflow", "Read a workflow, or wait until all of it is done"),
        tag="jobs",
        parameters=("Prefer",),
        answers={
            200: Answer("The workflow.", documents.Workflow, headers=("Preference-Applied", "Retry-After")),
        },
        problems=(*_WORKFLOW, "waiters-saturated"),
    ),
    Operation(
        *("post", "/v1/workflows/{id}/cancel", "cancel_workflow", "Cancel a workflow, or a branch of it"),
        tag="jobs",
        body=documents.WorkflowCancellation,
        body_required=False,
        answers={
            200: Answer("The workflow, all of it done.", documents.Workflow),
            202: Answer("The workflow; what runs of it has been told.", documents.Workflow, headers=("Retry-After",)),
        },
        problems=(*_BODY, *_WORKFLOW),
    ),
    Operation(
        *("get", "/v1/events", "follow_jobs", "Follow several jobs at once"),
        tag="jobs",
        description='The events of each job as under `/v1/jobs/{id}/events`, with `{"job", "data"}` as data. Name '
        "jobs, or a tag: then those that have it and have not ended when the stream begins, at most 1,000.",
        parameters=("job", "filter_tag", "Last-Event-ID", "after"),
        answers={200: _STREAM, 204: Answer("The jobs are done, and the client has had all their events.")},
        problems=(*_JOB, "invalid-event-id", "invalid-query", "waiters-saturated"),
    ),
    Operation(
        *("get", "/v1/jobs/{id}", "read_job", "Read a job, or wait until it is done"),
        tag="jobs",
        parameters=("Prefer",),
        answers={
            200: Answer(
                "The job; `done` tells whether it is done.",
                documents.Job,
                headers=("Preference-Applied", "Retry-After"),
                links=_JOB_LINKS,
            )
        },
        problems=(*_JOB, "waiters-saturated"),
    ),
    Operation(
        *("get", "/v1/jobs/{id}/input", "read_input", "Read a job's exact input, however large it is"),
        tag="jobs",
        description="Nothing but the input, as JSON: the object of named arguments, or the list of positional ones.",
        answers={200: Answer("The input.", {})},
        problems=(*_JOB, "blob-lost", "store-unavailable"),
    ),
    Operation(
        *("get", "/v1/jobs/{id}/result", "read_result", "Read what a job returned, however large it is"),
        tag="jobs",
        description="Nothing but the result, as JSON, in pieces as they come from the store.",
        answers={200: Answer("The result.", {})},
        problems=(*_JOB, "job-unfinished", "no-result", "blob-lost", "store-unavailable"),
    ),
    Operation(
        *("get", "/v1/jobs/{id}/events", "follow_job", "Follow a job's state, progress and log"),
        tag="jobs",
        description=EVENTS,
        parameters=("Last-Event-ID", "after"),
        answers={200: _STREAM, 204: Answer("The job is done, and the client has had all its events.")},
        problems=(*_JOB, "invalid-event-id", "waiters-saturated"),
    ),
    Operation(
        *("get", "/v1/jobs/{id}/ws", "follow_job_by_websocket", "Follow a job on a WebSocket"),
        tag="jobs",
        description=SOCKET,
        parameters=("after",),
        answers={101: Answer("The WebSocket is open.")},
        problems=(*_JOB, "invalid-event-id", "not-a-websocket", "forbidden", "upgrade-required"),
    ),
    Operation(
        *("post", "/v1/jobs/{id}/cancel", "cancel_job", "Cancel a job"),
        tag="jobs",
        body=documents.Cancellation,
        body_required=False,
        answers={
            200: Answer("The job, which is done.", documents.Job, links=_JOB_LINKS),
            202: Answer("The job, which has been told.", documents.Job, headers=("Retry-After",), links=_JOB_LINKS),
        },
        problems=(*_BODY, *_JOB),
    ),
    Operation(
        *("post", "/v1/jobs/{id}/retry", "retry_job", "Submit a job again"),
        tag="jobs",
        parameters=("Prefer", "Idempotency-Key"),
        body=_object(input=_INPUT, options=_OPTIONS),
        body_required=False,
        answers=_accepted(documents.Job),
        problems=(*_BODY, *_JOB, *_SUBMIT, "job-unfinished", "blob-lost"),
    ),
    Operation(
        *("get", "/v1/jobs/{id}/deliveries", "list_deliveries", "See what became of calling a job's callback_url"),
        tag="jobs",
        answers={200: Answer("The deliveries; none before the job's end.", documents.Deliveries)},
        problems=_JOB,
    ),
    Operation(
        *("post", "/v1/jobs/{id}/deliveries/{delivery}/replay", "replay_delivery", "Call a callback_url again"),
        tag="jobs",
        body=_object(),
        body_required=False,
        answers={202: Answer("The delivery, which begins anew.", documents.Delivery)},
        problems=(*_BODY, *_JOB, "unknown-delivery"),
    ),
    Operation(
        *("get", "/v1/failures", "list_failures", "List the failures, those that are alike together"),
        tag="jobs",
        description="Alike are jobs of one owner whose task raised the same at the same place. There are the last 500 "
        "groups in which something failed within 30 days and was not resolved since.",
        answers={200: Answer("The groups, the one that failed last first.", documents.Failures)},
    ),
    Operation(
        *("post", "/v1/failures/{failure}/retry", "retry_failures", "Submit all jobs of a group again"),
        tag="jobs",
        description='Those that have not been tried again, the newest 1,000. Without `"dry_run": false` it only says '
        "how many there are.",
        body=RetryAll,
        body_required=False,
        answers={
            200: Answer("How many it would submit.", documents.Retried),
            202: Answer("What it submitted.", documents.Retried),
        },
        problems=(*_BODY, "unknown-failure", "shutting-down"),
    ),
    Operation(
        *("post", "/v1/failures/{failure}/resolve", "resolve_failures", "Forget a group until it fails again"),
        tag="jobs",
        body=_object(),
        body_required=False,
        answers={204: Answer("It is gone. Its jobs stay as they are.")},
        problems=(*_BODY, "unknown-failure"),
    ),
    Operation(
        *("get", "/v1/schedules", "list_schedules", "List schedules, by name"),
        tag="schedules",
        parameters=("filter_task", "filter_tag", "filter_enabled", "limit", "cursor"),
        answers={200: Answer("A page, which may be shorter than its limit.", documents.Schedules)},
        problems=("invalid-query", "ledger-unavailable"),
    ),
    Operation(
        *("post", "/v1/schedules", "create_schedule", "Make a schedule"),
        tag="schedules",
        body=NewSchedule,
        answers={201: Answer("The schedule.", documents.Schedule, headers=("Location", "ETag"))},
        problems=(*_FIELDS, "schedule-exists", "ledger-unavailable"),
    ),
    Operation(
        *("get", "/v1/schedules/{name}", "read_schedule", "Read a schedule"),
        tag="schedules",
        description="The `ETag` is the version's: `last_run`, `next_run` and the like change without it.",
        parameters=("If-None-Match",),
        answers={200: Answer("The schedule.", documents.Schedule, headers=("ETag",)), 304: _NOT_MODIFIED},
        problems=_SCHEDULE,
    ),
    Operation(
        *("put", "/v1/schedules/{name}", "put_schedule", "Make a schedule, or replace it"),
        tag="schedules",
        parameters=("If-Match", "If-None-Match"),
        body=ScheduleFields,
        answers={
            200: Answer("The schedule, replaced.", documents.Schedule, headers=("ETag",)),
            201: Answer("The schedule, which is new.", documents.Schedule, headers=("Location", "ETag")),
        },
        problems=(*_FIELDS, *_CHANGE, "schedule-exists", "ledger-unavailable"),
    ),
    Operation(
        *("patch", "/v1/schedules/{name}", "change_schedule", "Change a schedule"),
        tag="schedules",
        parameters=("If-Match", "If-None-Match"),
        body=ScheduleChange,
        body_type="application/merge-patch+json",
        answers={200: Answer("The schedule, changed.", documents.Schedule, headers=("ETag",))},
        problems=(*_FIELDS, *_CHANGE, *_SCHEDULE),
    ),
    Operation(
        *("delete", "/v1/schedules/{name}", "delete_schedule", "Remove a schedule"),
        tag="schedules",
        parameters=("If-Match", "If-None-Match"),
        answers={204: Answer("It is gone. Jobs that it has begun go on.")},
        problems=(*_CHANGE, *_SCHEDULE),
    ),
    Operation(
        *("post", "/v1/schedules/{name}/run", "run_schedule", "Run a schedule now"),
        tag="schedules",
        parameters=("Prefer",),
        body=_object(),
        body_required=False,
        answers=_accepted(documents.Job),
        problems=(*_BODY, *_RUN, "unpublishable", "shutting-down"),
    ),
    Operation(
        *(
            "post",
            "/v1/schedules/{name}/pause",
            "pause_schedule",
            "Pause a schedule, until a time or for good",
        ),
        tag="schedules",
        body=Pause,
        body_required=False,
        answers={200: Answer("The schedule.", documents.Schedule, headers=("ETag",))},
        problems=(*_BODY, *_SCHEDULE, "invalid-schedule", "schedule-conflict"),
    ),
    Operation(
        *("post", "/v1/schedules/{name}/resume", "resume_schedule", "Resume a schedule that was paused or halted"),
        tag="schedules",
        body=_object(),
        body_required=False,
        answers={200: Answer("The schedule.", documents.Schedule, headers=("ETag",))},
        problems=(*_BODY, *_RUN),
    ),
    Operation(
        *("post", "/v1/schedules/{name}/backfill", "backfill_schedule", "Run a schedule for slots that are past"),
        tag="schedules",
        description='Each slot that had no job gets one. Without `"dry_run": false` it only says which these are.',
        body=Backfilling,
        answers={
            200: Answer("What it would begin.", documents.Backfill),
            202: Answer("What it began.", documents.Backfill),
        },
        problems=(*_BODY, *_RUN, "unpublishable", "backfill-too-large"),
    ),
    Operation(
        *("get", "/v1/schedules/{name}/next", "list_next_runs", "See when a schedule is due next"),
        tag="schedules",
        parameters=("count",),
        answers={200: Answer("When, and the schedule in words.", documents.Slots)},
        problems=(*_SCHEDULE, "invalid-query"),
    ),
    Operation(
        *("get", "/v1/schedules/{name}/runs", "list_runs", "See what became of a schedule's runs"),
        tag="schedules",
        answers={200: Answer("The last runs that were due.", documents.ScheduleRuns)},
        problems=_SCHEDULE,
    ),
    Operation(
        *("get", "/v1/me", "read_me", "Who am I, and what may I do?"),
        tag="service",
        answers={200: Answer("What the key may do.", documents.Me)},
    ),
    Operation(
        *("get", "/v1/statistics", "read_statistics", "See what has happened to everybody's jobs"),
        tag="monitoring",
        description="By minute (of the last 2 hours), hour (8 days) or day (400 days), UTC. What is no longer kept is "
        "left out.",
        parameters=("statistics_since", "statistics_until", "step", "statistics_task", "statistics_queue"),
        answers={200: Answer("The statistics.", documents.Statistics)},
        problems=("invalid-query",),
    ),
    Operation(
        *("get", "/v1/queues", "list_queues", "List the queues: how deep, and who takes from them"),
        tag="monitoring",
        answers={200: Answer("The queues.", documents.Queues)},
    ),
    Operation(
        *("get", "/v1/workers", "list_workers", "List the workers, and what they run"),
        tag="monitoring",
        answers={200: Answer("The workers.", documents.Workers)},
    ),
    Operation(
        *("post", "/v1/queues/{queue}/pause", "pause_queue", "Have no worker take from a queue"),
        tag="monitoring",
        description="Now or later: workers that are started meanwhile do not either. What they have taken they run.",
        body=_object(),
        body_required=False,
        answers={200: Answer("The queue.", documents.Queue)},
        problems=(*_BODY, "unknown-queue"),
    ),
    Operation(
        *("post", "/v1/queues/{queue}/resume", "resume_queue", "Have the workers take from a paused queue again"),
        tag="monitoring",
        body=_object(),
        body_required=False,
        answers={200: Answer("The queue.", documents.Queue)},
        problems=(*_BODY, "unknown-queue"),
    ),
    Operation(
        *("post", "/v1/queues/{queue}/purge", "purge_queue", "End all jobs of a queue that have not begun"),
        tag="monitoring",
        description="They are `REVOKED`, those too that are not due yet; then the broker's queue is emptied.",
        body=Purge,
        answers={200: Answer("What was in it.", documents.Purged)},
        problems=(*_BODY, "unknown-queue", "unconfirmed", "broker-unavailable", "result-backend-unavailable"),
    ),
    Operation(
        *("post", "/v1/workers/{worker}/shutdown", "shut_down_worker", "Have a worker end once its tasks have"),
        tag="monitoring",
        body=_object(),
        body_required=False,
        answers={202: Answer("It was told.", documents.WorkerAnswer)},
        problems=(*_BODY, "unknown-worker", "broker-unavailable"),
    ),
    *(
        Operation(
            *("post", f"/v1/workers/{{worker}}/{word}", f"{word}_worker", f"Have a worker run {more} tasks at once"),
            tag="monitoring",
            body=Resize,
            body_required=False,
            answers={200: Answer("What it said.", documents.WorkerAnswer)},
            problems=(*_BODY, "unknown-worker", "worker-refused", "worker-timeout", "broker-unavailable"),
        )
        for word, more in (("grow", "more"), ("shrink", "fewer"))
    ),
    Operation(
        *("get", "/v1/audit", "list_audit", "Who changed what, newest first"),
        tag="service",
        parameters=("limit", "cursor"),
        answers={200: Answer("A page.", documents.AuditEntries)},
        problems=("invalid-query", "invalid-cursor", "ledger-unavailable"),
    ),
    Operation(
        *("get", "/metrics", "read_metrics", "Metrics for Prometheus"),
        tag="monitoring",
        answers={200: Answer("Its text format, 0.0.4.", {"type": "string"}, media_types=("text/plain",))},
    ),
    Operation(
        *("get", "/healthz", "check_health", "Is the process alive?"),
        tag="service",
        is_public=True,
        answers={200: Answer("Its loop turns.", documents.Health)},
    ),
    Operation(
        *("get", "/readyz", "check_readiness", "Can jobs be accepted and read?"),
        tag="service",
        is_public=True,
        parameters=("verbose",),
        answers={200: Answer("Now they can.", documents.Readiness)},
        problems=("not-ready", "shutting-down"),
    ),
    Operation(
        *("get", "/openapi.json", "read_openapi", "This document"),
        tag="service",
        is_public=True,
        answers={200: Answer("OpenAPI 3.1.", {"type": "object"}, headers=("ETag",)), 304: _NOT_MODIFIED},
    ),
    Operation(
        *("get", "/docs", "read_docs", "This document, for people"),
        tag="service",
        is_public=True,
        answers={
            200: Answer("A page.", {"type": "string"}, media_types=("text/html",), headers=("ETag",)),
            304: _NOT_MODIFIED,
        },
    ),
    Operation(
        *("get", "/docs/{file}", "read_docs_file", "What the page consists of"),
        tag="service",
        is_public=True,
        answers={
            200: Answer("A file.", {}, media_types=("text/javascript", "text/css"), headers=("ETag",)),
            304: _NOT_MODIFIED,
        },
        problems=("not-found",),
    ),
    Operation(
        *("get", "/", "read_dashboard", "The dashboard, for people"),
        tag="service",
        is_public=True,
        answers={
            200: Answer("A page.", {"type": "string"}, media_types=("text/html",), headers=("ETag",)),
            304: _NOT_MODIFIED,
        },
    ),
    Operation(
        *("get", "/dashboard/{part}", "read_dashboard_file", "What the dashboard consists of"),
        tag="service",
        is_public=True,
        answers={
            200: Answer("A file.", {}, media_types=("text/javascript", "text/css", "image/svg+xml"), headers=("ETag",)),
            304: _NOT_MODIFIED,
        },
        problems=("not-found",),
    ),
)


def _queried(parameters: dict[str, Schema]) -> dict[str, Schema]:
    return {name: {"in": "query", **parameter} for name, parameter in parameters.items()}


PARAMETERS: dict[str, Schema] = {
    "task": {"in": "path", "description": "A task's name.", "schema": {"type": "string"}},
    "id": {"in": "path", "description": "A job's id.", "schema": {"type": "string"}},
    "failure": {"in": "path", "description": "The id of a group of failures.", "schema": {"type": "string"}},
    "queue": {"in": "path", "description": "A queue's name.", "schema": {"type": "string"}},
    "worker": {"in": "path", "description": "A worker's node name.", "schema": {"type": "string"}},
    "delivery": {"in": "path", "description": "A delivery's id.", "schema": {"type": "string"}},
    "name": {"in": "path", "description": "A schedule's name.", "schema": {"type": "string"}},
    "file": {"in": "path", "description": "A file's name.", "schema": {"type": "string", "enum": [*docs.FILES]}},
    "part": {"in": "path", "description": "A file's name.", "schema": {"type": "string", "enum": [*dashboard.FILES]}},
    "Prefer": {
        "in": "header",
        "description": f"RFC 7240: `wait=N` waits for up to N seconds until the job is done; N is at most {MAX_WAIT}.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "The same request with the same key is answered again, and not done again, for a day.",
        "schema": {"type": "string"},
    },
    "If-Match": {
        "in": "header",
        "description": "RFC 9110: only if the schedule is there (`*`) and has one of these entity tags.",
        "schema": {"type": "string"},
    },
    "If-None-Match": {
        "in": "header",
        "description": "RFC 9110: only if the schedule is not there (`*`), or has none of these entity tags.",
        "schema": {"type": "string"},
    },
    "Last-Event-ID": {
        "in": "header",
        "description": "The id of the last event that was seen; an `EventSource` sends it by itself.",
        "schema": {"type": "string"},
    },
    "after": {
        "in": "query",
        "description": "The same, for those that can't set the header.",
        "schema": {"type": "string"},
    },
    "job": {
        "in": "query",
        "description": "A job's id, up to 100 times.",
        "schema": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 100},
    },
    **_queried(
        {
            "filter_task": {"name": "task", "schema": {"type": "string", "maxLength": 500}},
            "filter_state": {"name": "state", "schema": {"type": "string", "enum": [*STATES]}},
            "filter_tag": {
                "name": "tag",
                "description": "Only those with all of these.",
                "schema": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 100},
                    "maxItems": 20,
                },
            },
            "filter_since": {
                "name": "since",
                "description": "Only jobs accepted at this time or later.",
                "schema": {"type": "string", "format": "date-time"},
            },
            "filter_dead": {
                "name": "dead",
                "description": "With `true` only jobs that were given up, as worker after worker was lost with them.",
                "schema": {"type": "boolean", "default": False},
            },
            "filter_failure": {
                "name": "failure",
                "description": "Only those of this group of failures that have not been tried again.",
                "schema": {"type": "string", "maxLength": 50},
            },
            "filter_enabled": {"name": "enabled", "schema": {"type": "boolean"}},
            "count": {"schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}},
            "statistics_since": {
                "name": "since",
                "description": "A moment in the first step; without it, there are 60 minutes, 24 hours or 30 days.",
                "schema": {"type": "string", "format": "date-time"},
            },
            "statistics_until": {
                "name": "until",
                "description": "A moment in the last step; now, without it.",
                "schema": {"type": "string", "format": "date-time"},
            },
            "step": {"schema": {"type": "string", "enum": [*PERIODS], "default": "minute"}},
            "statistics_task": {
                "name": "task",
                "description": "Only jobs of this task.",
                "schema": {"type": "string", "maxLength": 500},
            },
            "statistics_queue": {
                "name": "queue",
                "description": "Only jobs of this queue.",
                "schema": {"type": "string", "maxLength": 500},
            },
            "verbose": {
                "description": "With it, whatever its value, admins are told of the broker and of what is unsafe.",
                "allowEmptyValue": True,
                "schema": {"type": "string"},
            },
            "limit": {"schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}},
            "cursor": {
                "description": "The `next_cursor` of the page before.",
                "schema": {"type": "string", "maxLength": 500},
            },
        }
    ),
}

HEADERS: dict[str, Schema] = {
    "X-Request-Id": {"description": "Names the request in the service's log.", "required": True},
    "traceparent": {
        "description": "The request's (W3C Trace Context), or a new one; where the service is traced, its own.",
        "required": True,
    },
    "Location": {"description": "The path of what was made.", "required": True},
    "Retry-After": {"description": "Seconds after which to ask again."},
    "Preference-Applied": {"description": "For how many seconds the service would wait: `wait=N`."},
    "ETag": {"description": "Names this version of the content.", "required": True},
}

TAGS = {
    "tasks": "Which tasks there are.",
    "submit": "Submitting a job: one operation for each task.",
    "jobs": "What becomes of a job.",
    "schedules": "What is run when.",
    "monitoring": "What goes on, of everybody's jobs.",
    "service": "The process, and this document.",
}

LINKS = {name: {"operationId": name, "parameters": {"id": "$response.body#/id"}} for name in _JOB_LINKS}


def make_document(catalogue: Catalogue) -> dict[str, Any]:
    """Return the OpenAPI document of the service for these tasks."""
    slugs = _slugs(task.name for task in catalogue)
    operations = [*OPERATIONS, *(_submission(task, slugs[task.name]) for task in catalogue)]
    schemas = deepcopy(_fixed_schemas(_types(operations)))
    for task in catalogue:
        schemas |= _task_schemas(task, slugs[task.name])
    for name in ("JobOptions", "RunOptions"):
        schemas[name]["properties"]["queue"]["anyOf"][0]["enum"] = sorted(catalogue.queues)
    for name in ("NewSchedule", "ScheduleFields"):
        schemas[name]["properties"]["task"]["enum"] = [*slugs]
    return {
        "openapi": "3.1.1",
        "info": {"title": "Jobs over Celery", "version": __version__, "description": DESCRIPTION},
        # Relative to this document, so that it holds under whatever prefix a proxy puts the service.
        "servers": [{"url": ".", "description": "this service"}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": _paths(operations),
        "components": {
            "schemas": schemas,
            "responses": dict(chain.from_iterable(map(_problem_responses, operations))),
            "parameters": {name: _parameter(name) for name in PARAMETERS},
            "headers": {name: _header(name) for name in HEADERS},
            "links": LINKS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Where keys are set up."}},
        },
    }


# Operations.


def _paths(operations: Iterable[Operation]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    answers = {str(status): _answer(answer) for status, answer in operation.answers.items()}
    problems = {key.split(".")[0]: _ref("responses", key) for key in dict(_problem_responses(operation))}
    shown: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [_ref("parameters", name) for name in _parameter_names(operation)],
        "responses": answers | problems,
        # None is needed where none are set up.
        "security": [] if operation.is_public else [{}, {"key": []}],
    }
    if operation.body is not None:
        content = {operation.body_type: {"schema": _schema_of(operation.body)}}
        shown["requestBody"] = {"required": operation.body_required, "content": content}
    return {name: value for name, value in shown.items() if value != "" and (value != [] or name == "security")}


def _parameter_names(operation: Operation) -> list[str]:
    return [*re.findall(r"{(\w+)}", operation.path), *operation.parameters]


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "required": PARAMETERS[name]["in"] == "path", **PARAMETERS[name]}


def _answer(answer: Answer) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "description": answer.description,
        "headers": {name: _ref("headers", name) for name in (*_NAMES, *answer.headers)},
    }
    if answer.body is not None:
        content = {"schema": _schema_of(answer.body)} if answer.body else {}
        shown["content"] = dict.fromkeys(answer.media_types, content)
    if answer.links:
        shown["links"] = {name: _ref("links", name) for name in answer.links}
    return shown


def _schema_of(body: Any) -> Schema:
    return body if isinstance(body, dict) else _ref("schemas", body.__name__)


def _header(name: str) -> dict[str, Any]:
    return {**HEADERS[name], "schema": {"type": "string"}}


# Problems.


def _problem_responses(operation: Operation) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield one response for each status with which an operation may fail; its name says the codes, so it is shared."""
    by_status: dict[int, list[str]] = {}
    keyed = () if operation.is_public else _KEY
    for code in dict.fromkeys((*_ALWAYS, *keyed, *operation.problems)):
        by_status.setdefault(KINDS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        yield ".".join([str(status), *sorted(codes)]), _problem_response(status, sorted(codes))


def _problem_response(status: int, codes: list[str]) -> dict[str, Any]:
    headers: dict[str, Any] = {name: _ref("headers", name) for name in _NAMES}
    if status in (409, 429, 503):
        headers["Retry-After"] = _ref("headers", "Retry-After")
    if "dispatch-uncertain" in codes:
        headers["Location"] = {**_header("Location"), "required": False}
    examples = {code: {"value": _example(code)} for code in codes}
    return {
        "description": "\n".join([f"{title(status)}:\n", *(f"- `{code}`: {KINDS[code].when}" for code in codes)]),
        "headers": headers,
        "content": {CONTENT_TYPE: {"schema": _ref("schemas", "Problem"), "examples": examples}},
    }


def _example(code: str) -> documents.Problem:
    kind = KINDS[code]
    return {
        "type": type_uri(code),
        "title": title(kind.status),
        "status": kind.status,
        "detail": kind.when,
        "instance": "/v1/…",
        "code": code,
        "request_id": "3b3f3c7a5a1a8a54",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


# Schemas.


def _types(operations: Iterable[Operation]) -> frozenset[tuple[type, str]]:
    """Return all types that are read and written, whatever the tasks are."""
    read = [JobOptions, *(operation.body for operation in operations)]
    written = [answer.body for operation in operations for answer in operation.answers.values()]
    modes = {"validation": read, "serialization": [*written, documents.Event, documents.Problem]}
    return frozenset((kind, mode) for mode, bodies in modes.items() for kind in bodies if isinstance(kind, type))


@cache
def _fixed_schemas(types: frozenset[tuple[type, str]]) -> dict[str, Schema]:
    """Return their schemas; they take a quarter of a second, and are the same for every service of a process."""
    inputs: Any = [(kind, mode, TypeAdapter(kind)) for kind, mode in types]
    _, schemas = TypeAdapter.json_schemas(inputs, ref_template=f"{SCHEMAS}{{model}}")
    return {name: _untitled(schema) for name, schema in sorted(schemas["$defs"].items())}


def _untitled(schema: Schema) -> Schema:
    """Return *schema* without its title: client generators name a class after that, and they are all called Input."""
    return {name: value for name, value in schema.items() if name != "title"}


def _lift(name: str, make: Callable[[str], Schema]) -> dict[str, Schema]:
    """Return a schema and those that it refers to, each as a component of its own."""
    schema = make(f"{SCHEMAS}{name}.{{model}}")
    parts = schema.pop("$defs", {})
    return {name: _untitled(schema), **{f"{name}.{model}": _untitled(part) for model, part in parts.items()}}


# Tasks.


def _slugs(names: Iterable[str]) -> dict[str, str]:
    """Return what stands for each name in identifiers; a checksum tells apart what would be the same."""
    plain = {name: re.sub(r"[^A-Za-z0-9_]", "_", name) for name in names}
    count = Counter(plain.values())
    return {
        name: slug if count[slug] == 1 else f"{slug}_{zlib.crc32(name.encode()):08x}" for name, slug in plain.items()
    }


def _submission(task: ExposedTask, slug: str) -> Operation:
    job = _ref("schemas", f"{slug}.job")
    return Operation(
        *("post", f"/v1/tasks/{quote(task.name, safe='')}/jobs", f"submit_{slug}", task.summary or task.name),
        tag="submit",
        description=task.description,
        parameters=("Prefer", "Idempotency-Key"),
        body=_ref("schemas", f"{slug}.submission"),
        answers=_accepted(job),
        problems=(*_BODY, *_SUBMIT),
    )


def _task_schemas(task: ExposedTask, slug: str) -> dict[str, Schema]:
    """Return what a task takes, as the body of a request; and what it returns, as part of a job."""
    given = _lift(f"{slug}.input", task.make_input_schema)
    returned = _lift(f"{slug}.result", task.make_result_schema)
    named = given[f"{slug}.input"]
    ways = [_ref("schemas", f"{slug}.input"), *_positional(task, named)]
    submission = {
        "type": "object",
        "properties": {
            "input": {"anyOf": ways} if len(ways) > 1 else ways[0],
            "options": _ref("schemas", "JobOptions"),
        },
        "required": ["input"] if named.get("required") else [],
        "additionalProperties": False,
    }
    result = {"type": "object", "properties": {"result": _ref("schemas", f"{slug}.result")}}
    job = {"allOf": [_ref("schemas", "Job"), result]}
    return {**given, **returned, f"{slug}.submission": submission, f"{slug}.job": job}


def _positional(task: ExposedTask, named: Schema) -> list[Schema]:
    """Return the schema of a list of arguments; none if some parameter that must be there has nothing but a name."""
    required, names = named.get("required", []), task.positional
    if not set(required) <= set(names):
        return []
    schema: Schema = {"type": "array", "minItems": len(required)}
    if names:
        schema["prefixItems"] = [named["properties"][name] for name in names]
    else:
        schema["items"] = {}  # openapi-python-client takes no array without either
    if not task.takes_any:
        schema["maxItems"] = len(names)
    return [schema]
