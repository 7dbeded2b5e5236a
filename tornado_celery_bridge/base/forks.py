"""
What a forked child must not touch: its parent's threads, connections and locks.

A worker forks a process of its pool whenever one has ended, while threads of its own run: those that keep the ledger,
and, on a broker without an event loop, the pool's. A lock that another thread holds at that moment is held for ever in
the child. kombu's ``cached_property`` takes a lock whenever it is read, and so does each look at ``app.timezone``: of
1,500 pool processes one hung there for ever, and its task with it. Celery's signals have locks, too, and so have its
apps and their clocks. :func:`mend_locks` gives a child new ones; at worst, what such a lock guards is worked out twice.

Signals are for the main thread. A process of Celery's own pool that is told to end blocks TERM there while it holds a
lock of the whole pool. Another thread that took this TERM would end the process with the lock in its hands, and the
pool would stand still. So our threads take no signals: they start :func:`without_signals`.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from threading import Lock, RLock
from typing import Any

from celery import _state, signals
from celery.utils.dispatch import Signal
from kombu.utils.objects import cached_property

_LOCK = type(Lock())

#: What comes of a thread's own instructions. One that is blocked ends the process, without a word of faulthandler.
_OF_A_THREAD = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}

#: How many forks lie between this process and the first one that had this module.
_forks = 0


class OfOneProcess:
    """Something that only the process that made it may use: it has threads, a connection, or locks."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_mine(self) -> bool:
        """Whether this process made it. A forked child has none of its threads, and its locks may be held for ever."""
        return os.getpid() == self._pid


class _LockOfThisProcess:
    """In the place of the attribute ``lock`` of kombu's `cached_property`."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        own = instance.__dict__
        if own.get("forks", 0) != _forks:
            own["lock"], own["forks"] = RLock(), _forks
        try:
            return own["lock"]
        except KeyError:
            raise AttributeError("lock") from None

    def __set__(self, instance: Any, lock: Any) -> None:
        instance.__dict__.update(lock=lock, forks=_forks)


@contextlib.contextmanager
def without_signals() -> Iterator[None]:
    """
    Have the threads that are started in the block take no signals, nor those that they start.

    For threads that run our code. A process that a thread starts inherits what it blocks, so this is not for threads
    that run code of tasks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _OF_A_THREAD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_get = cached_property.__get__


def _get_kept(self: Any, instance: Any, owner: type | None = None) -> Any:
    # kombu takes the lock to read as well. A worker's threads read the same ones, and so wait for each other.
    try:
        return instance.__dict__[self.attrname]
    except (AttributeError, KeyError):
        return _get(self, instance, owner)


def mend_locks() -> None:
    """Have no forked child of this process wait for a lock of Celery's that all share. A second call does nothing."""
    if not isinstance(vars(cached_property).get("lock"), _LockOfThisProcess):
        cached_property.lock = _LockOfThisProcess()  # type: ignore[attr-defined]
        cached_property.__get__ = _get_kept  # type: ignore[method-assign]
        os.register_at_fork(after_in_child=_mend)


def _mend() -> None:
    global _forks
    _forks += 1
    for each in vars(signals).values():
        if isinstance(each, Signal):
            each.lock = Lock()  # type: ignore[attr-defined]
    app: Any
    for app in _state._get_active_apps():  # type: ignore[attr-defined]
        app._finalize_mutex = RLock()
        if isinstance(app.clock.mutex, _LOCK):  # in the worker's event loop it is none
            app.clock.mutex = Lock()
