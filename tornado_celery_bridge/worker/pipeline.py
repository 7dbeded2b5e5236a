"""
The thread that tells the ledger, and the result backend, what the runs of a loop have to tell: the loop never waits.

It does what it is given one by one, in that order. Calls of the ledger that wait at the same time share a round trip.
"""

import functools
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from celery import Celery
from redis.exceptions import OutOfMemoryError

from tornado_celery_bridge.base.lua import Call
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.blocking import ATTEMPTS
from tornado_celery_bridge.ledger.connection import BlockingConnection

log = logging.getLogger(__name__)

#: Calls in one round trip: their answers come together, and so what the runs do next is one turn of the loop.
MAX_BATCH = 32
#: Reports that may wait. What comes then, as Redis is away, is lost: it would take all memory.
MAX_REPORTS = 10_000

#: A call of the ledger, or one that blocks.
Work = Call[Any] | Callable[[], Any]
#: Gets, in the pipeline's thread, what the work returned, and what it raised.
Answered = Callable[[Any, BaseException | None], object]


class _Item(NamedTuple):
    work: Work
    answered: Answered


class Pipeline:
    """
    The thread, and what it is to do.

    Args:
        app: Whose ledger it tells.
        on_answers: Called, in the thread, after those that asked got their answers: once for many.
    """

    def __init__(self, app: Celery, on_answers: Callable[[], object]) -> None:
        self._app = app
        self._on_answers = on_answers
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._is_closed, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="asyncio-pool-pipeline", daemon=True)
        self._thread.start()

    def is_here(self) -> bool:
        """Return whether this is its thread."""
        return threading.current_thread() is self._thread

    def put(self, work: Work, answered: Answered) -> None:
        """Have something done."""
        with self._lock:
            if not self._is_closed:
                self._queue.put(_Item(work, answered))
                return
        answered(None, RuntimeError("the pool has ended"))

    def ask(self, work: Work) -> Any:
        """Have something done; return what it returns, or raise what it raises. This blocks."""
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.put(work, lambda *answer: answers.put(answer))
        return outcome(*answers.get())

    @property
    def is_full(self) -> bool:
        """Whether so much waits that reports are to be lost."""
        return self._queue.qsize() >= MAX_REPORTS

    def close(self, timeout: float) -> None:
        """End, once all is done, or after so many seconds."""
        with self._lock:
            self._is_closed = True
            self._queue.put(None)
        self._thread.join(timeout)

    def _serve(self) -> None:
        # What must not be lost is tried again. A report is tried once: it might come twice.
        sure, once = BlockingConnection(self._app, attempts=ATTEMPTS), BlockingConnection(self._app)
        batch: list[_Item | None] = []
        while None not in batch:
            batch = [self._queue.get()]
            with suppress(queue.Empty):
                while len(batch) < MAX_BATCH:
                    batch.append(self._queue.get_nowait())
            for kind, items in itertools.groupby(filter(None, batch), key=_kind):
                if kind == "call":
                    for item in items:
                        make(item.work, item.answered)  # type: ignore[arg-type]
                        self._on_answers()
                else:
                    _run_all(once if kind == "report" else sure, list(items))
                    self._on_answers()


def _kind(item: _Item) -> str:
    if not isinstance(item.work, Call):
        return "call"
    return "report" if item.work.command is calls.report else "sure"


def _run_all(connection: BlockingConnection, items: Sequence[_Item]) -> None:
    works: list[Any] = [item.work for item in items]
    try:
        answers = connection.run_all(works)
    except Exception as exc:
        answers = [exc] * len(items)
    for (work, answered), answer in zip(items, answers, strict=True):
        if isinstance(answer, OutOfMemoryError):  # there may be room soon
            make(functools.partial(connection.run, work), answered)  # type: ignore[arg-type]
        elif isinstance(answer, Exception):
            answered(None, answer)
        else:
            answered(answer, None)


def make(call: Callable[[], Any], answered: Answered) -> None:
    """Make a call, and tell what it returns, and what it raises."""
    try:
        value = call()
    except BaseException as exc:
        answered(None, exc)
    else:
        answered(value, None)


def nothing(value: Any, exc: BaseException | None) -> None:
    """Make nothing of what a work has returned."""


def outcome(value: Any, exc: BaseException | None) -> Any:
    """Return what a work has returned, or raise what it has raised."""
    if exc is not None:
        raise exc
    return value
