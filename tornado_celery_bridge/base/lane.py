"""
Blocking calls, made for an event loop by a daemon thread.

Theory of operation. The loop submits calls. The thread takes what has gathered, in order, and works on it as one
batch. The outcomes go back to the loop together. Either the thread *begins* a call or the loop *gives it up* as its
deadline passes; only the first of the two succeeds. So a call that the loop gave up has not begun and never will
(:class:`NotBegun`), and a call that began and did not finish in time is in doubt (:class:`InDoubt`).

A thread can't be killed. One that is stuck for too long is abandoned: it is told to end when it comes back, and another
thread takes over the queue. Stuck is a thread that makes no progress: one that has much to send, and sends it, is not.
The number of abandoned threads is limited; at the limit calls wait, and fail as not begun, until one of these threads
comes back.

The thread makes itself ready (it connects, say) before it takes calls, and again after a failure or a second without
calls. While it can't, the lane is *down*: submitting raises :class:`LaneDown` at once, and calls in the queue wait
until their deadline. So the thread itself finds out when the broker is back, and no call is spent on that.

::

    submitted ──the thread begins it──▶ begun ──▶ finished          the future has the outcome
        │                                 └─deadline, or abandoned─▶ InDoubt
        └─deadline, the loop gives it up─▶ NotBegun
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tornado_celery_bridge.base.repeating import Repeating

log = logging.getLogger(__name__)

#: The most calls in one batch. This limits how long a call waits for those that it shares a batch with.
MAX_BATCH = 256
#: Threads that may be stuck at once, of one lane.
MAX_ABANDONED = 8
#: Seconds without calls after which the thread checks that it is still ready.
IDLE = 1.0


class NotBegun(Exception):
    """The deadline passed before the call began: it never will."""


class InDoubt(Exception):
    """The call began and did not finish in time: it may finish later."""


class LaneFull(Exception):
    """As many calls are under way as the lane holds."""


class LaneDown(Exception):
    """The thread can't work now. It tries again by itself. The message says why; it is empty for one that is stuck."""


