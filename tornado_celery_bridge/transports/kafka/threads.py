"""A thread that does something again and again until it is told to end, in the process that began it."""

import logging
import os
import threading

__all__ = ("Repeating",)

log = logging.getLogger(__name__)

#: Seconds for a thread to end, while somebody waits for it.
PATIENCE = 5.0


class Repeating:
    """Subclasses say what to do: `_begin`, then `_step` again and again, then `_end`; all in the thread."""

    #: The thread's name.
    name = ""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, wait: bool) -> None:
        """End, and if *wait* return after it has, or after some seconds."""
        self._stopping.set()
        if wait and self.is_mine and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)

    @property
    def is_mine(self) -> bool:
        """Whether it is this process' and not that of a parent, whose locks may be held for ever here."""
        return os.getpid() == self._pid

    def _run(self) -> None:
        try:
            self._begin()
            while not self._stopping.is_set():
                self._step()
        except BaseException as exc:
            log.warning("%s ends: %s", self.name, exc)
            self._fail(exc)
        finally:
            self._end()

    def _begin(self) -> None:
        pass

    def _step(self) -> None:
        raise NotImplementedError

    def _fail(self, exc: BaseException) -> None:
        pass

    def _end(self) -> None:
        pass
