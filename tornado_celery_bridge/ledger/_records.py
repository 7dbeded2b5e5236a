"""What the ledger holds, as values."""

import dataclasses
import json
from typing import Any, NamedTuple, Self

from celery import states

from tornado_celery_bridge._store import Stored
from tornado_celery_bridge.exceptions import BridgeError

__all__ = (
    "FIELDS",
    "Acceptance",
    "Event",
    "Gone",
    "Job",
    "JobRecord",
    "LedgerUnavailable",
    "Page",
    "Reservation",
    "Step",
    "Workflow",
    "WorkflowRecord",
)

#: What of a job's hash is read; the input is not, as it may be large.
FIELDS = (
    *("record", "state", "attempt", "started_at", "finished_at", "progress", "result", "stored", "error", "number"),
    "worker",
)


class LedgerUnavailable(BridgeError):
    """
    The ledger's Redis did not answer, or refused, in time. Nothing was accepted: try again later.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """
    A job as it was asked for, but for its input. Times are RFC 3339 in UTC.

    .. versionadded:: 0.1.0
    """

    #: The Celery task's id.
    id: str
    #: The task's name.
    task: str
    #: Whose it is; empty where there are no owners.
    owner: str
    #: The options that were sent, but for tags.
    options: dict[str, Any]
    tags: list[str]
    queue: str
    #: 0 to 9, 9 the most urgent; None leaves it to the broker.
    priority: int | None
    created_at: str
    #: When it is due, if that was not at once.
    eta: str | None
    #: The job of which this one is another try.
    retry_of: str | None = None
    #: The workflow that it is a job of.
    workflow: str | None = None

    def encode(self) -> bytes:
        """Return the record as it is stored."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, stored: bytes | str) -> Self:
        """Return the record that was stored; fields of a later version are left out."""
        fields = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in json.loads(stored).items() if name in fields})


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
    started_at: str | None = None
    finished_at: str | None = None
    #: ``{"current", "total", "message"}`` of a running job that tells.
    progress: dict[str, Any] | None = None
    #: What it returned, as JSON has it.
    result: Any = None
    #: In the place of a large result: where it is.
    stored: Stored | None = None
    #: ``{"type", "module", "message"}`` of a job that failed, was cancelled or will be tried again.
    error: dict[str, str] | None = None
    #: The last event's number; 0 is the acceptance.
    number: int = 0
    #: Node name of the worker that began it last.
    worker: str | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in states.READY_STATES

    @classmethod
    def of_fields(cls, values: "list[bytes | None]") -> Self:
        """Return the job of which *values* are the :data:`FIELDS`."""
        given = {name: value.decode() for name, value in zip(FIELDS, values, strict=True) if value is not None}
        for name in ("progress", "result", "error"):
            if name in given:
                given[name] = json.loads(given[name])
        stored = Stored.decode(json.loads(given.pop("stored"))) if "stored" in given else None
        numbers = {name: int(given.pop(name, 0)) for name in ("attempt", "number")}
        return cls(record=JobRecord.decode(given.pop("record")), stored=stored, **numbers, **given)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRecord:
    """
    A workflow as it was asked for. Times are RFC 3339 in UTC.

    .. versionadded:: 0.1.0
    """

    id: str
    #: Whose it is, and its jobs; empty where there are no owners.
    owner: str
    tags: list[str]
    created_at: str
    #: Of ``{"chain": […]}``, ``{"group": […]}``, ``{"chord": {"header": […], "body": …}}`` and ids of jobs.
    tree: dict[str, Any]

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
    with the same key); ``full`` (the owner has as many unfinished jobs as they may).

    .. versionadded:: 0.1.0
    """

    kind: str
    #: The answer of a ``replay``.
    response: bytes | None = None