class Call:
    """One call: what to do, and the future that gets the outcome."""

    __slots__ = ("_decided", "error", "future", "timer", "value", "work")

    def __init__(self, work: Any, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.timer: asyncio.TimerHandle | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self._decided = threading.Lock()

    def begin(self) -> bool:
        """Return whether the thread may begin the call: False if the loop gave it up."""
        return self._decided.acquire(blocking=False)

    @property
    def is_decided(self) -> bool:
        """Whether it has begun, or was given up."""
        return self._decided.locked()

    def give_up(self) -> bool:
        """Return whether the loop gave the call up: False if it has begun."""
        return self._decided.acquire(blocking=False)


class Runner(Protocol):
    """What a lane's thread works by. Made and used in that thread. After an exception another one is made."""

    #: time.monotonic() when a part of the work on a batch was last done; 0 for a runner that does not note it.
    progress: float

    def ready(self) -> bool:
        """Connect if need be, and return whether calls can be made now."""

    def run(self, calls: Sequence[Call]) -> None:
        """Begin each call, and give each that began a ``value`` or an ``error``. Others were given up."""

    def close(self) -> None:
        """Close all connections."""


class _Thread(Repeating):
    def __init__(self, lane: "Lane", name: str) -> None:
        super().__init__(name, self._work, failed=self._fail, ended=self._drop_runner)
        self._lane = lane
        self._runner: Runner | None = None
        #: time.monotonic() since when it works on `batch`, or None while it waits for work.
        self.busy_since: float | None = None
        self.batch: Sequence[Call] = ()

    def is_stuck(self, after: float) -> bool:
        """Return whether it has been at work without progress for over *after* seconds."""
        since, runner = self.busy_since, self._runner
        if since is None:
            return False
        return time.monotonic() - max(since, 0.0 if runner is None else runner.progress) > after

    def _work(self) -> None:
        lane = self._lane
        self.busy_since = time.monotonic()
        runner = self._runner = self._runner or lane.make_runner()
        ready = runner.ready()
        self.busy_since = None
        if self.stopping:
            return
        lane.why, lane.down = getattr(runner, "trouble", ""), not ready
        batch = lane.take() if ready else lane.rest()
        if batch is None:
            self.stop()
        elif batch:
            self.batch, self.busy_since = batch, time.monotonic()
            runner.run(batch)
            self.busy_since, self.batch = None, ()
            lane.finished(batch)

    def _fail(self, exc: BaseException) -> None:
        self.busy_since, self.batch = None, ()
        if not self.stopping:  # else another thread knows better
            self._lane.why, self._lane.down = str(exc) or repr(exc), True
        self._drop_runner()

    def _drop_runner(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


class Lane:
    """
    A queue of calls with a deadline each, and the thread that makes them.

    Args:
        name: Of the thread.
        make_runner: Makes, in the thread, what does the work.
        max_pending: Calls under way at once; one more raises `LaneFull`.
        stuck_after: Seconds without progress after which a thread at work is abandoned.
        reset: Seconds between two attempts to become ready.
        max_batch: The most calls in one batch.
        lazy: Whether the thread starts, and connects, for the first call; else with the lane.
    """

    def __init__(
        self,
        name: str,
        make_runner: Callable[[], Runner],
        *,
        max_pending: int,
        stuck_after: float,
        reset: float,
        max_batch: int = MAX_BATCH,
        lazy: bool = False,
    ) -> None:
        self.make_runner = make_runner
        self._name = name
        self._max_pending = max_pending
        self._stuck_after = stuck_after
        self._reset = reset
        self._max_batch = max_batch
        #: Whether there is, or will soon be, a thread.
        self._wanted = not lazy
        #: Calls under way.
        self.pending = 0
        self._closing = threading.Event()
        #: Whether the thread tried to become ready, and could not. Written by the thread.
        self.down = False
        #: Why; empty if that is not known.
        self.why = ""
        #: Submitted in this iteration of the loop; they go to the thread together, which wakes it once.
        self._gathered: list[Call] = []
        self._queue: queue.SimpleQueue[list[Call] | None] = queue.SimpleQueue()
        #: What was taken from the queue and did not fit into a batch. Only the thread that takes has it.
        self._left: deque[Call] = deque()
        self._abandoned: list[_Thread] = []
        self._thread: _Thread | None = None
        self._idle = asyncio.Event()

    # The loop's side.

    def start(self) -> None:
        """Start the thread and its watchdog, for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._idle.set()
        if self._wanted:
            self._start_thread()
        self._watchdog = self._loop.call_later(self._stuck_after / 4, self._watch)

    def submit(self, work: Any, timeout: float) -> asyncio.Future[Any]:
        """
        Have *work* done within *timeout* seconds; the future gets what the runner made of it.

        Raises:
            LaneFull, LaneDown: Nothing was submitted.
        """
        if self.down:
            raise LaneDown(self.why)
        if self.pending >= self._max_pending:
            raise LaneFull
        self.pending += 1
        self._idle.clear()
        call = Call(work, self._loop.create_future())
        call.timer = self._loop.call_later(timeout, self._expire, call)
        if not self._wanted:
            self._wanted = True
            self._start_thread()
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
            log.warning("%s: closed with %d calls under way", self._name, self.pending)
        self._watchdog.cancel()
        thread, self._thread = self._thread, None
        self._closing.set()
        self._queue.put(None)
        if thread is not None and thread.busy_since is None:
            # Not joined for ever: the last thing that it does is to close its connection to the broker.
            await asyncio.to_thread(thread.stop, timeout)

    def _expire(self, call: Call) -> None:
        self._resolve(call, NotBegun() if call.give_up() else InDoubt())

    def _resolve(self, call: Call, error: BaseException | None) -> None:
        if call.timer is None:
            return  # resolved before
        call.timer.cancel()
        call.timer = None
        self.pending -= 1
        if not self.pending:
            self._idle.set()
        if call.future.done():
            return  # nobody waits any more
        if error is None:
            call.future.set_result(call.value)
        else:
            call.future.set_exception(error)

    def _resolve_all(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._resolve(call, call.error)

    def _start_thread(self) -> None:
        self._thread = _Thread(self, self._name)
        self._thread.start()

    def _watch(self) -> None:
        self._watchdog = self._loop.call_later(self._stuck_after / 4, self._watch)
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive]
        thread = self._thread
        if thread is not None and thread.is_stuck(self._stuck_after):
            self._abandon(thread)
        if self._wanted and self._thread is None and len(self._abandoned) < MAX_ABANDONED:
            self._start_thread()

    def _abandon(self, thread: _Thread) -> None:
        log.error("%s: stuck for over %s s; abandoning the thread", self._name, self._stuck_after)
        thread.stop()
        self.why, self.down = "", True
        self._abandoned.append(thread)
        self._thread = None
        for call in thread.batch:
            # The stuck thread may yet come to those that it had not begun: they are given up.
            self._expire(call)

    # The thread's side.

    def take(self) -> Sequence[Call] | None:
        """Return the calls that have gathered, waiting a little for the first; None to end."""
        left = self._left
        try:
            while len(left) < self._max_batch:
                more = self._queue.get_nowait() if left else self._queue.get(timeout=IDLE)
                if more is None:
                    if not left:
                        return None
                    self._queue.put(None)  # calls first, then the end
                    break
                left.extend(more)
        except queue.Empty:
            pass
        return [left.popleft() for _ in range(min(len(left), self._max_batch))]

    def rest(self) -> Sequence[Call] | None:
        """Wait before the next attempt to become ready; return None to end instead."""
        return None if self._closing.wait(self._reset) else ()

    def finished(self, batch: Sequence[Call]) -> None:
        """Hand the outcomes of *batch* to the loop."""
        if not batch:
            return
        try:
            self._loop.call_soon_threadsafe(self._resolve_all, batch)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("%s: %d outcomes came after the loop was closed", self._name, len(batch))
