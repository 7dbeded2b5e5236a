"""The values that the ledger holds and answers with."""

import dataclasses
import json
import zlib
from typing import Any, Literal, NamedTuple, Self

from celery import states

from tornado_celery_bridge.base.json import dumps, loads_safely
from tornado_celery_bridge.base.states import ENDED, SUCCEEDED
from tornado_celery_bridge.base.store import Stored
from tornado_celery_bridge.exceptions import BridgeError

#: The fields of a job's hash that are read. Each job has the first one.
FIELDS = (
    *("task", "owner", "queue", "created_at", "priority", "eta", "tags", "options", "retry_of", "workflow"),
    *("schedule", "traceparent", "expires"),
    *("state", "attempt", "started_at", "finished_at", "worker", "number", "stored", "due", "on_hold", "items"),
)
_JSON: dict[str, type] = {"tags": list, "options": dict}
_RECORD = FIELDS[: FIELDS.index("state")]
#: Bytes that a job's id may have: as many as RabbitMQ's ``correlation_id``, where Celery puts it.
MAX_ID = 255
#: Bytes of a traceback that are kept. They are its last ones, which say where the exception was raised.
MAX_TRACEBACK = 16 * 1024
#: Characters of an input in a list, and the bytes that are read for them.
MAX_BRIEF, BRIEF_BYTES = 100, 256
_NUMBERS = (
    *("priority", "created_at", "eta", "expires"),
    *("attempt", "started_at", "finished_at", "number", "due", "items"),
)


class LedgerUnavailable(BridgeError):
    """
    The ledger's Redis did not answer in time, or refused.

    What was asked for may have been done all the same: a job may have been accepted. Try again with the same id (or the
    same ``Idempotency-Key``), or ask for the job first.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """
    A job as it was submitted, without its input. Times are milliseconds since 1970.

    .. versionadded:: 0.1.0
    """

    #: The Celery task's id: 1 to 255 bytes of printable characters without blanks and commas.
    id: str
    #: The task's name.
    task: str
    #: Who submitted it; empty where there are no owners.
    owner: str
    queue: str
    created_at: int
    #: From 0 to 9, where 9 is the most urgent; None leaves it to the broker.
    priority: int | None = None
    #: When it is due; None for at once.
    eta: int | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    #: The options that were sent, without the tags.
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: The id of the job that this one tries again.
    retry_of: str | None = None
    #: The id of its workflow.
    workflow: str | None = None
    #: The name of the schedule entry that it is a run of.
    schedule: str | None = None
    #: The parent of the callback in its trace, as W3C Trace Context spells it: at first the request, in the end the
    #: attempt that ended the job. None for a job that does not call back.
    traceparent: str | None = None
    #: When it expires, if it has not begun; None for never.
    expires: int | None = None

    @property
    def callback_url(self) -> str | None:
        """The URL that is called when the job has ended; None for none."""
        return self.options.get("callback_url")

    def encode(self) -> str:
        """Return the fields that are not empty, as JSON: so the commands take them."""
        check_id(self.id)
        given = {name: getattr(self, name) for name in _RECORD}
        given |= {name: given[name] and dumps(given[name]) for name in _JSON}
        stored = {name: str(value) for name, value in given.items() if value not in (None, [], {})}
        return dumps(stored)


class Checkpoint(NamedTuple):
    """
    Where a job is, as its task has saved it (:mod:`tornado_celery_bridge.checkpoints`).

    .. versionadded:: 0.1.0
    """

    #: What was saved, by its names.
    value: dict[str, Any]
    #: Milliseconds since 1970, by the server's clock.
    saved_at: int
    #: Which attempt saved it, counted from 1. (Of another try that goes on: which attempt of the job before.)
    attempt: int


class JobItem(NamedTuple):
    """
    What a job's task, a generator, has yielded once.

    .. versionadded:: 0.1.0
    """

    #: The number of the event that told of it.
    id: int
    #: Which attempt yielded it, counted from 1.
    attempt: int
    #: Which item of that attempt it is, counted from 1.
    number: int
    #: JSON.
    value: Any

    @classmethod
    def of_row(cls, row: bytes) -> Self:
        """Return the item that is stored as its event's number, a blank, and the event's data."""
        event, _, data = row.decode().partition(" ")
        return cls(int(event), **loads_safely(data))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    A job as the ledger has it: its record, and what has happened to it.

    .. versionadded:: 0.1.0
    """

    record: JobRecord
    #: Celery's state, in capitals, or one of the task's own.
    state: str = states.PENDING
    #: Whether it is held back: it waits, and nothing begins it.
    on_hold: bool = False
    #: How often it has begun.
    attempt: int = 0
    #: Milliseconds since 1970.
    started_at: int | None = None
    finished_at: int | None = None
    #: While it runs, what its task has told with its state; of progress ``{"current", "total", "message"}``.
    progress: Any = None
    #: While it waits for its next attempt after a retry: when that is due.
    due: int | None = None
    #: What the task returned, as JSON.
    result: Any = None
    #: Where the result is, if it is large; then :attr:`result` is None.
    stored: Stored | None = None
    #: ``{"type", "module", "message"}`` if it failed, was cancelled or will be tried again. If it was given up, because
    #: its workers were lost again and again, also ``"kind": "dead-lettered"``; because no worker began it, however
    #: often its message was published, ``"kind": "undelivered"``.
    error: dict[str, str] | None = None
    #: The traceback of a failure, as text, if its worker told it. None in a list of jobs. It may quote values of the
    #: task's code, so not everybody who may see the job may see it.
    traceback: str | None = None
    #: Where its next attempt goes on, if its task has saved that; None once it succeeded, and in a list of jobs.
    checkpoint: Checkpoint | None = None
    #: How many jobs are in its queue; None if it does not wait in one, and in a list of jobs.
    queue_depth: int | None = None
    #: The last event's number; 0 if there was none since it was accepted.
    number: int = 0
    #: How many items its task, a generator, has yielded, in all attempts together.
    items: int = 0
    #: The node name of the worker that began its last attempt.
    worker: str | None = None
    #: The bytes that its result, error or progress has as JSON, if that was left out; else 0.
    left_out: int = 0
    #: In a list of jobs: how the JSON of its input begins; None of a large input, which is in a blob.
    brief: str | None = None

    @property
    def owner(self) -> str:
        """Who submitted it."""
        return self.record.owner

    @property
    def done(self) -> bool:
        """Whether it has ended, whatever its state is."""
        return self.state in ENDED

    @classmethod
    def of_row(cls, row: list[Any]) -> Self:
        """Return the job of a row: its id, its ``FIELDS`` and its value."""
        job_id, *fields, value = row
        given: dict[str, Any] = {
            name: int(field) if name in _NUMBERS else field.decode(errors="replace")
            for name, field in zip(FIELDS, fields, strict=True)
            if field is not None
        }
        given |= {name: _member(name, given[name]) for name in _JSON if name in given}
        record = JobRecord(id=job_id.decode(), **{name: given.pop(name) for name in _RECORD if name in given})
        state, is_stored = given["state"], given.pop("stored", None) is not None
        given["on_hold"] = given.pop("on_hold", None) is not None
        if state != states.RETRY:
            given.pop("due", None)  # as its record has it
        if value is not None and is_stored:
            given["stored"] = Stored.decode(json.loads(value))
        elif isinstance(value, int):
            given["left_out"] = value
        elif value is not None:
            ended = "result" if state in SUCCEEDED else "error"
            told = loads_safely(value)
            if ended == "error" and not isinstance(told, dict) and (state == states.RETRY or state in ENDED):
                told = {"type": "Exception", "module": "builtins", "message": str(told)}
            given[ended if state == states.RETRY or state in ENDED else "progress"] = told
        return cls(record=record, **given)


