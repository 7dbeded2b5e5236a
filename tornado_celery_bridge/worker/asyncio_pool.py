"""
The asyncio pool: thousands of tasks of ``async def`` at once on one event loop, in one process.

``celery worker --pool custom`` with ``CELERY_CUSTOM_WORKER_POOL=tornado_celery_bridge.worker.asyncio_pool:TaskPool``,
or ``tcb worker --pool asyncio``. It needs greenlet: ``tornado-celery-bridge[asyncio]``.

Theory of operation. The loop has a thread of its own. The worker's main thread takes messages and acknowledges them,
as with any other pool.

Celery's tracer, which runs a task with all that belongs to it, is a plain function. Here it runs in a greenlet on the
loop's thread. When the task's code is to be awaited (see :mod:`.coroutines`), the code becomes an asyncio task, and the
greenlet switches to the loop until that is done. So the tracer is Celery's own, unchanged, and a task that waits costs
a greenlet and an asyncio task.

What Celery keeps for each thread or greenlet (``current_task``, ``task.request``) it keeps here for each run, found by
a context variable: so the code's own asyncio tasks, and its threads by ``asyncio.to_thread``, find it as well.

A task that is no ``async def`` runs in one of a few threads. It can't be ended.

A run is *told to end* by ``CancelledError``, where its code awaits. Code that goes on is *killed* some time later: its
coroutine is closed (``GeneratorExit``), and is never resumed. Code that computes can't be ended by anybody; while it
does, no other task of the loop goes on.

What Celery does around a task's code does not block the loop: the greenlet waits, and a thread does it. One thread
tells the ledger and the result backend, in order (:mod:`.pipeline`). A few others publish messages that follow, count
parts of chords, and read and write large values. What the code tells (``progress()``, a log line) goes through the
first one, and the code does not wait for it. The message of ``self.retry()`` is published once the code has ended. What
the code calls and needs an answer to blocks the loop: ``delay()``, ``checkpoint().value``.

What the worker is told of a run (that it began, how it ended) is told in the main thread, which the loop wakes by a
pipe. With a broker without an event loop a thread of its own does that, as Celery's pools of threads do.
"""

import asyncio
import collections
import contextlib
import functools
import itertools
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import MappingProxyType
from typing import Any, TypeVar

from billiard.einfo import ExceptionInfo
from celery import signals
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured, Reject, SoftTimeLimitExceeded, Terminated
from celery.worker import state as worker_state
from celery.worker.request import Request
from redis.exceptions import RedisError

from tornado_celery_bridge.base.lua import Call
from tornado_celery_bridge.worker import coroutines, pool
from tornado_celery_bridge.worker.attempt import JobCancelled, TellingOfEscapes, ledger_of
from tornado_celery_bridge.worker.coroutines import (
    Code,
    Loop,
    Run,
    current_run,
    in_context,
    is_async,
    off_loop,
    result_of,
)
from tornado_celery_bridge.worker.pipeline import Answered, Pipeline, Work, make, nothing, outcome
from tornado_celery_bridge.worker.pool import EndsTasks

try:
    from greenlet import getcurrent, greenlet
except ModuleNotFoundError as exc:
    raise ImproperlyConfigured("the asyncio pool needs greenlet: pip install 'tornado-celery-bridge[asyncio]'") from exc

log = logging.getLogger(__name__)

R = TypeVar("R")

#: Seconds for which one task's code may keep the loop before the worker's log says so.
HELD_UP = 1.0
#: The file that calls each task's code.
OF_CODE = coroutines.__file__
#: How many threads run the tasks that are no ``async def``; as many as asyncio's own.
THREADS = min(32, (os.cpu_count() or 1) + 4)
#: How many threads publish what follows, and read and write large values. Below Celery's ``broker_pool_limit``.
ASIDE = 4


def _here() -> Any:
    """Return what Celery keeps ``current_task`` and ``task.request`` by."""
    return current_run.get() or getcurrent()


