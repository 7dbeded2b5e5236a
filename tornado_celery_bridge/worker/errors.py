"""How an exception is told to the ledger: as text, so that whoever reads it needs none of the task's classes."""

import re
import sys
from typing import Any

from celery.exceptions import Retry
from celery.utils.serialization import UnpickleableExceptionWrapper

from tornado_celery_bridge.base.errors import described

#: A frame in a traceback: the last two parts of the file's path, as folders differ from worker to worker; the function.
_FRAME = re.compile(r'^  File "(?:[^"\n]*?/)??((?:[^"/\n]+/)?[^"/\n]+)", line \d+, in (.+)$', re.MULTILINE)
#: Characters of an exception's message that the ledger keeps. Celery's result has all of it.
MAX_MESSAGE = 8_000
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


class Escaped(CodeExited):
    """
    What stands for an exception that Celery lets out of a task's code or its hooks.

    Args:
        raised: What it lets out.
        end: How the attempt had ended before, as ``Attempt.end`` has it; None if it had not.
    """

    def __init__(self, raised: BaseException | str, end: str | None) -> None:
        super().__init__(raised)
        self.end = end

    def __reduce__(self) -> Any:
        return Escaped, (str(self), self.end)


class GivenUp(Exception):
    """A task is not begun again: the process that runs it dies each time, or the broker does not let it run so long."""


def ends_from_outside() -> tuple[type[BaseException], ...]:
    """Return what a pool of greenlets raises in a task's code that it ends, and so has to pass."""
    gevent, greenlet = sys.modules.get("gevent"), sys.modules.get("greenlet")
    return () if gevent is None or greenlet is None else (gevent.Timeout, greenlet.GreenletExit)


def error_of(result: Any) -> dict[str, str]:
    """Return why a task did not succeed, as ``Job.error`` has it; *result* is an exception or anything else."""
    exc = result.exc if isinstance(result, Retry) and result.exc else result
    if isinstance(exc, CodeExited) and exc.__cause__ is not None:
        exc = exc.__cause__
    told = described(exc)
    text = told.message
    return told._replace(message=text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…")._asdict()


def as_raised(told: Any, raised: BaseException | None) -> Any:
    """
    Return the exception that the code has raised, where Celery tells of another in its place.

    Celery does that for an exception that pickle can't hold: it tells of the nearest base class that pickle can, or of
    a wrapper of its own.

    Args:
        told: What Celery tells.
        raised: What the code has raised; of a retry, the ``Retry``.
    """
    if isinstance(raised, Retry):
        raised = raised.__cause__ or raised.__context__
    if raised is None:
        return told
    if isinstance(told, UnpickleableExceptionWrapper):
        return raised if told.exc_cls_name == type(raised).__name__ else told
    return raised if isinstance(told, Exception) and isinstance(raised, type(told)) else told


def place_of(traceback: Any) -> str:
    """Return the file and the function that a traceback ends in, without lines, which any change moves; '' if none."""
    frames = _FRAME.findall(str(traceback)[-MAX_TRACEBACK:]) if traceback else []
    return "{} in {}".format(*frames[-1]) if frames else ""
