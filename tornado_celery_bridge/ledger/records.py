"""What the ledger holds, as values."""

import dataclasses
import json
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

from celery import states

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.store import Stored
from tornado_celery_bridge.exceptions import BridgeError

__all__ = (
    "FIELDS",
    "Acceptance",
    "Claim",
    "Delivery",
    "Event",
    "FailureGroup",
    "Gone",
    "Job",
    "JobRecord",
    "LedgerUnavailable",
    "Page",
    "Purged",
    "Reservation",
    "Step",
    "Workflow",
    "WorkflowRecord",
    "error_mark",
    "pack_traceback",
    "unpack_traceback",
)

#: What of a job's hash is read. The first is one that each job has.
FIELDS = (
    *("task", "owner", "queue", "created_at", "priority", "eta", "tags", "options", "retry_of", "workflow"),
    *("schedule", "traceparent"),
    *("state", "attempt", "started_at", "finished_at", "worker", "number", "stored"),
)
_JSON = ("tags", "options")
_RECORD = FIELDS[: FIELDS.index("state")]
#: Bytes of a traceback that are kept: the last ones, which say where it was raised.
MAX_TRACEBACK = 16 * 1024
_NUMBERS = ("priority", "created_at", "eta", "attempt", "started_at", "finished_at", "number")


class LedgerUnavailable(BridgeError):
    """
    The ledger's Redis did not answer, or refused, in time. Nothing was accepted: try again later.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """
    A job as it was asked for, but for its input. Times are milliseconds since 1970.

    .. versionadded:: 0.1.0
    """

    #: The Celery task's id; of any length but 16 characters, which a packed UUID has.
    id: str
    #: The task's name.
    task: str
    #: Whose it is; empty where there are no owners.
    owner: str
    queue: str
    created_at: int
    #: 0 to 9, 9 the most urgent; None leaves it to the broker.
    priority: int | None = None
    #: When it is due, if that was not at once.
    eta: int | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    #: The options that were sent, but for tags.
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: The job of which this one is another try.
    retry_of: str | None = None
    #: The workflow that it is a job of.
    workflow: str | None = None
    #: The schedule entry that it is a run of.
    schedule: str | None = None
    #: Of a job that calls back, what that is a part of, as W3C Trace Context has it: the request, and in the end the
    #: attempt that ended the job.
    traceparent: str | None = None

    @property
    def callback_url(self) -> str | None:
        """Where its end is told."""
        return self.options.get("callback_url")

    def encode(self) -> str:
        """Return the fields that are not empty, as they are stored."""
        if len(self.id) == 16:
            raise ValueError("an id of 16 characters is taken for a packed UUID")
        given = {name: getattr(self, name) for name in _RECORD}
        given |= {name: given[name] and dumps(given[name]) for name in _JSON}
        stored = {name: str(value) for name, value in given.items() if value not in (None, [], {})}
        return dumps(stored)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    A job as the ledger has it: its record, and what has become of it.

    .. versionadded:: 0.1.0
    """

    record: JobRecord
    #: Celery's word, in capitals, or the task's own.
    state: str = states.PENDING
    #: How often it was begun.
    attempt: int = 0
    #: Milliseconds since 1970.
    started_at: int | None = None
    finished_at: int | None = None
    #: ``{"current", "total", "message"}`` of a running job that tells.
    progress: dict[str, Any] | None = None
    #: What it returned, as JSON has it.
    result: Any = None
    #: In the place of a large result: where it is.
    stored: Stored | None = None
    #: ``{"type", "module", "message"}`` of a job that failed, was cancelled or will be tried again; one that was given
    #: up has ``"kind": "dead-lettered"`` as well.
    error: dict[str, str] | None = None
    #: Of a job that failed, as text, if its worker told; None if it was not read alone. It may quote what the task's
    #: code has at hand, so it is not for everybody who may see the job.
    traceback: str | None = None
    #: How many jobs are in its queue; None if it does not wait, or was not read alone.
    queue_depth: int | None = None
    #: The last event's number; 0 is the acceptance.
    number: int = 0
    #: Node name of the worker that began it last.
    worker: str | None = None

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.record.owner

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in states.READY_STATES

    @classmethod
    def of_fields(cls, job_id: str, values: "list[bytes | None]") -> Self:
        """Return the job of which *values* are the :data:`FIELDS` and the value."""
        *fields, value = values
        given: dict[str, Any] = {
            name: int(field) if name in _NUMBERS else field.decode()
            for name, field in zip(FIELDS, fields, strict=True)
            if field is not None
        }
        given |= {name: json.loads(given[name]) for name in _JSON if name in given}
        record = JobRecord(id=job_id, **{name: given.pop(name) for name in _RECORD if name in given})
        name, of_value = _name_of_value(given["state"], stored=given.pop("stored", None) is not None)
        if value is not None:
            given[name] = of_value(json.loads(value))
        return cls(record=record, **given)


def _name_of_value(state: str, *, stored: bool) -> tuple[str, Callable[[Any], Any]]:
    """Return what a job's value is in this state, and what makes it of JSON."""
    if stored:
        return "stored", Stored.decode
    if state == states.SUCCESS:
        return "result", _same
    return "error" if state == states.RETRY or state in states.READY_STATES else "progress", _same


