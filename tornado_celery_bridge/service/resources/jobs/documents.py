"""What is read and shown of jobs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from celery.states import ALL_STATES, RETRY
from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict

from tornado_celery_bridge import ledger
from tornado_celery_bridge.base.states import SUCCEEDED
from tornado_celery_bridge.progress import STATE as PROGRESS
from tornado_celery_bridge.schedules.entry import OWNED
from tornado_celery_bridge.service.http import moments
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Moment, Path, Problem, rfc3339
from tornado_celery_bridge.service.http.problems import type_uri
from tornado_celery_bridge.service.resources.jobs.options import JobOptions, check_is_near
from tornado_celery_bridge.service.resources.links import Links


class Progress(TypedDict):
    """How far a job is, in its own units."""

    current: float
    total: float | None
    message: str | None


class Checkpoint(TypedDict):
    """What a task has saved of a job, to go on from there."""

    value: Annotated[dict[str, Any], Field(description="What it saved, by the checkpoints' names.")]
    saved_at: Moment
    attempt: Annotated[int, Field(description="Which attempt saved it, counted from 1.")]


class Item(TypedDict):
    """What a task has yielded once."""

    id: Annotated[int, Field(description="The id of the event that told of it.")]
    attempt: Annotated[int, Field(description="Which attempt yielded it, counted from 1.")]
    number: Annotated[int, Field(description="Which item of that attempt it is, counted from 1.")]
    value: Any


class Items(TypedDict):
    """A page of items, in order."""

    items: list[Item]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins.")]


class JobError(TypedDict):
    """Why a job failed, was cancelled, or is tried again."""

    type: str
    title: str
    detail: Annotated[str, Field(description="Text as the worker wrote it.")]
    exception: Annotated[str, Field(description="The exception's class.")]
    retryable: Annotated[bool, Field(description="The worker failed or ran out of time, not the task's own code.")]
    traceback: NotRequired[
        Annotated[
            str, Field(description="In FAILURE, where a job is read alone, for operators and admins: the last 16 KiB.")
        ]
    ]


class JobLinks(TypedDict):
    """More about a job."""

    self: Path
    events: Path
    items: NotRequired[Annotated[Path, Field(description="What its task has yielded.")]]
    result: NotRequired[Annotated[Path, Field(description="The large result.")]]
    retry_of: NotRequired[Annotated[Path, Field(description="The job that this one tries again.")]]
    deliveries: NotRequired[Annotated[Path, Field(description="With a callback_url: the outcome of calling it.")]]
    workflow: NotRequired[Annotated[Path, Field(description="Its workflow.")]]
    schedule: NotRequired[Annotated[Path, Field(description="Its schedule.")]]


class _Job(TypedDict):
    id: str
    task: str
    state: Annotated[str, Field(description="Celery's, or the task's own.", examples=["PENDING", "SUCCESS", "FAILURE"])]
    done: bool
    progress: Annotated[Any, Field(description="In state PROGRESS: what the task reported, usually a Progress.")]
    queue: str
    priority: Annotated[int | None, Field(description="0 to 9, 9 the most urgent.")]
    attempt: Annotated[int, Field(description="How many times a worker has started it.")]
    tags: list[str]
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    eta: Moment | None
    held: Annotated[bool, Field(description="Whether it is held back: nothing begins it until it is released.")]
    links: JobLinks


class Job(_Job, total=False):
    """One run of a task."""

    meta: Annotated[Any, Field(description="In a state of the task's own only: what the task has told with it.")]
    result: Annotated[Any, Field(description="In state SUCCESS only: what the task returned, unless that is large.")]
    arguments: Annotated[
        str | None,
        Field(description="In a list: the input in short, the first 100 characters of its JSON; null of a large one."),
    ]
    result_size: Annotated[int, Field(description="Instead of a large result: its bytes. It is at links.result.")]
    items: Annotated[int, Field(description="How many items its task has yielded, in all attempts; if it has.")]
    error: Annotated[JobError, Field(description="In states FAILURE, REVOKED and RETRY only.")]
    schedule: Annotated[str, Field(description="The name of its schedule.")]
    metadata: Annotated[dict[str, str], Field(description="Texts of the client's own, by name.")]
    checkpoint: Annotated[
        Checkpoint, Field(description="If the job is read alone: where its next attempt goes on, if its task saved it.")
    ]
    queue_depth: Annotated[
        int, Field(description="In state PENDING, if the job is read alone: how many jobs its queue has.")
    ]


class Event(TypedDict):
    """One server-sent event."""

    event: Literal["state", "progress", "item", "log", "checkpoint", "changed", "end", "snapshot", "gone", "close"]
    data: Annotated[str, Field(json_schema_extra={"contentMediaType": "application/json"})]
    id: NotRequired[str]
    retry: NotRequired[Annotated[int, Field(description="Milliseconds.")]]


class Submission(TypedDict, total=False):
    """A job to submit: its input and its options."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    input: Annotated[dict[str, Any] | list[Any], Field(description="Named arguments, or positional ones.")]
    options: JobOptions


class Retry(Submission, total=False):
    """What is other than in the job that is submitted again."""

    from_checkpoint: Annotated[
        bool, Field(description="Go on from the job's checkpoint, and not from the beginning.", default=False)
    ]


