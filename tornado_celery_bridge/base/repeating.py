"""A thread and a task that do one thing again and again until they are told to stop, with one rule for exceptions."""

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context

from tornado_celery_bridge.base.forks import OfOneProcess, without_signals
from tornado_celery_bridge.exceptions import message_of

log = logging.getLogger(__name__)

#: Seconds to wait after a first exception, and after many in a row.
FIRST_DELAY, MAX_DELAY = 0.1, 1.0
#: Seconds to wait after a task's first exception, when others wait for what it does.
FIRST_DELAY_OF_TASK = 0.02


class Trouble:
    """
    A series of exceptions. Each kind is logged once, each pause is longer than the last, and the end is logged.

    Args:
        name: The beginning of the log lines.
        first: Seconds of the first pause.
    """

    def __init__(self, name: str, first: float) -> None:
        self._name = name
        self._first = first
        self._delay = 0.0
        self._told: set[type[BaseException]] = set()

    def add(self, exc: BaseException, *, stopping: bool = False) -> float:
        """Note one more exception, and return how many seconds to wait."""
        if type(exc) not in self._told:
            self._told.add(type(exc))
            traceback = exc if log.isEnabledFor(logging.DEBUG) else None
            then = "it ends" if stopping else "it tries again"
            log.warning("%s: %s: %s; %s", self._name, type(exc).__name__, message_of(exc), then, exc_info=traceback)
        self._delay = min(MAX_DELAY, self._delay * 2 or self._first)
        return self._delay

    def shorten(self) -> None:
        """Begin again with the shortest pause."""
        self._delay = 0.0

    def end(self) -> None:
        """Note that it works again."""
        self._delay = 0.0
        if self._told:
            self._told.clear()
            log.info("%s: it works again", self._name)


class Repeating(OfOneProcess):
    """
    A daemon thread that repeats one step.

    An exception does not end it. It is logged once: again only when one of another class comes, or one after a step
    that went well. Then the thread waits, a little longer after each exception in a row, and repeats the step. Only
    :meth:`stop` ends the thread; a step whose work makes no more sense calls it itself. A step may also go on for as
    long as all is well, and then calls :meth:`works`.

    Args:
        name: The thread's name, and the beginning of its log lines.
        step: What to repeat. A step that takes long looks at :attr:`stopping`, or waits by :meth:`rest`.
        pause: Seconds between two steps.
        failed: Called in the thread with each exception of a step.
        ended: Called in the thread after the last step.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], None],
        *,
        pause: float = 0.0,
        failed: Callable[[BaseException], None] | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self._step = step
        self._pause = pause
        self._failed = failed
        self._ended = ended
        self._trouble = Trouble(name, FIRST_DELAY)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        with without_signals():
            self._thread.start()

    def stop(self, timeout: float = 0.0) -> None:
        """Have the thread end after its step; wait for that for up to *timeout* seconds. Any thread may call this."""
        if not self.is_mine:
            return
        self._stopping.set()
        if timeout and self.is_alive and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    @property
    def stopping(self) -> bool:
        """Whether the thread was told to end."""
        return self._stopping.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def rest(self, seconds: float) -> bool:
        """Wait for so many *seconds*, or until the thread is to end; return whether it is."""
        return self._stopping.wait(seconds)

    def works(self) -> None:
        """Note, in a step that goes on, that all is well."""
        self._trouble.end()

    def _run(self) -> None:
        trouble = self._trouble
        try:
            while not self._stopping.is_set():
                try:
                    self._step()
                except BaseException as exc:  # whatever it is, nobody else is there to take care of it
                    if sys.is_finalizing():  # the interpreter ends; from Python 3.12 on no thread can be started then
                        return
                    if self._failed is not None:
                        self._failed(exc)
                    self.rest(trouble.add(exc, stopping=self.stopping))
                else:
                    trouble.end()
                    if self._pause:
                        self.rest(self._pause)
        finally:
            if self._ended is not None:
                self._ended()


class RepeatingTask:
    """
    A task of the event loop that repeats one step, by the rule of :class:`Repeating`.

    A step may also go on for as long as all is well, such as one that reads from a connection. It then calls
    :meth:`progressed` and :meth:`works`.

    Args:
        name: The task's name, and the beginning of its log lines.
        step: What to repeat.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._step = step
        self._trouble = Trouble(name, FIRST_DELAY_OF_TASK)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        empty = Context()  # the task outlives the request that starts it
        self._task = asyncio.create_task(self._run(), name=self._name, context=empty)

    async def stop(self) -> None:
        """End, in the middle of a step."""
        task, self._task = self._task, None
        # redis-py sometimes takes a cancellation for a lost connection, and goes on: cancelled until it ends.
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)

    def progressed(self) -> None:
        """Note, in a step that goes on, that it did some good: the next pause is the shortest one."""
        self._trouble.shorten()

    def works(self) -> None:
        """Note, in a step that goes on, that all is well."""
        self._trouble.end()

    async def _run(self) -> None:
        while True:
            try:
                await self._step()
            except Exception as exc:
                await asyncio.sleep(self._trouble.add(exc))
            else:
                self._trouble.end()