def _member(name: str, stored: str) -> Any:
    """Return a record's tags or options; none if they can't be read."""
    kind, told = _JSON[name], loads_safely(stored)
    return told if isinstance(told, kind) else kind()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRecord:
    """
    A workflow as it was submitted. Times are milliseconds since 1970.

    .. versionadded:: 0.1.0
    """

    id: str
    #: Who submitted it; empty where there are no owners.
    owner: str
    tags: list[str]
    created_at: int
    #: Made of ``{"chain": […]}``, ``{"group": […]}``, ``{"chord": {"header": […], "body": …}}`` and ids of jobs.
    tree: dict[str, Any]
    #: The id of the job that runs when another one does not succeed, unless the whole workflow is cancelled.
    on_error: str | None = None

    def encode(self) -> bytes:
        """Return the record as it is stored."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, stored: bytes | str) -> Self:
        """Return the record that was stored."""
        return cls(**json.loads(stored))


class Workflow(NamedTuple):
    """
    A workflow as the ledger has it: its record, and what has happened to it.

    .. versionadded:: 0.1.0
    """

    record: WorkflowRecord
    #: The jobs, by their ids.
    jobs: dict[str, "Job"]
    #: Whether the whole workflow was cancelled.
    cancelled: bool = False

    @property
    def owner(self) -> str:
        """Who submitted it."""
        return self.record.owner

    @property
    def done(self) -> bool:
        """Whether all of its jobs have ended."""
        return all(job.done for job in self.jobs.values())


class Step(NamedTuple):
    """
    A job of a workflow that is to be accepted.

    .. versionadded:: 0.1.0
    """

    record: JobRecord
    input: dict[str, Any] | list[Any] | Stored
    #: Seconds until it is due; None if it comes after other jobs.
    delay: float | None
    #: The name of the list of jobs that come after it; None if none do.
    before: str | None
    #: The signature of the job that runs on an error, as a mapping, with :func:`error_mark` among its arguments.
    message: dict[str, Any] | None = None


def check_id(job_id: str) -> None:
    """
    Check a job's id: printable characters without blanks and commas, 1 to 255 bytes in UTF-8.

    RabbitMQ takes no longer one; a comma separates ids in lists.

    Raises:
        ValueError: It is not of this form.
    """
    if not job_id.isprintable() or " " in job_id or "," in job_id or not 1 <= len(job_id.encode()) <= MAX_ID:
        raise ValueError(
            f"the id {job_id[:40]!r} is not one of a job: it should be 1 to {MAX_ID} bytes of printable characters "
            "without blanks and commas"
        )


def brief_of(begin: bytes) -> str | None:
    """Return how an input begins, of its first ``BRIEF_BYTES`` bytes; None if they are the name of a blob."""
    text = begin.decode("utf-8", "ignore")
    if not text or text.startswith('"'):
        return None
    return text if len(text) <= MAX_BRIEF and len(begin) < BRIEF_BYTES else f"{text[: MAX_BRIEF - 1]}…"


def pack_traceback(text: str) -> bytes:
    """Return a traceback as it is stored: its last 16 KiB, compressed. Most take some 500 bytes then."""
    whole = text.encode("utf-8", "backslashreplace")
    last = whole[-MAX_TRACEBACK:]
    return zlib.compress(last if last == whole else "…".encode() + last)


def unpack_traceback(stored: bytes) -> str:
    """Return a traceback that was stored. If it was cut, it may have lost a character at the beginning."""
    return zlib.decompress(stored).decode("utf-8", "ignore")


def error_mark(workflow_id: str) -> str:
    """Return the mark that the ledger replaces by ``{"job", "task", "state", "error"}`` of the job that failed."""
    return f"error of {workflow_id}"


class Gone(NamedTuple):
    """
    A job or a workflow that was forgotten, as its time is over.

    .. versionadded:: 0.1.0
    """

    owner: str


class Page(NamedTuple):
    """
    Jobs of a list, newest first.

    .. versionadded:: 0.1.0
    """

    jobs: list[Job]
    #: The cursor of the next page; None at the end.
    cursor: str | None
    #: How many bytes the jobs have in the ledger, about.
    size: int = 0


class FailureGroup(NamedTuple):
    """
    Jobs of one owner that failed alike: the same task raised the same at the same place. Times are milliseconds since
    1970, by the server's clock.

    .. versionadded:: 0.1.0
    """

    id: str
    owner: str
    task: str
    #: The exception's name with its module.
    exception: str
    #: The file, and the function in it, that raised it; empty if that is not known.
    place: str
    #: The first 300 characters of the last exception's message.
    detail: str
    first_seen: int
    last_seen: int
    #: How often this was seen, since the first time or since the group was last resolved.
    times: int
    #: How many of these jobs are still kept and have not been tried again.
    jobs: int

    @classmethod
    def of_row(cls, row: list[Any]) -> Self:
        """Return the group of a row that the command ``failures`` answers."""
        texts = [value.decode("utf-8", "replace") for value in row[:6]]
        return cls(*texts, *(int(value) for value in row[6:]))


class Purged(NamedTuple):
    """
    What was purged from a queue.

    .. versionadded:: 0.1.0
    """

    #: How many jobs have ended by it.
    jobs: int
    #: How many messages the broker had, as it counts them.
    messages: int


class Event(NamedTuple):
    """
    Something that happened to a job.

    .. versionadded:: 0.1.0
    """

    #: Counted from 1 for each job, without gaps.
    number: int
    #: ``state``, ``progress``, ``log``, ``checkpoint`` or ``end``; or ``snapshot``, in the place of events that are no
    #: longer kept.
    kind: str
    #: JSON.
    data: str


class Reservation(NamedTuple):
    """
    An idempotency key that a request holds.

    .. versionadded:: 0.1.0
    """

    #: The key, with its owner.
    name: str
    #: The fingerprint of the request. A request with the same key and another fingerprint is refused.
    fingerprint: str


class Acceptance(NamedTuple):
    """
    Whether a job or a workflow was accepted, and if not, why.

    ``accepted``; ``taken-over`` (whoever had reserved the key has not answered in time: publish it); ``exists`` (the
    key's own time is over, its job's is not); ``replay`` (answered before); ``in-flight``; ``other`` (another request
    with the same key); ``full`` (the owner has as many unfinished jobs as they may); ``unique`` (the same job is
    unfinished).

    .. versionadded:: 0.1.0
    """

    kind: str
    #: The response of a ``replay``; or the id of the job that is the same.
    response: bytes | None = None


class Claim(NamedTuple):
    """
    A callback that whoever has the claim is to make: it tells somebody of a job's end.

    .. versionadded:: 0.1.0
    """

    job_id: str
    #: The delivery's id; the same at every attempt.
    id: str
    #: The job's owner, a slash, and the host and port of the URL.
    receiver: str
    #: How many attempts have failed.
    tries: int
    #: When the claim ends, by the server's clock. This also identifies the claim.
    lease: str


class Delivery(NamedTuple):
    """
    How far the callback of a job is. Times are milliseconds since 1970.

    .. versionadded:: 0.1.0
    """

    #: The delivery's id; the same at every attempt.
    id: str
    state: Literal["waiting", "delivered", "failed"]
    #: The last attempts: each is ``{"at", "seconds"}`` with ``status`` or ``error``.
    attempts: list[Any]
    #: When the next attempt is due. While one is under way: when the next would be, should this one never end.
    next_attempt: int | None
