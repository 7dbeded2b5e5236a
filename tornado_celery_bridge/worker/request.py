"""
A delivery of a message, as the worker's main process holds it: where an attempt gets its token, and how it is ended.

Celery's ``Request`` goes to the process of the pool that runs the code, and stays here as well, for what that process
can't tell any more: a time limit, a process that was killed, a worker that stops.
"""

import functools
import uuid
from collections import deque
from typing import Any
from weakref import WeakSet

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from celery.exceptions import InvalidTaskError, Terminated, WorkerLostError
from celery.worker import state as worker_state
from celery.worker.request import Request

from tornado_celery_bridge.base.versions import record_rejected
from tornado_celery_bridge.worker.attempt import AFTER, Attempt
from tornado_celery_bridge.worker.errors import CodeExited

#: Ids and tokens of attempts that this worker has given up, through no fault of theirs; the keeper tells the ledger.
GIVEN_BACK: deque[tuple[str, str]] = deque()

#: The requests that this worker has taken, and that are not over.
TAKEN: WeakSet["JobRequest"] = WeakSet()

_LOST = (WorkerLostError, SystemExit, KeyboardInterrupt)


@functools.cache
def job_request(base: type[Request]) -> type[Request]:
    """Return *base*, a task's class of requests, with what a job's attempt takes."""
    return base if issubclass(base, JobRequest) else type(f"Job{base.__name__}", (JobRequest, base), {})


class JobRequest(Request):
    """
    A request whose attempt has a token, and ends as it should.

    Celery subclasses this once more, to make ``execute_using_pool`` and ``on_success`` fast.
    """

    # Celery's, which its types don't have.
    _app: Any
    _context: Any
    _delivery_info: dict[str, Any]
    _request_dict: dict[str, Any]

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(message, *args, **kwargs)
            for limit in self.time_limits:
                float(limit or 0)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:  # by which Celery would end the worker
            raise InvalidTaskError(f"not a task's message: {exc!r}") from exc
        self.token = uuid.uuid4().hex
        TAKEN.add(self)
        # Not among the headers, which are the task's to see and go on to its retries.
        self._delivery_info.update(attempt=self.token, after=self._request_dict.pop(AFTER, None))

    def cancel(self, *args: Any, **kwargs: Any) -> Any:
        """Give the attempt up, as the worker stops or has lost its broker, and end its process."""
        # Celery notes that only once it has told the result backend, and raises if that is away with the broker. The
        # process that it has ended by then would be taken for a revoked task's, and the job, which nobody cancelled,
        # would have ended as REVOKED.
        self._already_cancelled = True
        GIVEN_BACK.append((self.id, self.token))
        return super().cancel(*args, **kwargs)

    def terminate(self, *args: Any, **kwargs: Any) -> Any:
        """End the attempt's process, for somebody who cancelled the job."""
        self._is_to_end = True
        return super().terminate(*args, **kwargs)

    _is_to_end = False

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> Any:
        if not terminated:  # it never began, and what runs under its id is another attempt
            Attempt.of(self._app, self._context).token = ""
        return super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc]

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Note that the code has failed, or that its process is gone."""
        exc = exc_info.exception
        exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
        if isinstance(exc, MemoryError):
            # Celery ends the whole worker for it, and with it whatever else runs there.
            exc_info = _info(CodeExited(exc), exc_info)
        elif isinstance(exc, Terminated) and not (self._is_to_end or self._already_cancelled):
            # The pool's process was to be ended for an earlier task, and did not; then it died under this one.
            exc = WorkerLostError(f"Worker exited prematurely: {exc}.")
            exc_info = _info(exc, exc_info)
        if isinstance(exc, _LOST) and _is_stopping():
            GIVEN_BACK.append((self.id, self.token))
        record_rejected(self, exc)
        return super().on_failure(exc_info, send_failed_event, return_ok)


def _info(exc: BaseException, before: Any) -> Any:
    """Return *exc* as the pool tells of exceptions, with the traceback of what it stands for."""
    try:
        raise exc
    except type(exc):
        made = ExceptionInfo()
    made.traceback = before.traceback
    return made


def _is_stopping() -> bool:
    """Return whether this worker is being stopped in order."""
    return any(
        each is not None and each is not False for each in (worker_state.should_stop, worker_state.should_terminate)
    )
