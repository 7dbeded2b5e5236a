"""
Blocking calls, made for an event loop by a daemon thread.

Theory of operation. The loop submits calls; the thread takes what has gathered, in order, and works on it as one
batch; the outcomes go back to the loop together. Exactly one side decides a call's fate: the thread *claims* it as
it begins, the loop claims it as its deadline passes, and whoever comes second finds it taken. So a call whose
deadline passes first is known never to have begun (:class:`NotBegun`), and one that was begun and not finished in
time is known to be in doubt (:class:`InDoubt`).

A thread cannot be killed. One that is stuck in a call for too long is abandoned: it is told to end when it ever
comes back, and another takes over the same queue. Abandoned threads are bounded; past that bound calls wait, and
fail as not begun, until one of them comes back.

The thread makes itself ready (connected, say) before it takes calls, and again after a failure or a second without
calls. While it can't, the lane is *down*: submitting raises :class:`LaneDown` at once, and what is in the queue has
until its deadline. So the circuit breaker's probe is the thread's own, and costs no call.

::

    submitted ──claimed by the thread──▶ begun ──▶ finished          future has the outcome
        │                                  └─deadline, or abandoned─▶ InDoubt
        └─deadline─▶ NotBegun
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ("Call", "InDoubt", "Lane", "LaneDown", "LaneFull", "NotBegun", "Worker")

log = logging.getLogger(__name__)

#: Calls after which a batch takes no more: keeps a batch well under the watchdog's patience.
MAX_BATCH = 256
#: Threads that may be stuck at once, of one lane.
MAX_ABANDONED = 8
#: Seconds without calls after which the thread checks that it is still ready.
IDLE = 1.0


class NotBegun(Exception):
    """The call's deadline passed before the thread came to it: it never will."""


class InDoubt(Exception):
    """The call was begun, and did not finish in time: it may still."""


class LaneFull(Exception):
    """As many calls are under way as the lane was told to hold."""


class LaneDown(Exception):
    """The thread can't work now, and tries again by itself."""