def _same(value: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRecord:
    """
    A workflow as it was asked for. Times are milliseconds since 1970.

    .. versionadded:: 0.1.0
    """

    id: str
    #: Whose it is, and its jobs; empty where there are no owners.
    owner: str
    tags: list[str]
    created_at: int
    #: Of ``{"chain": […]}``, ``{"group": […]}``, ``{"chord": {"header": […], "body": …}}`` and ids of jobs.
    tree: dict[str, Any]
    #: The job that runs when one of the others does not succeed, unless all of it is cancelled.
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
    A workflow as the ledger has it: its record, and what has become of it.

    .. versionadded:: 0.1.0
    """

    record: WorkflowRecord
    #: By their ids.
    jobs: dict[str, "Job"]
    #: Whether all of it was cancelled.
    cancelled: bool = False

    @property
    def owner(self) -> str:
        """Whose it is."""
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
    #: Seconds until it is due; None for a job that others come before.
    delay: float | None
    #: Names the jobs that come after it, if any do.
    before: str | None
    #: Its own signature, as a mapping, for the one that runs on an error; with :func:`error_mark` among its arguments.
    message: dict[str, Any] | None = None


def pack_traceback(text: str) -> bytes:
    """Return a traceback as it is stored: its last 16 KiB, compressed, which makes some 500 bytes of most."""
    whole = text.encode("utf-8", "backslashreplace")
    last = whole[-MAX_TRACEBACK:]
    return zlib.compress(last if last == whole else "…".encode() + last)


def unpack_traceback(stored: bytes) -> str:
    """Return a traceback that was stored; of one that was cut, a character may be missing at the beginning."""
    return zlib.decompress(stored).decode("utf-8", "ignore")


def error_mark(workflow_id: str) -> str:
    """Return in whose place the ledger puts ``{"job", "task", "state", "error"}`` of the first that did not succeed."""
    return f"error of {workflow_id}"


class Gone(NamedTuple):
    """
    A job that was, and was forgotten after its time.

    .. versionadded:: 0.1.0
    """

    owner: str


class Page(NamedTuple):
    """
    Jobs of a list, newest first.

    .. versionadded:: 0.1.0
    """

    jobs: list[Job]
    #: Where the next page begins; None at the end.
    cursor: str | None


class FailureGroup(NamedTuple):
    """
    Jobs of one owner that failed alike: the same task raised the same at the same place. Times are milliseconds since
    1970, by the server's clock.

    .. versionadded:: 0.1.0
    """

    id: str
    owner: str
    task: str
    #: With its module, as it is written in Python.
    exception: str
    #: The file and the function in it; empty where that is not known.
    place: str
    #: What the last one said, its first 300 characters.
    detail: str
    first_seen: int
    last_seen: int
    #: How often, since it was first seen or was last resolved.
    times: int
    #: How many of these jobs are kept still, and have not been tried again.
    jobs: int

    @classmethod
    def of_row(cls, row: list[Any]) -> Self:
        """Return the group that a row of the script's is."""
        texts = [value.decode("utf-8", "replace") for value in row[:6]]
        return cls(*texts, *(int(value) for value in row[6:]))


class Purged(NamedTuple):
    """
    What was in a queue that was purged.

    .. versionadded:: 0.1.0
    """

    #: Jobs that have ended by it.
    jobs: int
    #: Messages that the broker had, as it counts them.
    messages: int


class Event(NamedTuple):
    """
    Something that happened to a job.

    .. versionadded:: 0.1.0
    """

    #: Counted from 1 for each job, without gaps.
    number: int
    #: state, progress, log or end; or snapshot, which stands for events that are no longer kept.
    kind: str
    #: JSON.
    data: str


class Reservation(NamedTuple):
    """
    What an idempotency key is held with.

    .. versionadded:: 0.1.0
    """

    #: Names the key and whose it is.
    name: str
    #: Of the request: the same key with another one is refused.
    fingerprint: str


class Acceptance(NamedTuple):
    """
    What became of a job that was to be accepted.

    ``accepted``; ``taken-over`` (whoever had reserved the key has not answered in time: publish it); ``exists`` (the
    key's own time is over, its job's is not); ``replay`` (answered before); ``in-flight``; ``other`` (another request
    with the same key); ``full`` (the owner has as many unfinished jobs as they may); ``unique`` (the same job is
    unfinished).

    .. versionadded:: 0.1.0
    """

    kind: str
    #: The answer of a ``replay``, or the id of the job that is the same.
    response: bytes | None = None


class Claim(NamedTuple):
    """
    The end of a job that somebody is to be told of, by whoever has the claim.

    .. versionadded:: 0.1.0
    """

    job_id: str
    #: The delivery's; the same at every attempt.
    id: str
    #: Host and port, as the URL has them.
    receiver: str
    #: Attempts that have failed.
    tries: int
    #: When the claim ends, by the server's clock; it has no other name.
    lease: str


class Delivery(NamedTuple):
    """
    How it stands with telling somebody of a job's end. Times are milliseconds since 1970.

    .. versionadded:: 0.1.0
    """

    #: The same at every attempt.
    id: str
    state: Literal["waiting", "delivered", "failed"]
    #: The last ones: ``{"at", "seconds"}`` with ``status`` or ``error``.
    attempts: list[Any]
    #: While one is under way, when another would be if nothing more is heard of this one.
    next_attempt: int | None
