"""
A delivery of a message, as the worker's main process holds it: where an attempt gets its token, and how it is ended.

Celery's ``Request`` goes to the process of the pool that runs the code, and stays here as well, for what that process
can't tell any more: a time limit, a process that was killed, a worker that stops.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from signal import SIGTERM
from types import MappingProxyType
from typing import Any, Literal
from weakref import WeakSet

from billiard.common import TERM_SIGNAME
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from celery import states
from celery.exceptions import InvalidTaskError, Terminated, WorkerLostError
from celery.platforms import signals as _signals
from celery.worker import state as worker_state
from celery.worker.request import Request
from celery.worker.state import revoked as revoked_tasks
from redis.exceptions import RedisError

from tornado_celery_bridge.base.states import SUCCEEDED
from tornado_celery_bridge.base.versions import record_rejected
from tornado_celery_bridge.ledger.changes import VERSION
from tornado_celery_bridge.worker.attempt import AFTER, Attempt, ledger_of
from tornado_celery_bridge.worker.clock import CLOCK
from tornado_celery_bridge.worker.errors import CodeExited, Escaped, GivenUp
from tornado_celery_bridge.worker.pool import EndsTasks, can_end_tasks
from tornado_celery_bridge.worker.processes import kill

log = logging.getLogger(__name__)

#: Ids and tokens of attempts that this worker has given up, through no fault of theirs; the keeper tells the ledger.
GIVEN_BACK: deque[tuple[str, str]] = deque()
#: Those that were lost with their process, before the keeper has seen that they run, perhaps.
LOST: deque[tuple[str, str]] = deque()

#: The requests that this worker has taken, and that are not over.
TAKEN: WeakSet["JobRequest"] = WeakSet()

_tokens: list[str] = []
os.register_at_fork(after_in_child=_tokens.clear)


def _token() -> str:
    if not _tokens:  # asking the system for one takes longer than all else in a request
        some = os.urandom(16 * 256)
        _tokens.extend(some[place : place + 16].hex() for place in range(0, len(some), 16))
    return _tokens.pop()


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
    _eta: datetime | None
    _request_dict: dict[str, Any]
    _already_revoked: bool
    _announce_cancelled: Any
    worker_pid: Any

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(message, *args, **kwargs)
            for limit in self.time_limits:
                float(limit or 0)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:  # by which Celery would end the worker
            raise InvalidTaskError(f"not a task's message: {exc!r}") from exc
        if self._eta is not None:  # of the server's clock; Celery has this machine wait until then
            self._eta -= CLOCK.off
        self.token = _token()
        TAKEN.add(self)
        # Not among the headers, which are the task's to see and go on to its retries.
        after, version = (self._request_dict.pop(name, None) for name in (AFTER, VERSION))
        self._delivery_info.update(attempt=self.token, after=after, version=version)

    def maybe_expire(self) -> Literal[True] | None:
        """Return whether the task has expired, by the server's clock; of a job the ledger says that."""
        if not self.expires or CLOCK.now() <= self.expires:
            return None
        try:
            verdict = ledger_of(self._app).has_expired(self.id)
        except RedisError:  # the ledger is asked once more as it begins
            return None
        if verdict == "no":
            return None
        revoked_tasks.add(self.id)
        return True

    #: Whether its process was told to end, or that it is to end; and whether that is as somebody cancelled the job.
    _is_told = _is_terminated = False
    #: The processes that its process had started by then.
    _started: Mapping[int, str] = MappingProxyType({})

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """
        Give the attempt up, as the worker stops or has lost its broker: end its process, then give the job back.

        Where no task can be ended, the code goes on, and tells its end to the ledger, which knows the attempt.
        """
        if not can_end_tasks(type(pool), self.task):
            return
        self._already_cancelled = True
        if isinstance(pool, EndsTasks):
            self._emits_retry = emit_retry and not self.task.acks_late  # else the broker delivers the message again
            self._end(pool, signal)
        else:
            GIVEN_BACK.append((self.id, self.token))
            super().cancel(pool, signal, emit_retry)

    _emits_retry = False

    #: Whether it was ended as a failure, and its process is still to end.
    _is_failed = False

    def fail(self, pool: Any, exc: Exception) -> None:
        """End the attempt as a failure, and its process: its message is not this worker's any more."""
        self._is_failed = self.acknowledged = True
        worker_state.task_ready(self)
        log.error("%s: %s", self, exc)
        self.task.backend.mark_as_failure(self.id, exc, request=self._context, store_result=self.store_errors)
        if isinstance(pool, EndsTasks):
            pool.end(self.worker_pid, _signals.signum(TERM_SIGNAME), lambda: self._is_failed)
        elif can_end_tasks(type(pool), self.task):
            super().terminate(pool)

    #: The pool in which it is to be given up, once it is known that it runs.
    _stops_in: Any = None

    def stop(self, pool: Any) -> None:
        """
        Give the attempt up, as the worker stops at once; also if the pool has not said yet that it has begun.

        Celery ends only what it knows to run, and then waits for the other tasks, however long they take.
        """
        if self.time_start is None:
            self._stops_in = pool
        elif self in worker_state.active_requests and not (self.task.acks_late and self.acknowledged):
            self.cancel(pool, emit_retry=not self.task.acks_late)

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """Note that the code has begun."""
        super().on_accepted(pid, time_accepted)
        if self._stops_in is not None:
            self.stop(self._stops_in)

    def tell_cancelled(self, pool: Any) -> None:
        """Tell the code that the job was cancelled, without ending it, if the pool can."""
        if isinstance(pool, EndsTasks):
            pool.tell_cancelled(self.worker_pid)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the attempt's process, for somebody who cancelled the job. REVOKED is told once it has ended."""
        if not can_end_tasks(type(pool), self.task):
            if not self._is_told:
                self._is_told = True
                log.warning("%s was cancelled, and goes on until its code ends: this pool can't end a task", self)
                attempt = Attempt.of(self._app, self._context)
                attempt.note(
                    "WARNING", "cancelled, and goes on until its code ends: its worker's pool can't end a task"
                )
            return
        self._is_terminated = True
        if not (isinstance(pool, EndsTasks) and self.time_start):
            super().terminate(pool, signal)  # before it begins, Celery notes that it is to end
        else:
            self._end(pool, signal)

    def _end(self, pool: EndsTasks, signal: Any) -> None:
        if not self._is_told:
            self._is_told = True
            log.warning("%s is told to end", self)
            number = _signals.signum(signal or TERM_SIGNAME)
            if number == SIGTERM:  # of a caller who does not know that this worker has another one (REMAP_SIGTERM)
                number = _signals.signum(TERM_SIGNAME)
            self._started = pool.end(self.worker_pid, number, lambda: self in worker_state.active_requests)

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
        elif isinstance(exc, Escaped):
            return self._on_escaped(exc, exc_info, send_failed_event)
        elif isinstance(exc, (Terminated, *_LOST)):
            return self._on_lost(exc, exc_info, send_failed_event, return_ok)
        record_rejected(self, exc)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _on_escaped(self, exc: Escaped, exc_info: Any, send_failed_event: bool) -> Any:
        """Note that a hook raised what Celery does not catch. An end that was told before stays the attempt's end."""
        exited = CodeExited(str(exc))
        stands_for = _info(exited, exc_info)
        if exc.end is not None:
            log.error("%s: a hook raised %s after the end (%s)\n%s", self, exc, exc.end, exc_info.traceback)
        if exc.end in SUCCEEDED:
            return self.on_success((0, None, 0.0))
        told = super().on_failure(stands_for, send_failed_event, exc.end is not None)
        if exc.end is None:  # Celery does not tell of a task with ``ignore_result``
            attempt = Attempt.of(self._app, self._context)
            attempt.finish(states.FAILURE, exited, stands_for.traceback)
        return told

    def _on_lost(self, exc: BaseException, exc_info: Any, *more: Any) -> Any:
        """Note that the attempt's process is gone."""
        kill(self._started)
        if self._is_failed:
            self._is_failed = False
            return None
        if self._is_terminated:
            return self._already_revoked or self._announce_revoked("terminated", True, None, False)
        if self._already_cancelled:
            GIVEN_BACK.append((self.id, self.token))
            return self._announce_cancelled(emit_retry=self._emits_retry)
        if isinstance(exc, Terminated):  # TERM was meant for the task before, which ended at that moment
            GIVEN_BACK.append((self.id, self.token))
            exc_info = _info(WorkerLostError(f"Worker exited prematurely: {exc}."), exc_info)
        else:
            (GIVEN_BACK if _is_stopping() else LOST).append((self.id, self.token))
        return super().on_failure(exc_info, *more)


def fail_long_ones(pool: Any, seconds: float) -> None:
    """End the tasks as failures whose messages RabbitMQ has taken back after its ``consumer_timeout`` of so many s."""
    running = [each for each in worker_state.active_requests if each.time_start]
    running.sort(key=lambda each: float(each.time_start))
    for request in running:
        if request is running[0] or time.time() - request.time_start >= seconds:
            why = f"RabbitMQ gives a task {seconds:g} s: raise its consumer_timeout above the task's time limit"
            request.fail(pool, GivenUp(why))


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