class Call:
    """One call on its way: what to do, and the future that gets the outcome."""

    __slots__ = ("_claim", "error", "future", "timer", "value", "work")

    def __init__(self, work: Any, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.timer: asyncio.TimerHandle | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self._claim = threading.Lock()

    def claim(self) -> bool:
        """Return True to the one side, thread or loop, that asks first."""
        return self._claim.acquire(blocking=False)


class Worker(Protocol):
    """What a lane's thread does; made and used in that thread."""

    def ready(self) -> bool:
        """Connect if need be; return whether calls can be made now. Must not raise."""

    def run(self, calls: Sequence[Call]) -> None:
        """Claim each call and give it a ``value`` or an ``error``. Must not raise."""

    def close(self) -> None:
        """Let go of connections. Must not raise."""


class _Thread(threading.Thread):
    def __init__(self, lane: "Lane", name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.lane = lane
        self.abandoned = False
        #: time.monotonic() since when it works on `batch`, or None while it waits for work.
        self.busy_since: float | None = None
        self.batch: Sequence[Call] = ()

    def run(self) -> None:
        worker = self.lane.make_worker()
        try:
            while not self.abandoned and (batch := self._next_batch(worker)) is not None:
                self.batch, self.busy_since = batch, time.monotonic()
                worker.run(batch)
                self.busy_since, self.batch = None, ()
                self.lane.finished(batch)
                batch = ()  # else the last results are held until the next batch
        finally:
            worker.close()

    def _next_batch(self, worker: Worker) -> Sequence[Call] | None:
        self.busy_since = time.monotonic()
        ready = worker.ready()
        self.busy_since = None
        if self.abandoned:
            return None
        self.lane.down = not ready
        if ready:
            return self.lane.take()
        return () if self.lane.rest() else None


class Lane:
    """
    A queue of calls with a deadline each, and the thread that makes them.

    Args:
        name: Of the thread.
        make_worker: Makes, in the thread, what does the work.
        max_pending: Calls under way at once; one more raises `LaneFull`.
        stuck_after: Seconds of work on one batch after which a thread is abandoned.
        reset: Seconds between two attempts to become ready.
    """

    def __init__(
        self,
        name: str,
        make_worker: Callable[[], Worker],
        *,
        max_pending: int,
        stuck_after: float,
        reset: float,
    ) -> None:
        self.make_worker = make_worker
        self._name = name
        self._max_pending = max_pending
        self._stuck_after = stuck_after
        self._reset = reset
        self._pending = 0
        self._closing = threading.Event()
        #: Whether the thread tried to become ready, and could not. Written by the thread.
        self.down = False
        #: Submitted in this iteration of the loop; they go to the thread together, which wakes it once.
        self._gathered: list[Call] = []
        self._queue: queue.SimpleQueue[list[Call] | None] = queue.SimpleQueue()
        self._abandoned: list[_Thread] = []
        self._thread: _Thread | None = None
        self._idle = asyncio.Event()

    # The loop's side.

    def start(self) -> None:
        """Start the thread and its watchdog, for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._idle.set()
        self._start_thread()
        self._watchdog = self._loop.call_later(self._stuck_after / 4, self._watch)

    def submit(self, work: Any, timeout: float) -> asyncio.Future[Any]:
        """
        Have *work* done within *timeout* seconds; the future gets what the worker made of it.

        Raises:
            LaneFull, LaneDown: Nothing was submitted.
        """
        if self.down:
            raise LaneDown
        if self._pending >= self._max_pending:
            raise LaneFull
        self._pending += 1
        self._idle.clear()
        call = Call(work, self._loop.create_future())
        call.timer = self._loop.call_later(timeout, self._expire, call)
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(call)
        return call.future

    def _hand_over(self) -> None:
        calls, self._gathered = self._gathered, []
        self._queue.put(calls)

    async def close(self, timeout: float) -> None:
        """End the thread, after what is under way or *timeout* seconds, whichever comes first."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%s: closed with %d calls under way", self._name, self._pending)
        self._watchdog.cancel()
        thread, self._thread = self._thread, None
        self._closing.set()
        self._queue.put(None)
        if thread is not None and thread.busy_since is None:
            # Not joined for ever: the last thing that it does is to close its connection to the broker.
            await asyncio.to_thread(thread.join, timeout)

    def _expire(self, call: Call) -> None:
        self._settle(call, NotBegun() if call.claim() else InDoubt())

    def _settle(self, call: Call, error: BaseException | None) -> None:
        if call.timer is None:
            return  # settled before
        call.timer.cancel()
        call.timer = None
        self._pending -= 1
        if not self._pending:
            self._idle.set()
        if call.future.done():
            return  # nobody waits any more
        if error is None:
            call.future.set_result(call.value)
        else:
            call.future.set_exception(error)

    def _settle_all(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._settle(call, call.error)

    def _start_thread(self) -> None:
        self._thread = _Thread(self, self._name)
        self._thread.start()

    def _watch(self) -> None:
        self._watchdog = self._loop.call_later(self._stuck_after / 4, self._watch)
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        thread = self._thread
        if thread is not None and thread.busy_since is not None:
            if time.monotonic() - thread.busy_since > self._stuck_after:
                self._abandon(thread)
        elif thread is not None and not thread.is_alive():
            log.error("%s: the thread died; starting another", self._name)
            self._thread = None
        if self._thread is None and len(self._abandoned) < MAX_ABANDONED:
            self._start_thread()

    def _abandon(self, thread: _Thread) -> None:
        log.error("%s: stuck for over %s s; abandoning the thread", self._name, self._stuck_after)
        thread.abandoned = True
        self.down = True
        self._abandoned.append(thread)
        self._thread = None
        for call in thread.batch:
            # The stuck thread may yet come to those that it had not begun: claim what can be claimed.
            self._expire(call)

    # The thread's side.

    def take(self) -> Sequence[Call] | None:
        """Return the calls that have gathered, waiting a little for the first; None to end."""
        batch: list[Call] = []
        try:
            calls = self._queue.get(timeout=IDLE)
            while calls is not None:
                batch += calls
                if len(batch) >= MAX_BATCH:
                    return batch
                calls = self._queue.get_nowait()
        except queue.Empty:
            return batch
        if not batch:
            return None
        self._queue.put(None)  # calls first, then the end
        return batch

    def rest(self) -> bool:
        """Wait before the next attempt to become ready; return False to end instead."""
        return not self._closing.wait(self._reset)

    def finished(self, batch: Sequence[Call]) -> None:
        """Hand the outcomes of *batch* to the loop."""
        if not batch:
            return
        try:
            self._loop.call_soon_threadsafe(self._settle_all, batch)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("%s: %d outcomes came after the loop was closed", self._name, len(batch))
