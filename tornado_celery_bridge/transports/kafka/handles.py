"""
librdkafka's handles: where they end, and where they must not.

To end a handle may take long: librdkafka waits for its threads, and one that resolves a name takes ten seconds if the
name servers are away. So a handle is ended by a thread of its own, and whoever ends it chooses how long to wait. No
finalizer ends one: a finalizer runs in whichever thread the collector happens to run, an event loop's too.

Only so many handles may be on their end at once; until then no other is made. A broker that is away would else cost
threads at each attempt to connect.

A handle has threads of its own, which a forked child does not have: one that is destroyed in a child waits for them for
ever, or crashes. So a child never destroys those that it inherits; it shares their memory with its parent anyway.
"""

import atexit
import contextlib
import ctypes
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import Consumer, Producer

from tornado_celery_bridge.base.forks import without_signals
from tornado_celery_bridge.base.repeating import Repeating
from tornado_celery_bridge.transports.core import NotSent

log = logging.getLogger(__name__)

#: The most handles that are being ended.
MAX_ENDING = 8
#: Seconds for handles to end when the process does.
AT_EXIT = 1.0

_Handle = TypeVar("_Handle")

#: By id: two handles may be equal by librdkafka's notion.
_held: dict[int, Any] = {}
#: Those of them that are being ended.
_ending: dict[int, threading.Event] = {}
_lock = threading.RLock()


class _Cleaner(Repeating):
    """Does what finalizers ask for. They may run anywhere, so they take no lock: `SimpleQueue.put` is made for that."""

    def __init__(self) -> None:
        super().__init__("kafka-cleaner", self._clean)
        self.asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def _clean(self) -> None:
        self.asked.get()()


_cleaner: _Cleaner | None = None


def make(cls: Callable[[dict[str, Any]], _Handle], settings: dict[str, Any]) -> _Handle:
    """
    Return a new producer, consumer or admin client. :func:`end` ends it.

    Raises:
        NotSent: Too many are being ended: their broker is away.
    """
    global _cleaner
    with _lock:
        if len(_ending) >= MAX_ENDING:
            raise NotSent("the last connections to Kafka are still being closed")
        if _cleaner is None:
            _cleaner = _Cleaner()
            _cleaner.start()
        handle = cls(settings)
        _held[id(handle)] = handle
    return handle


def end(handle: Any, timeout: float = 0.0) -> None:
    """
    End *handle*, whoever still has a reference to it, and wait for that for up to *timeout* seconds.

    One that is inherited never ends.
    """
    with _lock:
        if id(handle) not in _held:
            return
        ended = _ending.get(id(handle))
        if ended is None:
            ended = _ending[id(handle)] = threading.Event()
            with without_signals():
                threading.Thread(target=_end, args=(handle,), name="kafka-end", daemon=True).start()
    if timeout:
        ended.wait(timeout)


def later(call: Callable[[], None]) -> None:
    """Have *call* made soon, by a thread of its own; for finalizers."""
    if _cleaner is not None and _cleaner.is_mine:
        _cleaner.asked.put(call)


def _end(handle: Any) -> None:
    try:
        if isinstance(handle, Producer):
            handle.purge()  # else it waits for a broker that is away
            handle.close()
        elif isinstance(handle, Consumer):
            handle.close()
        else:
            handle.__exit__(None, None, None)
    except Exception as exc:
        log.debug("while a connection to Kafka ends: %s", exc)
    with _lock:
        _held.pop(id(handle), None)
        if ended := _ending.pop(id(handle), None):
            ended.set()


def _keep_for_ever() -> None:
    for handle in _held.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))  # not even the interpreter's end lets go of it
    _held.clear()


def _forget() -> None:
    global _cleaner, _lock
    _keep_for_ever()
    _ending.clear()
    _lock, _cleaner = threading.RLock(), None  # their threads are the parent's


@atexit.register
def _end_with_the_process() -> None:
    """Give handles a moment; one that does not end is left, as the interpreter would wait for it."""
    deadline = time.monotonic() + AT_EXIT
    with contextlib.suppress(RuntimeError):  # no more threads can be started
        for handle in [*_held.values()]:
            end(handle)
    for ended in [*_ending.values()]:
        ended.wait(max(0.0, deadline - time.monotonic()))
    _keep_for_ever()


os.register_at_fork(after_in_child=_forget)
