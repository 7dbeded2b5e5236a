"""
Tasks of ``async def``: a task's coroutine is awaited where Celery calls the task's code, on a loop of that thread.
Tasks that are generators, of ``def`` or ``async def``, are run to their end there (:mod:`.generators`).

Theory of operation. Celery calls a task's code as a function and takes what it returns for the result. So the function
is wrapped in one that awaits the coroutine. It is the innermost of all that is wrapped around the code:
``autoretry_for``, ``pydantic=True`` and the guard see a value and exceptions, as those of any other task.

A thread that runs tasks has one event loop, for all its tasks one after the other: the main thread of a process of the
prefork pool, each thread of the threads pool, the worker itself with the solo pool. The loop is kept, so that clients
and their connections live on from task to task. It runs while a task does: what a task leaves behind on it goes on with
the next one.

A signal whose handler raises (a soft time limit, TERM) may come at any moment. Raised in the loop's own code the
exception would leave a broken loop, and the task would never see it. So it is raised at once only while the task's code
itself runs, as in any other task. Else it is raised in the code where that awaits: ``SoftTimeLimitExceeded`` as it is,
and :class:`asyncio.CancelledError` for what ends the process.
"""

import abc
import asyncio
import atexit
import contextlib
import ctypes
import functools
import inspect
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import ContextVar, copy_context
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeVar

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]
from celery import Celery
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.app import base as celery_app

from tornado_celery_bridge.base.forks import OfOneProcess
from tornado_celery_bridge.worker.generators import drained, drained_async

