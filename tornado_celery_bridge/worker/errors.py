"""How an exception is told to the ledger: as text, so that whoever reads it needs none of the task's classes."""

import re
from typing import Any

__all__ = ("error_of", "place_of")

#: A frame in a traceback: the last two parts of the file's path, as folders differ from worker to worker; the function.
_FRAME = re.compile(r'^  File "(?:[^"\n]*?/)??((?:[^"/\n]+/)?[^"/\n]+)", line \d+, in (.+)$', re.MULTILINE)
#: The last frame is looked for in so many characters of a traceback's end.
MAX_TRACEBACK = 20_000


def error_of(result: Any) -> dict[str, str]:
    """Return why a task did not succeed, as ``Job.error`` has it; *result* is an exception or anything else."""
    exc = getattr(result, "exc", None) or result  # a Retry has its cause
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
