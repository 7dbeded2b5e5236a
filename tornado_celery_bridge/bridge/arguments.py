"""What callers of a bridge give is checked before anything is made of it: they learn of it, and no worker does."""

import inspect
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from numbers import Integral, Real
from typing import Any

from celery import Celery, Task
from celery.canvas import Signature
from kombu import Queue

#: The options of ``apply_async`` that are checked: what each may be, and how that is told.
_OPTIONS: Mapping[str, tuple[Any, str]] = {
    "countdown": (Real, "a number of seconds"),
    "eta": (datetime | str, "a datetime"),
    "expires": (Real | datetime | str, "a number of seconds, or a datetime"),
    "priority": (Integral, "a number"),
    "queue": (str | Queue, "the name of a queue"),
    "time_limit": (Real, "a number of seconds"),
    "soft_time_limit": (Real, "a number of seconds"),
}


def check_app(app: Any) -> None:
    """
    Check what a bridge is made of.

    Raises:
        TypeError: It is no Celery app.
    """
    if not isinstance(app, Celery):
        raise TypeError(f"a Celery app is needed, and {app!r:.100} is none")


def check_call(target: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> None:
    """
    Check what is to be sent.

    Raises:
        TypeError: It is nothing that can be sent. The message has the call to write instead.
        ValueError: A time can't be read.
    """
    if not isinstance(target, str | Signature | Task):
        told = "; a function is one by @app.task" if inspect.isroutine(target) else ""
        raise TypeError(f"a task, a signature or the name of a task can be sent, and {target!r:.100} is none{told}")
    if isinstance(args, str | bytes | bytearray) or not isinstance(args, Sequence):
        name = target if isinstance(target, str) else target["task"] if isinstance(target, Signature) else target.name
        raise TypeError(
            f"args is a list or a tuple of the arguments of {name}, and {args!r:.100} is none: for add(1, 2) it is"
            " dispatch(add, (1, 2)), or dispatch(add.s(1, 2))"
        )
    if not isinstance(kwargs, Mapping | None):
        raise TypeError(f"kwargs is a dict of named arguments, and {kwargs!r:.100} is none")
    own = target["options"] if isinstance(target, Signature) else {}
    for name, value in (*own.items(), *options.items()):
        if value is not None and name in _OPTIONS:
            kind, told = _OPTIONS[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{name} is {told}, and {value!r:.100} is none{_hint(value)}")
            if isinstance(value, str) and name in ("eta", "expires"):
                _check_time(name, value)


def check_seconds(**durations: Any) -> None:
    """
    Check durations; None is one.

    Raises:
        TypeError: One is no number.
    """
    for name, value in durations.items():
        if not isinstance(value, Real | None) or isinstance(value, bool):
            raise TypeError(f"{name} is a number of seconds, and {value!r:.100} is none{_hint(value)}")


def check_texts(**texts: Any) -> None:
    """
    Check names.

    Raises:
        TypeError: One is no text.
    """
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} is a text, and {text!r:.100} is none")


def check_words(**lists: Any) -> None:
    """
    Check lists of words.

    Raises:
        TypeError: One is a word itself, or has something that is none.
    """
    for name, words in lists.items():
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"{name} is a list of words, and {words!r:.100} is none")


def _check_time(name: str, text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} is a datetime, and {text[:100]!r} is none; as text, 2027-01-31T06:00:00Z") from None


def _hint(value: Any) -> str:
    return f": give {value.total_seconds():g}" if isinstance(value, timedelta) else ""