class Batch(Body):
    """Jobs to submit."""

    jobs: Annotated[
        list[Annotated[Any, Field(description="`{task, input, options}`; one that does not fit is answered alone.")]],
        Field(min_length=1, max_length=1_000),
    ]


class Cancellation(Body):
    """How to cancel a job."""

    terminate: Annotated[bool, Field(description="End the process that runs it, too.")] = False


class Change(Body):
    """What is changed of a job that waits, as a merge patch (RFC 7396): what is not there stays."""

    eta: Annotated[
        Annotated[moments.Moment, AfterValidator(check_is_near)] | None,
        Field(description="It begins no sooner; null: as soon as it can."),
    ] = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    queue: str = ""
    input: Annotated[dict[str, Any] | list[Any], Field(description="All of it, in place of what it was.")] = {}
    held: Annotated[bool, Field(description="true: hold it back; false: release it.")] = False


class Jobs(TypedDict):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins.")]


class BatchAnswer(TypedDict):
    """The answer that one job of a batch would have had alone."""

    status: int
    job: NotRequired[Job]
    problem: NotRequired["Problem"]


class BatchAnswers(TypedDict):
    """The answers, in the order of the jobs."""

    jobs: list[BatchAnswer]


#: States of which it is known what is told with them.
_CELERYS = {*ALL_STATES, *SUCCEEDED, PROGRESS}

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


def listed(shown: ledger.Job, links: Links, *, result: bool = True) -> Job:
    """Return a job as it stands in a list."""
    return {**job(shown, links, result=result), "arguments": shown.brief}


def job(shown: ledger.Job, links: Links, *, traceback: bool = False, result: bool = True) -> Job:
    """
    Return a job: what was asked for, and what has become of it.

    Args:
        shown: The job.
        links: Where things are.
        traceback: Whether the reader may see it.
        result: Whether with what it returned; a large one is never there.
    """
    record = shown.record
    path = links.job(record.id)
    more: JobLinks = {"self": path, "events": f"{path}/events"}
    if record.retry_of is not None:
        more["retry_of"] = links.job(record.retry_of)
    if record.callback_url is not None:
        more["deliveries"] = f"{path}/deliveries"
    if record.workflow is not None:
        more["workflow"] = links.workflow(record.workflow)
    eta = shown.due if shown.state == RETRY else record.eta
    document: Job = {
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
        "eta": None if eta is None else rfc3339(eta),
        "held": shown.on_hold,
        "links": more,
    }
    if shown.state not in _CELERYS:
        document["meta"] = shown.progress
    if shown.items:
        document["items"] = shown.items
        more["items"] = f"{path}/items"
    if own := record.options.get("metadata"):
        document["metadata"] = own
    if record.schedule is not None:
        document["schedule"] = record.schedule.removeprefix(f"{record.owner}{OWNED}")
        more["schedule"] = links.schedule(record.schedule)
    size = shown.left_out if shown.stored is None else shown.stored.size
    if shown.state in SUCCEEDED and size:
        document["result_size"] = size
        more["result"] = f"{path}/result"
    elif shown.state in SUCCEEDED and result:
        document["result"] = shown.result
    if shown.error is not None:
        document["error"] = error(shown.state, shown.error)
        if traceback and shown.traceback is not None:
            document["error"]["traceback"] = shown.traceback
    if shown.checkpoint is not None:
        value, saved_at, attempt = shown.checkpoint
        document["checkpoint"] = {"value": value, "saved_at": rfc3339(saved_at), "attempt": attempt}
    if shown.queue_depth is not None:
        document["queue_depth"] = shown.queue_depth
    return document


def item(shown: ledger.JobItem) -> Item:
    """Return what a task has yielded once."""
    return {"id": shown.id, "attempt": shown.attempt, "number": shown.number, "value": shown.value}


def error(state: str, failure: Mapping[str, str]) -> JobError:
    """Return why a job failed: text, whatever it was."""
    name, module = failure["type"], failure["module"]
    code, title = _kind_of(state, failure)
    return {
        "type": type_uri(code),
        "title": title,
        "detail": failure["message"],
        "exception": f"{module}.{name}" if module else name,
        "retryable": code not in ("dead-lettered", "undelivered") and (state == "RETRY" or name in _RETRYABLE),
    }


def _kind_of(state: str, failure: Mapping[str, str]) -> tuple[str, str]:
    exception = failure["type"]
    if failure.get("kind") == "dead-lettered":
        return "dead-lettered", "The job was given up: worker after worker was lost while it ran the task."
    if failure.get("kind") == "undelivered":
        return "undelivered", "The job was given up: its message was published again and again, and no worker began it."
    if state == "REVOKED":
        return "task-revoked", "The job was cancelled, expired before it ran, or waited for one that did not succeed."
    if state == "RETRY":
        return "task-retry", "The task failed and will be tried again."
    if exception in ("TimeLimitExceeded", "SoftTimeLimitExceeded"):
        return "time-limit-exceeded", "The task ran for longer than it may."
    if exception == "WorkerLostError":
        return "worker-lost", "The worker died while it ran the task."
    return "task-failed", "The task raised an exception."
