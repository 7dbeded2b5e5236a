"""A thread that does one thing again and again until it is told to stop, with one rule for its exceptions."""

import logging
import threading
from collections.abc import Callable

from tornado_celery_bridge.base.forks import OfOneProcess

log = logging.getLogger(__name__)

#: Seconds to wait after a first exception, and after many in a row.
FIRST_DELAY, MAX_DELAY = 0.1, 1.0


class Repeating(OfOneProcess):
    """
    A daemon thread that repeats one step.

    An exception does not end it. It is logged once: again only when one of another class comes, or one after a step
    that went well. Then the thread waits, a little longer after each exception in a row, and repeats the step. Only
    :meth:`stop` ends the thread; a step whose work makes no more sense calls it itself.

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
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
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

    def _run(self) -> None:
        delay, told = 0.0, None
        try:
            while not self._stopping.is_set():
                try:
                    self._step()
                except BaseException as exc:  # whatever it is, nobody else is there to take care of it
                    if self._failed is not None:
                        self._failed(exc)
                    if type(exc) is not told:
                        self._log(exc)
                    delay, told = min(MAX_DELAY, delay * 2 or FIRST_DELAY), type(exc)
                    self.rest(delay)
                else:
                    delay, told = 0.0, None
                    if self._pause:
                        self.rest(self._pause)
        finally:
            if self._ended is not None:
                self._ended()

    def _log(self, exc: BaseException) -> None:
        traceback = exc if log.isEnabledFor(logging.DEBUG) else None
        then = "it ends" if self.stopping else "it tries again"
        log.warning("%s: %s: %s; %s", self.name, type(exc).__name__, exc, then, exc_info=traceback)