class TaskPool(EndsTasks, BasePool):
    """Celery's pool."""

    body_can_be_buffer = True
    signal_safe = False

    limit: int
    app: Any
    options: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._numbers = itertools.count(1)
        #: What was applied and is not over, by numbers.
        self._runs: dict[int, _Run] = {}
        self._is_over = False
        # Of the loop's thread.
        self.loop: asyncio.AbstractEventLoop
        self.greenlet: greenlet
        self._waiting: collections.deque[_Run] = collections.deque()
        self._waiting_for_threads: collections.deque[_Run] = collections.deque()
        self._running = self._in_threads = 0
        self._calls: collections.deque[tuple[Callable[..., object], tuple[Any, ...]]] = collections.deque()
        self._is_loop_woken = False
        # What is told in the main thread.
        self._told: collections.deque[Callable[[], object]] = collections.deque()
        self._is_woken = False
        self._reads, self._writes = os.pipe()

    @staticmethod
    def can_end(task: Any) -> bool:
        """Return whether a task can be ended from outside."""
        return is_async(task)

    # In the main thread.

    def on_start(self) -> None:
        """Begin."""
        for stack in (_task_stack, *(task.request_stack for task in self.app.tasks.values())):
            stack.__ident_func__ = _here
        self._executor = ThreadPoolExecutor(THREADS, "asyncio-pool-sync")
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="asyncio-pool", daemon=True)
        self._thread.start()
        started.wait()
        threading.Thread(target=self._watch, name="asyncio-pool-watch", daemon=True).start()
        self.pipeline = Pipeline(self.app, self._wake_loop)
        self._aside = ThreadPoolExecutor(ASIDE, "asyncio-pool-aside")
        ledger = ledger_of(self.app)
        ledger.make = functools.partial(self._make, ledger.make)
        ledger.tell = functools.partial(self._tell, ledger.tell)
        self.app.send_task = functools.partial(self._send_task, self.app.send_task)
        self._teller = None
        if not self.options.get("threads"):
            os.set_blocking(self._reads, False)
        else:  # the worker has no event loop
            self._teller = threading.Thread(target=self._tell_all, name="asyncio-pool-teller", daemon=True)
            self._teller.start()
        signals.worker_process_init.send(sender=(self.options.get("initargs") or (None, None))[1])

    def register_with_event_loop(self, hub: Any) -> None:
        """Have the worker's own event loop, which begins or begins again, tell what is to be told."""
        hub.add_reader(self._reads, self._tell_some)
        self._tell_some()

    def _make(self, blocking: Callable[[Call[Any]], Any], call: Call[Any]) -> Any:
        run = self._run_here()
        return blocking(call) if run is None else run.ask(call)

    def _tell(self, blocking: Callable[[Call[Any]], Any], call: Call[Any]) -> Any:
        run = self._run_here()
        return blocking(call) if run is None else run.tell(call)

    def _run_here(self) -> "_Run | None":
        """Return the run that a call belongs to, unless the pipeline makes it, which can't wait for itself."""
        run = current_run.get()
        return run if isinstance(run, _Run) and not self.pipeline.is_here() else None

    def _send_task(self, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("producer") or kwargs.get("publisher"):
            # Whoever took it from Celery's pool of them gives it back after this only, and others may wait for it.
            return send(*args, **kwargs)
        call, run = functools.partial(send, *args, **kwargs), self._run_here()
        if run is not None and self.is_loops() and not run.is_here() and self._is_retry(kwargs):
            run.send_later(call)
            return self.app.AsyncResult(kwargs["task_id"])
        return off_loop(call)

    def _is_retry(self, options: Mapping[str, Any]) -> bool:
        """Return whether what is sent is the next attempt at the task whose code sends it."""
        request = self.app.current_worker_task.request
        return bool(options.get("task_id") == request.id and options.get("retries", 0) > (request.retries or 0))

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        *,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **tells: Any,
    ) -> None:
        """Have a task run."""
        limits = (soft_timeout or self.options.get("soft_timeout"), timeout or self.options.get("timeout"))
        task = self.app.tasks.get(args[0])
        request = getattr(tells["accept_callback"], "__self__", None)
        if isinstance(request, Request) and args[4] is not None:  # it has read the body, and says so as Celery does
            args = (*args[:3], request.message.payload, None, None)
        run = _Run(self, next(self._numbers), target, args, kwargs or {}, limits, tells)
        run.is_acked_first = task is None or not task.acks_late
        self._runs[run.number] = run
        waiting = self._waiting if task is not None and is_async(task) else self._waiting_for_threads
        waiting.append(run)
        self.soon(self._begin_some)

    def end(self, pid: int, signum: int, goes_on: Callable[[], bool]) -> Mapping[int, str]:
        """Tell a run to end, and kill it if it goes on. Any thread may call this."""
        run = self._runs.get(pid)
        if run is not None:
            self.loop.call_soon_threadsafe(run.tell_to_end, pool.PATIENCE)
        return MappingProxyType({})

    def tell_cancelled(self, pid: int) -> None:
        """Raise ``CancelledError`` in a run's code."""
        run = self._runs.get(pid)
        if run is not None:
            self.loop.call_soon_threadsafe(run.cancel)

    def look_after(self) -> bool:
        """Tell what is to be told; return whether a task runs."""
        if self._teller is None:
            self._tell_some()
        return super().look_after()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End a run, as Celery asks for that."""
        self.end(pid, 0, lambda: True)

    def grow(self, n: int = 1) -> None:
        """Run more tasks at once."""
        self.limit += n
        self.loop.call_soon_threadsafe(self._begin_some)

    def shrink(self, n: int = 1) -> None:
        """Run fewer tasks at once."""
        self.limit -= n

    def on_stop(self) -> None:
        """End, once all that was applied has ended; of a worker that is to end at once, once that has which can be."""
        if worker_state.should_terminate:
            self._waiting.clear()
            self._waiting_for_threads.clear()
            while self._running > self._in_threads:
                self._wait(0.05)
            self._wait(0)
        else:
            while self._runs:
                self._wait(1.0)
        self._end_loop()

    def on_terminate(self) -> None:
        """End what runs, and kill what goes on; what runs in threads goes on."""
        self._tell_some()
        if not self._is_over:
            self._waiting.clear()
            self._waiting_for_threads.clear()
            self.loop.call_soon_threadsafe(self._end_all)
            deadline = time.monotonic() + pool.PATIENCE + 1.0
            while self._running > self._in_threads and time.monotonic() < deadline:
                time.sleep(0.01)
            self._end_loop()

    def _end_loop(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(pool.PATIENCE + 1.0)
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._aside.shutdown(wait=False, cancel_futures=True)
            self.pipeline.close(pool.PATIENCE)

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "running": self._running, "threads": THREADS}  # type: ignore[misc]

    def tell(self, call: Callable[..., object], *args: Any, at_once: bool = False) -> None:
        """
        Have the main thread call something; in the order in which it is told.

        On the loop the main thread is woken once for all that a turn of the loop tells, unless it is to be *at_once*.
        """
        self._told.append(lambda: call(*args))
        if at_once:
            self._wake()
        elif not self._is_woken:
            self._is_woken = True
            if self.is_loops():
                self.loop.call_soon(self._wake)
            else:
                self._wake()

    def _wake(self) -> None:
        os.write(self._writes, b".")

    def _wait(self, seconds: float) -> None:
        if self._teller is None:
            select.select([self._reads], [], [], seconds)
            self._tell_some()
        else:
            time.sleep(0.01)

    def _tell_some(self) -> None:
        if self._teller is None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reads, 4096)
        self._is_woken = False  # in this order: what is told from now on wakes again
        while self._told:
            call = self._told.popleft()
            try:
                call()
            except Exception:  # of a hook, or of the broker's connection
                log.exception("the end of a task can't be told")

    def _tell_all(self) -> None:
        while os.read(self._reads, 4096):
            self._tell_some()

    def over(self, run: "_Run", call: Callable[..., object], *args: Any) -> None:
        """Tell how a run has ended, in the main thread."""
        self._runs.pop(run.number, None)
        call(*args)

    # In the loop's thread.

    def _serve(self, started: threading.Event) -> None:
        kept = Loop()
        self.loop, self.greenlet = kept.loop, getcurrent()
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(started.set)
        while not self._is_over:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as exc:
                log.error("something that a task has left on the loop raised %r, and has ended", exc)
        kept.close()

    def _watch(self) -> None:
        """Say which code computes, and so holds up all others: nobody else could."""
        answered = threading.Event()
        while not self._is_over:
            answered.clear()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(answered.set)
            if not answered.wait(HELD_UP) and not self._is_over:
                frame = sys._current_frames().get(self._thread.ident or 0)
                stack = traceback.extract_stack(frame)
                # From where a task's code begins: what it calls may be deep.
                begins = max((place for place, each in enumerate(stack) if each.filename == OF_CODE), default=-4) + 1
                where = "".join(traceback.format_list(stack[begins:][:10]))
                log.warning("the loop is held up: for %g s no task went on but the one that runs\n%s", HELD_UP, where)
            while not answered.wait(HELD_UP) and not self._is_over:
                pass
            time.sleep(HELD_UP)

    def aside(self, call: Callable[[], Any], answered: Answered) -> None:
        """Have a thread make a call; any thread may call this."""
        with contextlib.suppress(RuntimeError):  # the pool has ended
            self._aside.submit(make, call, answered)

    def is_loops(self) -> bool:
        """Return whether this thread is the loop's."""
        return threading.get_ident() == self._thread.ident

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Have the loop's thread call something; any thread may call this."""
        self._calls.append((call, args))
        if not self.pipeline.is_here():  # it wakes the loop once for all that it has to say
            self._wake_loop()

    def _wake_loop(self) -> None:
        # Each time a thread wakes the loop it writes to a socket, and may lose Python's lock to it.
        if self._calls and not self._is_loop_woken:
            self._is_loop_woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._call_all)

    def _call_all(self) -> None:
        self._is_loop_woken = False  # in this order: what comes from now on wakes again
        while self._calls:
            call, args = self._calls.popleft()
            self.loop.call_soon(call, *args)

    def _begin_some(self) -> None:
        """Begin one run, or one of each kind; what is on the loop goes on before the next one begins."""
        if self._waiting and self._running < self.limit:
            self._running += 1
            run = self._waiting.popleft()
            run.greenlet = greenlet(run.trace, self.greenlet)
            run.greenlet.gr_context = copy_context()
            run.greenlet.switch()
            self.loop.call_soon(self._begin_some)
        if self._waiting_for_threads and self._running < self.limit and self._in_threads < THREADS:
            self._running += 1
            self._in_threads += 1
            self._executor.submit(self._trace_in_thread, self._waiting_for_threads.popleft())

    def _trace_in_thread(self, run: "_Run") -> None:
        try:
            run.trace_here()
        finally:
            self.loop.call_soon_threadsafe(self._ended_in_thread)

    def _ended_in_thread(self) -> None:
        self._in_threads -= 1
        self.ended()

    def ended(self) -> None:
        """Begin another run, as one has ended."""
        self._running -= 1
        self.loop.call_soon(self._begin_some)

    def _end_all(self) -> None:
        for run in list(self._runs.values()):
            run.tell_to_end(pool.PATIENCE)


