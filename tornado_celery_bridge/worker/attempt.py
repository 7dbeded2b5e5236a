"""
One attempt at a job: an object with a token, whose every end is told to the ledger once.

The states and who tells them are drawn in :mod:`tornado_celery_bridge.worker`.
"""

import functools
import logging
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Self

from celery import Celery, states
from celery.exceptions import Ignore, Reject, Retry, WorkerTerminate
from celery.worker import state as worker_state
from redis.exceptions import RedisError

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.states import ENDED, IGNORED, SUCCEEDED
from tornado_celery_bridge.base.versions import MESSAGE_SAYS_IGNORE
from tornado_celery_bridge.checkpoints import Document
from tornado_celery_bridge.ledger.blocking import NO_LIMIT, Limit, ResultEntry, WorkerLedger
from tornado_celery_bridge.progress import STATE as PROGRESS
from tornado_celery_bridge.worker.coroutines import is_told_to_end
from tornado_celery_bridge.worker.errors import Escaped, GivenUp, ends_from_outside, error_of, place_of

log = logging.getLogger(__name__)

#: The header by which a message names the attempt that has published it to go on after itself.
AFTER = "tcb_after"
#: How often a task that is no job may begin and not end, as the process that runs it dies. RabbitMQ's quorum queues
#: have the same limit, but tell nobody.
MOST_BEGUN = 20
#: Characters of one log line that become an event.
MAX_LINE = 4_000
#: Characters of JSON that a task may tell with its state, and of a message in its progress if that has more.
MAX_TOLD, MAX_MESSAGE = 16_000, 1_000

#: Bytes of JSON that an item may have which a task's code yields.
MAX_ITEM = 64 * 1024

_current: ContextVar["Attempt | None"] = ContextVar("attempt", default=None)
#: The last attempt that Celery was done with, here.
_closed: ContextVar["Attempt | None"] = ContextVar("closed", default=None)


class JobCancelled(Ignore):
    """
    Raised by ``progress()``, and as a checkpoint is saved, in a job that was cancelled: clean up, and let it pass.

    .. versionadded:: 0.1.0
    """


@functools.cache
def ledger_of(app: Celery) -> WorkerLedger:
    """Return *app*'s ledger, one for each process."""
    return WorkerLedger(app)


def current_attempt() -> "Attempt | None":
    """Return the attempt whose code runs in this thread, greenlet or coroutine; None outside of a job's code."""
    return _current.get()


def ends_worker(exc: BaseException) -> bool:
    """Return whether *exc* ends the worker, raised in the code of a task that it runs itself: in the solo pool."""
    return isinstance(exc, WorkerTerminate) and bool(worker_state.should_terminate)


