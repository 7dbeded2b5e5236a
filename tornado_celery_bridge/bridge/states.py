"""What a result backend knows about a task, as values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery import states

from tornado_celery_bridge.base.errors import described
from tornado_celery_bridge.base.states import ENDED, ITEM
from tornado_celery_bridge.exceptions import ResultError, message_of
from tornado_celery_bridge.progress import STATE as PROGRESS

#: A backend's data about a task, decoded. Exceptions are not rebuilt: they are still descriptions.
Meta = Mapping[str, Any]

#: What a backend has of a task, or why that can't be read.
News = Meta | ResultError


def meta_of(task_id: str, read: Callable[[], Any]) -> Meta:
    """
    Return what *read* returns: what a backend has of a task, decoded.

    Raises:
        ResultError: It can't be decoded, or is not what Celery stores.
    """
    try:
        decoded = read()
    except Exception as exc:  # any serializer may raise anything
        why = message_of(exc)
    else:
        if isinstance(decoded, Mapping) and isinstance(decoded.get("status"), str) and "result" in decoded:
            return decoded
        why = "it is no state of a task"
    raise ResultError(f"what is stored of task {task_id} can't be read: {why}", task_id=task_id)


@dataclass(frozen=True, slots=True)
class Progress:
    """
    How far a task has come, as it said by :func:`tornado_celery_bridge.progress.progress`.

    .. versionadded:: 0.1.0
    """

    #: The work done so far, in the task's own unit.
    current: float
    #: All the work, in the same unit; None if the task does not know.
    total: float | None = None
    #: For a person to read.
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """
    What a task that is a generator has yielded once.

    .. versionadded:: 0.1.0
    """

    #: Which item of this attempt it is, counted from 1. Another attempt begins at 1 again.
    number: int
    value: Any


@dataclass(frozen=True, slots=True)
class TaskError:
    """
    A task's exception as text. It is safe to show, because nothing is imported or called to make it.

    .. versionadded:: 0.1.0
    """

    #: The name of the exception's class.
    type: str
    #: The module of the exception's class.
    module: str
    #: The exception's message.
    message: str


@dataclass(frozen=True, slots=True)
class TaskState:
    """
    What the result backend knew about a task at one moment.

    .. versionadded:: 0.1.0
    """

    task_id: str
    #: Celery's word, in capitals. PENDING is also the state of an id that the backend does not know.
    state: str
    #: The backend's data, decoded.
    meta: Meta

    @classmethod
    def from_meta(cls, task_id: str, meta: Meta) -> "TaskState":
        return cls(task_id, meta["status"], meta)

    @property
    def ready(self) -> bool:
        """Whether the task has ended, whatever came of it."""
        return self.state in ENDED

    @property
    def result(self) -> Any:
        """The return value of a task that succeeded; None for any other."""
        return self.meta["result"] if self.state == states.SUCCESS else None

    @property
    def error(self) -> TaskError | None:
        """Why the task failed, was revoked or will be retried; None for any other."""
        return TaskError(*described(self.meta["result"])) if self.state in states.EXCEPTION_STATES else None

    @property
    def progress(self) -> Progress | None:
        """How far the task has come, if it is under way and says so."""
        told = self.meta["result"]
        if self.state != PROGRESS or not isinstance(told, Mapping) or "current" not in told:
            return None
        return Progress(told["current"], told.get("total"), told.get("message"))

    @property
    def item(self) -> Item | None:
        """What the task has yielded, if it is a generator and this is what it has told last."""
        told = self.meta["result"]
        if self.state != ITEM or not isinstance(told, Mapping) or told.keys() != {"number", "value", "of"}:
            return None
        return Item(int(told["number"]), told["value"])

    @property
    def traceback(self) -> str | None:
        """The worker's traceback as text, if it was stored."""
        return self.meta.get("traceback")

    @property
    def date_done(self) -> str | None:
        """When the task ended, ISO 8601."""
        done = self.meta.get("date_done")
        return done if done is None or isinstance(done, str) else done.isoformat()

    @property
    def retries(self) -> int:
        """How often the task asked for a retry. This needs ``result_extended``."""
        return self.meta.get("retries") or 0

    @property
    def worker(self) -> str | None:
        """The node name of the worker. This needs ``result_extended``."""
        return self.meta.get("worker")
