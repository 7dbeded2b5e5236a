"""
One attempt at a job: an object with a token, whose every end is told to the ledger once.

The states and who tells them are drawn in :mod:`tornado_celery_bridge.worker`.
"""

import functools
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from celery import Celery, states
from celery.exceptions import Ignore, Reject
from redis.exceptions import RedisError

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.ledger.blocking import Limit, Told, WorkerLedger
from tornado_celery_bridge.progress import STATE as PROGRESS
from tornado_celery_bridge.worker.errors import error_of, place_of

__all__ = ("Attempt", "JobCancelled", "current_attempt", "ledger_of")

log = logging.getLogger(__name__)

_current: ContextVar["Attempt | None"] = ContextVar("attempt", default=None)


class JobCancelled(Ignore):
    """
    Raised by ``progress()`` in a job that was cancelled: clean up, and let it pass.

    .. versionadded:: 0.1.0
    """


@functools.cache
def ledger_of(app: Celery) -> WorkerLedger:
    """Return *app*'s ledger, one for each process."""
    return WorkerLedger(app)


def current_attempt() -> "Attempt | None":
    """Return the attempt whose code runs in this thread, greenlet or coroutine; None outside of a job's code."""
    return _current.get()


class Attempt:
    """
    One run of a task's code for one message.

    Args:
        app: Whose ledger is told.
        task_id: The task's id, which is the job's id if the task is a job.
        token: What tells this attempt from any other; '' for somebody who is no attempt, and ends a task from outside.
        retries: How many retries came before.
    """

    def __init__(self, app: Celery, task_id: str, token: str = "", retries: int | None = None) -> None:
        self._app = app
        self._ledger = ledger_of(app)
        self.id = task_id
        self.retries = retries
        #: Empty until the attempt has begun, as only then the ledger knows its token.
        self.token = ""
        self._next_token = token
        #: Whether the task is a job. Of a plain task the ledger knows nothing.
        self.is_job = False
        #: How it ended, once the ledger knows; None while it goes on.
        self.end: str | None = None
        #: What Celery's result backend is to be told when this begins; None for nothing.
        self.told_at_begin: Told | None = None

    @classmethod
    def of(cls, app: Celery, request: Any) -> Self:
        """
        Return the attempt that a request is about; the same one for the same request.

        Args:
            app: Whose ledger is told.
            request: A task's, as ``celery.app.task.Context``.
        """
        known: Self | None = vars(request).get("attempt")
        if known is None:
            known = request.attempt = cls(app, request.id, uuid.uuid4().hex, request.retries or 0)
        return known

    @property
    def has_begun(self) -> bool:
        """Whether the ledger has let it begin."""
        return self.token != ""

    def begin(self, task: Any, request: Any, limit: Limit | None = None) -> None:
        """
        Ask the ledger whether the task's code may run, and note that it does.

        Args:
            task: The task.
            request: What it runs for.
            limit: What it is counted by; None for a task without limits.

        Raises:
            Ignore: It must not run, or not now; then the ledger has its message published again when it may.
            Reject: Whether it may is not known, as Redis is away: the message goes back into its queue.
        """
        try:
            verdict = self._ledger.start(
                self.id,
                task.name,
                self._next_token,
                worker=request.hostname or "",
                replaced=bool(request.get("replaced_task_nesting")),
                retries=self.retries or 0,
                limit=limit,
                **_given(self.told_at_begin),
            )
        except RedisError as exc:
            raise Reject(exc, requeue=True) from exc
        if verdict in ("go", "unknown"):
            self.token, self.is_job = self._next_token, verdict == "go"
            return
        log.info("task %s[%s] is not run: %s", task.name, self.id, verdict)
        if verdict == states.REVOKED:  # for whoever waits by the result backend
            task.backend.mark_as_revoked(self.id, "cancelled", request=request)
        elif verdict in states.READY_STATES and request.chord:
            task.backend.return_chord_part(request)
        raise Ignore

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the code of the block be this attempt's: what it logs becomes the job's events."""
        before = _current.set(self if self.is_job else None)
        try:
            yield
        finally:
            _current.reset(before)

    def finish(self, state: str, result: Any, traceback: str | None = None, told: Told | None = None) -> None:
        """
        Tell that the task ended.

        Args:
            state: SUCCESS, FAILURE or REVOKED.
            result: What it returned, or the exception.
            traceback: Of a failure, as text.
            told: What Celery's result backend is to be told in the same step; None for nothing.
        """
        self._ledger.finish(
            self.id,
            state,
            result if state == states.SUCCESS else error_of(result),
            self.token,
            traceback=traceback,
            place=place_of(traceback),
            traceparent=tracing.current_headers().get("traceparent", ""),
            **_given(told),
        )
        self.end = state

    def retry(self, cause: Any) -> None:
        """
        Tell that the task asks for another attempt; *cause* is why, or None.

        Its message was published before, and may have begun that attempt already. Then the ledger knows.
        """
        error = error_of(cause)
        told = {"state": states.RETRY, "error": error}
        self._ledger.report(self.id, "state", told, states.RETRY, error, retries=self.retries)
        self.end = states.RETRY

    def report(self, state: str, meta: Any) -> None:
        """
        Tell of progress, or of a state of the task's own.

        Raises:
            JobCancelled: The job was cancelled.
        """
        kind, data = ("progress", meta) if state == PROGRESS else ("state", {"state": state})
        if self._ledger.report(self.id, kind, data, state, meta) == "cancelled":
            raise JobCancelled(f"job {self.id} was cancelled")

    def note(self, line: dict[str, str]) -> None:
        """Note a line that the task has logged."""
        self._ledger.report(self.id, "log", line)


def _given(told: Told | None) -> dict[str, Told]:
    return {} if told is None else {"told": told}