class TellingOfEscapes:
    """
    Have what Celery lets out of the block, in which it runs one message's task, be an ordinary exception.

    Celery lets out ``MemoryError``, and what is no ``Exception``, of a task's code and of its hooks. A pool would take
    that for its own end. (A class, as each of a thousand tasks that wait has one of these: a generator is larger.)

    Raises:
        Escaped: It says what was let out, and how the attempt had ended before.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        _closed.set(None)

    def __exit__(self, kind: object, exc: BaseException | None, where: object) -> None:
        attempt = _closed.get()
        _closed.set(None)
        if exc is None or is_told_to_end() or ends_worker(exc) or isinstance(exc, (Reject, *ends_from_outside())):
            return
        raise Escaped(exc, None if attempt is None else attempt.end) from exc


#: What no job has.
_NO_CHECKPOINTS = Document()


class Attempt:
    """
    One run of a task's code for one delivery of its message.

    Args:
        app: Whose ledger is told.
        task_id: The task's id, which is the job's id if the task is a job.
        token: What tells this attempt from any other; '' for somebody who is no attempt, and ends a task from outside.
    """

    def __init__(self, app: Celery, task_id: str, token: str = "") -> None:
        self._ledger = ledger_of(app)
        self.id = task_id
        self.token = token
        #: Whether the ledger has let it begin.
        self.has_begun = False
        #: Whether the task is a job. Of a plain task the ledger knows nothing.
        self.is_job = False
        #: Whether the task's own code runs now.
        self.runs = False
        #: How it ended, once the ledger knows; None while it goes on.
        self.end: str | None = None
        #: What Celery's result backend is to be told when this begins; None for nothing.
        self.entry_at_begin: ResultEntry | None = None
        #: What the code has raised, until that is told: Celery may tell of another exception in its place.
        self.raised: BaseException | None = None
        #: An end that the code has stored itself, by ``update_state``: state, result, traceback.
        self.stored: tuple[str, Any, str | None] | None = None
        #: Whether a message that begins the next attempt was published, and whether one of the task that goes on.
        self.asks_again = self.is_replaced = False
        #: What the code saves for the next attempt, and whose code it is.
        self._code = ""
        self.checkpoints = _NO_CHECKPOINTS

    @classmethod
    def of(cls, app: Celery, request: Any) -> Self:
        """
        Return the attempt that a request is about; the same one for the same request.

        The worker's main process and the process that runs the code have a request each for one delivery, with one
        token in both (see :mod:`.request`).

        Args:
            app: Whose ledger is told.
            request: A task's, as ``celery.app.task.Context``.
        """
        known: Self | None = vars(request).get("attempt")
        if known is None:
            known = request.attempt = cls(app, request.id, (request.delivery_info or {}).get("attempt") or "")
        return known

    def begin(self, task: Any, request: Any, limit: Limit = NO_LIMIT) -> None:
        """
        Ask the ledger whether the task's code may run, and note that it does.

        Args:
            task: The task.
            request: What it runs for.
            limit: Its task's limit, as the code has it.

        Raises:
            Ignore: It must not run, or not now; then the ledger has its message published again when it may.
            Reject: Whether it may is not known, as Redis is away: the message goes back into its queue.
            GivenUp: It is no job, and its process dies each time.
        """
        self.token = self.token or uuid.uuid4().hex
        replaced = request.get("replaced_task_nesting") or 0
        try:
            verdict = self._ledger.start(
                self.id,
                task.name,
                self.token,
                worker=request.hostname or "",
                after=(request.delivery_info or {}).get("after") or "",
                replaced=replaced,
                retries=request.retries or 0,
                limit=limit,
                version=str((request.delivery_info or {}).get("version") or ""),
                redelivered=bool((request.delivery_info or {}).get("redelivered")),
                most_begun=MOST_BEGUN,
                **_given(self.entry_at_begin),
            )
        except RedisError as exc:
            raise Reject(exc, requeue=True) from exc
        if verdict in ("go", "unknown"):
            self.has_begun, self.is_job = True, verdict == "go"
            if self.is_job:
                self._code = f"{task.name}/{replaced}" if replaced else task.name
                self.checkpoints = Document(self._read_checkpoints, self._write_checkpoints)
                request.checkpoints = self.checkpoints
            return
        log.info("task %s[%s] is not run: %s", task.name, self.id, verdict)
        if verdict == "given up":
            raise GivenUp(f"it began {MOST_BEGUN} times, and the process that ran it died each time")
        if verdict == states.REVOKED:  # for whoever waits by the result backend
            task.backend.mark_as_revoked(self.id, "cancelled", request=request)
        elif verdict in ENDED and request.chord:
            task.backend.return_chord_part(request)
        raise Ignore

    def __enter__(self) -> None:
        """Have the code of the block be this attempt's: what it logs becomes the job's events."""
        self._before = _current.set(self if self.is_job else None)
        self.runs = True

    def __exit__(self, *_: object) -> None:
        try:
            self.checkpoints.flush()
        finally:
            self.runs = False
            _current.reset(self._before)

    # Its ends.

    def finish(self, state: str, result: Any, traceback: str | None = None, entry: ResultEntry | None = None) -> None:
        """
        Tell that the task ended; an attempt ends once, and what comes after that is not told.

        Args:
            state: SUCCESS, FAILURE, REVOKED or IGNORED.
            result: What it returned, or the exception.
            traceback: Of a failure, as text.
            entry: What to write for Celery's result backend in the same step; None for nothing.
        """
        if self.end is not None:
            return
        self._ledger.finish(
            self.id,
            state,
            result if state in SUCCEEDED else error_of(result),
            self.token,
            traceback=traceback,
            place=place_of(traceback),
            traceparent=tracing.current_headers().get("traceparent", ""),
            **_given(entry),
        )
        self.end = state

    def retry(self, cause: Any, entry: ResultEntry | None = None, traceback: str | None = None) -> None:
        """
        Tell that the task asks for another attempt; *cause* is why, or None, and *entry* is as for :meth:`finish`.

        If its message was published, it may have begun that attempt already, and the ledger knows. If not, as the code
        has raised ``Retry`` by itself, the ledger has it published.
        """
        if self.end is not None:
            return
        self._ledger.retry(
            self.id, self.token, error_of(cause), publish=not self.asks_again, traceback=traceback, **_given(entry)
        )
        self.end = states.RETRY

    def give_back(self) -> None:
        """Tell that the message goes back into its queue: another attempt begins, and no life of the job is used."""
        if self.end is not None:
            return
        self._ledger.give_back(self.id, self.token, publish=False)
        self.end = states.PENDING

    def hand_on(self) -> None:
        """Tell that another task goes on under the same id, and will end the job."""
        if self.end is not None:
            return
        self._ledger.hand_on(self.id, self.token)
        self.end = states.STARTED

    def close(self, task: Any, request: Any, state: str | None, outcome: Any) -> None:
        """
        Tell the end that Celery stores nothing for, as the worker has done with the request.

        Args:
            task: The task.
            request: What it ran for.
            state: What became of it, in Celery's words; None for what Celery lets out (see :class:`TellingOfEscapes`).
            outcome: What the code returned, or the exception.
        """
        raised, self.raised = self.raised, None
        _closed.set(self)
        if self.end is not None or not self.has_begun:
            return
        if state is None and not MESSAGE_SAYS_IGNORE and isinstance(raised, Exception):
            # A hook has raised what Celery lets out. Of what the code had raised before, Celery stored nothing.
            if isinstance(raised, Retry):
                return self.retry(raised.exc)
            if not isinstance(raised, (MemoryError, Ignore, Reject)):
                state, outcome = states.FAILURE, raised
        if state == states.REJECTED:
            if outcome.requeue:
                self.give_back()  # else the main process ends it, as a FAILURE
        elif not self.is_job:
            return
        elif state == states.IGNORED:
            if self.is_replaced:
                self.hand_on()
            elif self.asks_again:
                self.retry(None)
            elif self.stored is not None:
                self.finish(*self.stored)
            else:
                task.backend.store_result(self.id, None, IGNORED, request=request)
        elif state in states.READY_STATES:  # of a task with ``ignore_result``
            if MESSAGE_SAYS_IGNORE:
                self.finish(state, outcome)
            else:
                task.backend.store_result(self.id, outcome, state, request=request)

    # While it goes on.

    def report(self, state: str, meta: Any) -> None:
        """
        Tell of progress, or of a state of the task's own. What is too large is cut, or left out.

        Raises:
            JobCancelled: The job was cancelled.
        """
        meta = _bounded(meta)
        kind, data = ("progress", meta) if state == PROGRESS else ("state", {"state": state, "progress": meta})
        if self._ledger.report(self.id, self.token, kind, data, state, meta) == "cancelled":
            raise JobCancelled(f"job {self.id} was cancelled")

    def tell_item(self, number: int, text: str, entry: ResultEntry | None = None) -> None:
        """
        Tell an item that the code has yielded. If Redis is away, this waits for it as the end of an attempt does.

        Args:
            number: Counted from 1 in this attempt.
            text: The item, as JSON.
            entry: As for :meth:`finish`.

        Raises:
            JobCancelled: The job was cancelled.
        """
        if not self.is_job and entry is None:
            return
        if self._ledger.item(self.id, self.token, number, text, **_given(entry)) == "cancelled":
            raise JobCancelled(f"job {self.id} was cancelled")

    def _read_checkpoints(self) -> str | None:
        """Return the job's checkpoints; those that other code has saved are not this one's."""
        return self._ledger.checkpoint(self.id, self._code)

    def _write_checkpoints(self, text: str) -> bool:
        answer = self._ledger.save_checkpoint(self.id, self.token, self._code, text)
        if answer == "cancelled":
            raise JobCancelled(f"job {self.id} was cancelled")
        return answer != "unavailable"

    def note(self, level: str, message: str) -> None:
        """Note a line of the job's log."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._ledger.report(self.id, self.token, "log", {"level": level, "message": message[:MAX_LINE], "at": at})


def item_text(value: Any) -> str:
    """
    Return an item that a task's code has yielded, as JSON.

    Raises:
        ValueError: It is too large.
    """
    text = dumps(value)
    if (size := len(text.encode())) > MAX_ITEM:
        raise ValueError(
            f"an item has {size:,} bytes of JSON, and {MAX_ITEM:,} at the most are kept: yield smaller items, or keep "
            "elsewhere what the task makes and yield where it is"
        )
    return text


def _bounded(meta: Any) -> Any:
    """Return what a task tells with its state, or as much of it as there is room for."""
    if (size := len(dumps(meta))) <= MAX_TOLD:
        return meta
    if isinstance(meta, dict) and isinstance(message := meta.get("message"), str) and len(message) > MAX_MESSAGE:
        return _bounded({**meta, "message": f"{message[:MAX_MESSAGE]}…"})
    return f"<{size:,} characters, of which {MAX_TOLD:,} can be told>"


def _given(entry: ResultEntry | None) -> dict[str, ResultEntry]:
    return {} if entry is None else {"result_entry": entry}
