"""What is said of an exception: its name, its module and its message, as the task raised it."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from celery.utils.serialization import UnpickleableExceptionWrapper, create_exception_cls

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.exceptions import message_of

#: Under this name a worker of ours stores an exception's message beside what Celery stores: its class and arguments,
#: from which not everybody can make the exception again, nor its message.
TEXT = "exc_text"


class Described(NamedTuple):
    """An exception as text."""

    #: The name of its class, and the class's module.
    type: str
    module: str
    #: Its message, with its notes, one on a line (PEP 678).
    message: str


def described(stored: Any) -> Described:
    """
    Return what is known of an exception.

    Args:
        stored: The exception; or what a result backend has of it, as Celery stores it; or whatever else a task's code
            has stored by ``update_state``, which is then the message.
    """
    match stored:
        case UnpickleableExceptionWrapper():
            message = ", ".join(map(str, stored.exc_args or ()))
            return Described(str(stored.exc_cls_name), str(stored.exc_module), message)
        case BaseException():
            cls: type = type(stored)
            return Described(cls.__qualname__, cls.__module__, text_of(stored))
        case {"exc_type": "UnpickleableExceptionWrapper", "exc_message": [module, name, [*args], *_]}:
            # Of a worker that does not keep the ledger.
            return Described(str(name), str(module), ", ".join(map(str, args)))
        case {"exc_type": name}:
            message = stored.get(TEXT)
            if message is None:
                message = stored.get("exc_message", "")
                message = ", ".join(map(str, message)) if isinstance(message, list | tuple) else message
            return Described(str(name), str(stored.get("exc_module") or "builtins"), str(message))
        case None:
            message = ""
        case Mapping() | list() | tuple():
            message = dumps(stored)
        case _:
            message = str(stored)
    return Described("Exception", "builtins", message)


def rebuilt(stored: Any, rebuild: Callable[[Any], Any]) -> BaseException:
    """
    Return an exception for what is stored of one: as *rebuild* makes it, or one of the same name and message.

    Args:
        stored: As for :func:`described`.
        rebuild: Celery's, which calls the exception's class with what is stored. It raises for much that code may
            store, and returns an ``Exception`` about the class if that takes other arguments.
    """
    told = described(stored)
    try:
        made = rebuild(stored)
    except Exception:  # of anybody's class
        made = None
    name = told.type.rpartition(".")[2]
    # Celery's wrapper stays one; and a class that takes other arguments becomes an Exception.
    if isinstance(made, BaseException) and name in {cls.__name__.rpartition(".")[2] for cls in type(made).__mro__}:
        return made
    cls: type[Exception] = create_exception_cls(name, told.module)
    return cls(told.message)


def text_of(exc: BaseException) -> str:
    """Return an exception's message, with its notes."""
    notes = getattr(exc, "__notes__", None)
    return "\n".join([message_of(exc), *(map(str, notes) if isinstance(notes, list | tuple) else ())])


def traceback_of(exc: BaseException) -> str:
    """Return an exception's traceback as text, with those of its causes."""
    return "".join(traceback.format_exception(exc))