class _Run(Run):
    """
    One run of a task, in a greenlet or a thread.

    Args:
        pool: Where it runs.
        number: What the worker knows it by, in the place of a process's id.
        target: Celery's tracer.
        args: What it is called with.
        kwargs: What it is called with, by name.
        limits: The soft and the hard time limit, in seconds; None for none.
        tells: What Celery calls as it begins and ends.
    """

    def __init__(
        self,
        pool: TaskPool,
        number: int,
        target: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        limits: tuple[float | None, float | None],
        tells: dict[str, Any],
    ) -> None:
        self.number = number
        self.greenlet: greenlet | None = None
        #: Whether its message is acknowledged before its code begins.
        self.is_acked_first = False
        self._pool = pool
        self._target, self._args, self._kwargs = target, args, kwargs
        self._limits = limits
        self._tells = tells
        #: Whether it is to end as its hard time limit is over.
        self._is_late = False
        #: Whether its code was told that its job was cancelled; and whether the ledger has said that it was.
        self._is_cancelled = self._is_known_cancelled = False
        self._timers: list[asyncio.TimerHandle] = []
        #: What it waits for.
        self._task: asyncio.Task[Any] | None = None
        self._code: Code | None = None
        self._answer: tuple[Any, BaseException | None] = None, None
        #: Publishes the next attempt, which the code has asked for.
        self._send: Callable[[], Any] | None = None

    # In its greenlet.

    def trace(self) -> None:
        """Run the task, in a greenlet."""
        current_run.set(self)
        try:
            self.trace_here()
        finally:
            self.greenlet = None
            self._pool.ended()

    def trace_here(self) -> None:
        """Run the task, and tell that it began and how it has ended."""
        tell, tells = self._pool.tell, self._tells
        tell(tells["accept_callback"], self.number, time.monotonic(), at_once=self.is_acked_first)
        ended: tuple[Any, ...]
        try:
            with TellingOfEscapes():
                ended = tells["callback"], self._target(*self._args, **self._kwargs)
        except BaseException as exc:
            if not (self.is_told and isinstance(exc, SystemExit)):
                ended = tells["error_callback"], ExceptionInfo()
            elif self._is_late:
                ended = tells["timeout_callback"], False, self._limits[1]
            else:
                ended = tells["error_callback"], _terminated()
        tell(self._pool.over, self, *ended)

    def is_here(self) -> bool:
        return self.greenlet is not None and getcurrent() is self.greenlet

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop, (soft, hard) = self._pool.loop, self._limits
        if soft:
            self._timers.append(loop.call_later(soft, self._exceed_soft, soft))
        if hard:
            self._timers.append(loop.call_later(hard, self._exceed_hard))
        code = self._code = Code(coroutine)
        task = self._task = loop.create_task(code)
        if self.is_told:
            task.cancel()
        task.add_done_callback(self._resume)
        try:
            self._pool.greenlet.switch()
        finally:
            self._task = self._code = None
            for timer in self._timers:
                timer.cancel()
        if self._send is not None:
            try:
                self.wait_for(self._send)
            except Exception as exc:
                raise Reject(exc, requeue=False) from exc  # as Celery does
        try:
            return result_of(task)
        except asyncio.CancelledError:
            if self._is_cancelled and not self.is_told:
                raise JobCancelled("the job was cancelled") from None
            raise

    def wait_for(self, call: Callable[[], R]) -> R:
        there = in_context(call)

        def submit() -> None:  # once all is told that this run has told before
            self._pool.aside(there, self._answered)

        self._pool.pipeline.put(submit, nothing)
        value: R = self._wait_for_answer()
        return value

    def send_later(self, call: Callable[[], Any]) -> None:
        """Publish the next attempt once the code has ended: it does so at once, by Celery's ``Retry``."""
        self._send = in_context(call)

    def pause(self, seconds: float) -> None:
        self._pool.loop.call_later(seconds, self._go_on, None, None)
        self._wait_for_answer()

    def ask(self, work: Work) -> Any:
        """Return what a work returns, after all that this run has told before. Code waits, and blocks, for it."""
        if not self.is_here():
            return self._pool.pipeline.ask(work)
        self._pool.pipeline.put(work, self._answered)
        return self._wait_for_answer()

    def tell(self, call: Call[Any]) -> Any:
        """Tell the ledger what the code reports. Return what that says of it, where the code may wait for that."""
        if self._is_known_cancelled:
            return "cancelled"
        if not self._pool.is_loops():
            return self._pool.pipeline.ask(call)
        if self._pool.pipeline.is_full:
            raise RedisError("too much is to be told, and Redis does not answer")
        self._pool.pipeline.put(call, self._told)
        return "unknown"

    async def told(self, call: Callable[[], R]) -> R:
        told: asyncio.Future[R] = self._pool.loop.create_future()

        def tell(value: Any, exc: BaseException | None) -> None:
            if told.done():  # the code was told to end meanwhile
                return
            if exc is None:
                told.set_result(value)
            else:
                told.set_exception(exc)

        self._pool.pipeline.put(in_context(call), lambda *answer: self._pool.soon(tell, *answer))
        return await told

    def store(self, call: Callable[[], Any]) -> Any:
        there = in_context(call)
        if self.is_here() or not self._pool.is_loops():
            return self.ask(there)
        if not self._pool.pipeline.is_full:
            self._pool.pipeline.put(there, self._told)
        return None

    def _wait_for_answer(self) -> Any:
        self._pool.greenlet.switch()
        return outcome(*self._answer)

    # In the pipeline's thread, or another.

    def _answered(self, value: Any, exc: BaseException | None) -> None:
        self._pool.soon(self._go_on, value, exc)

    def _told(self, value: Any, exc: BaseException | None) -> None:
        if exc is not None:
            log.warning("what a task has told is lost: %s", exc)
        elif value == "cancelled":
            self._is_known_cancelled = True
            self._pool.soon(self.cancel)

    # In the loop's own.

    def _go_on(self, value: Any, exc: BaseException | None) -> None:
        if self.greenlet is not None:
            self._answer = value, exc
            self.greenlet.switch()

    def _resume(self, task: Any) -> None:
        if self.greenlet is not None:
            self.greenlet.switch()

    def _exceed_soft(self, limit: float) -> None:
        if self._task is not None and self._code is not None and not self.is_told:
            self._pool.tell(self._tells["timeout_callback"], True, limit)
            self._code.told = SoftTimeLimitExceeded()
            self._task.cancel()

    def _exceed_hard(self) -> None:
        if not self.is_told:
            self._is_late = True
        self.tell_to_end(pool.PATIENCE_AT_LIMIT)

    def cancel(self) -> None:
        """Tell the code, once, that its job was cancelled; what it makes of that is its own affair."""
        if self._task is not None and not (self._is_cancelled or self.is_told):
            self._is_cancelled = True
            self._task.cancel()

    def tell_to_end(self, patience: float) -> None:
        """Have the code end, and kill it after so many seconds; but a thread goes on."""
        if self.greenlet is not None and not self.is_told:
            self.is_told = True
            self._timers.append(self._pool.loop.call_later(patience, self._kill))
            if self._task is not None:
                self._task.cancel()

    def _kill(self) -> None:
        if self.greenlet is not None and self._task is not None and self._code is not None:
            self._task.remove_done_callback(self._resume)
            self._code.kill()
            self._task.cancel()
            self.greenlet.throw(asyncio.CancelledError)


def _terminated() -> ExceptionInfo:
    try:
        raise Terminated(15)
    except Terminated:
        return ExceptionInfo()
