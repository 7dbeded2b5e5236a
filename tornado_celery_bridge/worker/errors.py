"""How an exception is told to the ledger: as text, so that whoever reads it needs none of the task's classes."""

import re
import sys
from collections.abc import Mapping
from typing import Any

#: A frame in a traceback: the last two parts of the file's path, as folders differ from worker to worker; the function.
_FRAME = re.compile(r'^  File "(?:[^"\n]*?/)??((?:[^"/\n]+/)?[^"/\n]+)", line \d+, in (.+)$', re.MULTILINE)
#: The last frame is looked for in so many characters of a traceback's end.
MAX_TRACEBACK = 20_000


class CodeExited(Exception):
    """
    What stands for an exception by which a task's code would end the worker's process, such as ``SystemExit``.

    The task fails; its process goes on. ``__cause__`` is what the code raised.
    """

    def __init__(self, raised: BaseException | str) -> None:
        super().__init__(
            raised if isinstance(raised, str) else ": ".join(filter(None, (type(raised).__name__, str(raised))))
        )


class GivenUp(Exception):
    """A task that is no job is not begun again, as the process that runs it dies each time."""


def ends_from_outside() -> tuple[type[BaseException], ...]:
    """Return what a pool of greenlets raises in a task's code that it ends, and so has to pass."""
    gevent, greenlet = sys.modules.get("gevent"), sys.modules.get("greenlet")
    return () if gevent is None or greenlet is None else (gevent.Timeout, greenlet.GreenletExit)


def error_of(result: Any) -> dict[str, str]:
    """Return why a task did not succeed, as ``Job.error`` has it; *result* is an exception or anything else."""
    exc = getattr(result, "exc", None) or result  # a Retry has its cause
    if isinstance(exc, CodeExited) and exc.__cause__ is not None:
        exc = exc.__cause__
    if isinstance(exc, Mapping) and "exc_type" in exc:  # what the code has stored itself, as Celery stores an exception
        message = exc.get("exc_message", "")
        text = ", ".join(map(str, message)) if isinstance(message, list | tuple) else str(message)
        return {"type": str(exc["exc_type"]), "module": str(exc.get("exc_module") or "builtins"), "message": text}
    if not isinstance(exc, BaseException):
        return {"type": "Exception", "module": "builtins", "message": str(exc)}
    cls: type = type(exc)
    try:
        message = ", ".join(map(str, exc.args)) if exc.args else str(exc)
    except Exception:
        message = "(its message can't be shown)"
    return {"type": cls.__qualname__, "module": cls.__module__, "message": message}


def place_of(traceback: Any) -> str:
    """Return the file and the function that a traceback ends in, without lines, which any change moves; '' if none."""
    frames = _FRAME.findall(str(traceback)[-MAX_TRACEBACK:]) if traceback else []
    return "{} in {}".format(*frames[-1]) if frames else ""