#: What billiard tells a process of the pool by, and what Ctrl-C sends.
_SIGNALS = [getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1")]

#: Seconds for what tasks have left on a loop to end, as its thread or process ends.
PATIENCE = 5.0


R = TypeVar("R")

#: What the code of a task may be that returns no value at once, and what it returns.
_KINDS = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
_VALUES = CoroutineType, GeneratorType, AsyncGeneratorType


class Run(abc.ABC):
    """A run of a task in a pool that awaits coroutines itself, on a loop that is not to block: :data:`current_run`."""

    #: Whether it was told to end.
    is_told = False

    @abc.abstractmethod
    def is_here(self) -> bool:
        """Return whether this is where Celery calls the task's code, and not something that the code has started."""

    @abc.abstractmethod
    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what the coroutine of a task returns, or raise what it raises."""

    @abc.abstractmethod
    def wait_for(self, call: Callable[[], R]) -> R:
        """Return what a call returns that a thread makes; only where :meth:`is_here`."""

    @abc.abstractmethod
    def pause(self, seconds: float) -> None:
        """Wait; only where :meth:`is_here`."""

    @abc.abstractmethod
    async def told(self, call: Callable[[], R]) -> R:
        """Return what a call returns that a thread makes, after all that was told before; for code on the loop."""

    @abc.abstractmethod
    def store(self, call: Callable[[], Any]) -> Any:
        """Make a call of the result backend, after those before; return None where the code can't wait for it."""


current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
#: What the code handled that has a thread make a call.
_handled: ContextVar[BaseException | None] = ContextVar("handled", default=None)


def off_loop(call: Callable[[], R]) -> R:
    """
    Return what a call returns that may block, or raise what it raises.

    In a pool that runs tasks on a loop a thread makes it, as the run waits. The task's own code can't wait here: what
    that calls is made at once, as it is in any other pool.
    """
    run = current_run.get()
    return run.wait_for(call) if run is not None and run.is_here() else call()


def pause(seconds: float, sleep: Callable[[float], object] = time.sleep) -> None:
    """Wait for some seconds; on a loop others go on meanwhile."""
    run = current_run.get()
    if run is not None and run.is_here():
        run.pause(seconds)
    else:
        sleep(seconds)


def stored_in_order(call: Callable[[], R]) -> R | None:
    """Make a call of the result backend; on a loop it is made by a thread, in order, and None may be returned."""
    run = current_run.get()
    return call() if run is None else run.store(call)


def in_context(call: Callable[[], R]) -> Callable[[], R]:
    """Return *call* for another thread: there it finds the run, and what this one handles: :func:`handled`."""
    context = copy_context()
    context.run(_handled.set, handled())
    return lambda: context.run(call)


def handled() -> BaseException | None:
    """Return the exception that is handled here, or by whoever has a thread make this call."""
    return sys.exc_info()[1] or _handled.get()


def is_told_to_end() -> bool:
    """Return whether what runs here was told to end: its process was, or its run in a pool without processes."""
    run = current_run.get()
    return terminate_handler_fired() or (run is not None and run.is_told)


def await_code(app: Celery) -> None:
    """Have the code of *app*'s tasks be awaited, or a generator be run to its end; a second call does nothing."""
    for task in app.tasks.values():
        _await_code(task)


def _await_code(task: Any) -> None:
    name = "_orig_run" if hasattr(task, "_orig_run") else "run"  # Celery's, for ``autoretry_for``
    run = getattr(task, name)
    if hasattr(run, "awaits") or not any(kind(inspect.unwrap(run)) for kind in _KINDS):
        return
    function = getattr(run, "__func__", run)
    if getattr(function, "__globals__", None) is vars(celery_app):  # Celery's wrapper, for ``pydantic=True``
        called = function.__closure__[function.__code__.co_freevars.index("task_fun")]
        called.cell_contents = _awaiting(called.cell_contents, task)
        function.awaits = called.cell_contents.awaits
    else:
        setattr(task, name, _awaiting(run, task))


def is_async(task: Any) -> bool:
    """Return whether the code of a task is known to return a coroutine, which is awaited here."""
    return bool(getattr(getattr(task, "_orig_run", task.run), "awaits", False))


def _awaiting(run: Callable[..., Any], task: Any) -> Callable[..., Any]:
    """Return a function that returns what the coroutine or the generator does that *run* returns."""

    @functools.wraps(run)
    def awaiting(*args: Any, **kwargs: Any) -> Any:
        value = run(*args, **kwargs)
        request = task.request
        # Code that calls a task as a function gets what the function returns, and awaits it itself. If the task is its
        # own, Celery hands on what the request has.
        if not isinstance(value, _VALUES) or request.called_directly or "is_awaited" in vars(request):
            return value
        request.is_awaited = True
        if isinstance(value, GeneratorType):
            return drained(value, functools.partial(_tell, task, request))
        if isinstance(value, AsyncGeneratorType):
            value = drained_async(value, functools.partial(_tell_async, task, request))
        run_here = current_run.get()
        if run_here is not None and run_here.is_here():
            return run_here.wait(value)
        if asyncio._get_running_loop() is None:
            return _loop_of_thread().run(value)
        return _run_beside(value, task, request)

    # A decorator may have hidden what it does with the coroutine: it may have run it.
    awaiting.awaits = inspect.iscoroutinefunction(run) or inspect.isasyncgenfunction(run)  # type: ignore[attr-defined]
    return awaiting


def _tell(task: Any, request: Any, number: int, value: Any) -> None:
    """Tell an item that a task's code has yielded. Of an eager task Celery stores no state, unless it is to."""
    if not request.is_eager or task.app.conf.task_store_eager_result:
        task.backend.store_item(number, value, request)


async def _tell_async(task: Any, request: Any, number: int, value: Any) -> None:
    call, run = functools.partial(_tell, task, request, number, value), current_run.get()
    if run is None:
        call()
    else:
        await run.told(call)


def _run_beside(coroutine: Coroutine[Any, Any, Any], task: Any, request: Any) -> Any:
    """Run a coroutine of an eager task whose caller runs on a loop, and blocks it as any eager task does."""

    def run() -> None:
        _task_stack.push(task)
        task.request_stack.push(request)
        loop = Loop()
        try:
            ended.append(loop.run(coroutine))
        except BaseException as exc:
            raised.append(exc)
        finally:
            loop.close()
            task.request_stack.pop()
            _task_stack.pop()

    ended, raised = list[Any](), list[BaseException]()
    thread = threading.Thread(target=copy_context().run, args=(run,), name="eager-task")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return ended[0]


class Loop(OfOneProcess):
    """A thread's loop, on which coroutines run one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.current_thread()
        # Not the policy's loop of this thread, which code that is no task may use.
        self.loop = asyncio.new_event_loop()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what the coroutine of a task returns, or raise what it raises."""
        loop = self.loop
        code = Code(coroutine)
        task = loop.create_task(code)

        def tell(exc: BaseException) -> None:
            code.told = exc
            task.cancel()

        try:
            with _carried(lambda: code.runs, lambda exc: loop.call_soon_threadsafe(tell, exc)):
                return loop.run_until_complete(task)
        except _Left:
            return result_of(task)
        except asyncio.CancelledError:
            if code.told is not None:
                raise code.told from None
            raise
        finally:
            task.cancel()  # unless it is done: something was raised in the loop's own code

    def close(self) -> None:
        """Cancel what was left on the loop, wait for it for ``PATIENCE`` seconds at most, and close the loop."""
        self.loop.run_until_complete(self._end_tasks())
        self.loop.close()

    async def _end_tasks(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=PATIENCE)
        await self.loop.shutdown_asyncgens()


class _Left(Exception):
    """What stands for an exception by which asyncio would leave its loop: ``raised``."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(raised)
        self.raised = raised


def result_of(task: "asyncio.Task[Any]") -> Any:
    """Return what a task's code has returned, or raise what it has raised."""
    try:
        return task.result()
    except _Left as exc:
        raise exc.raised from exc.raised.__cause__


class Code(Coroutine[Any, Any, Any]):
    """A task's coroutine: another exception can be raised in it than ``CancelledError``, and none leaves the loop."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine: Any = coroutine
        #: What is to be raised.
        self.told: BaseException | None = None
        self._is_dead = False

    @property
    def runs(self) -> bool:
        """Whether its own code runs now, and does not wait."""
        return bool(self._coroutine.cr_running)

    def kill(self) -> None:
        """Close the coroutine, and never resume it, whatever it makes of that."""
        self._is_dead = True
        try:
            self._coroutine.close()
        except BaseException:
            # It may go on. Python would close it once more as it is collected, in whatever thread that happens; there
            # is no loop there, and code that tries again whatever is raised would never end. So it never is collected.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._coroutine))

    def send(self, value: Any) -> Any:
        if self._is_dead:
            raise asyncio.CancelledError
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as exc:
            raise _Left(exc) from exc

    def throw(self, exc: Any, *more: Any) -> Any:
        if self._is_dead:
            raise asyncio.CancelledError
        if isinstance(self.told, Exception) and isinstance(exc, asyncio.CancelledError):
            exc, self.told = self.told, None
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # so that ``asyncio.timeout`` in the code knows that it was not meant
        try:
            return self._coroutine.throw(exc, *more)
        except (SystemExit, KeyboardInterrupt) as left:
            raise _Left(left) from left

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()  # type: ignore[no-any-return]


@contextlib.contextmanager
def _carried(is_safe: Callable[[], bool], carry: Callable[[BaseException], object]) -> Iterator[None]:
    """Have what the handlers of signals raise be carried elsewhere, unless it is safe to raise it at once."""
    if threading.current_thread() is not threading.main_thread():  # which alone has handlers
        yield
        return
    before = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}

    def handle(number: int, frame: Any) -> None:
        try:
            before[number](number, frame)
        except BaseException as exc:
            if is_safe():
                raise
            carry(exc)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:  # billiard's sets the default one
                signal.signal(number, handler)


_here = threading.local()
_loops: set[Loop] = set()


def _loop_of_thread() -> Loop:
    known: Loop | None = getattr(_here, "loop", None)
    if known is None or not known.is_mine:
        close_loops()
        known = _here.loop = Loop()
        _loops.add(known)
    return known


def close_loops(**_: Any) -> None:
    """Close the loops of this thread and of those that have ended; a loop that was forked is its parent's."""
    for loop in list(_loops):
        if loop.is_mine and (loop.thread is threading.current_thread() or not loop.thread.is_alive()):
            try:
                _loops.remove(loop)
            except KeyError:  # another thread closes it
                continue
            loop.close()
    _here.loop = None


atexit.register(close_loops)  # of eager tasks
