"""Exceptions in every form; each function here raises one, for a task and for the test that compares."""

import enum
import json
import socket
import subprocess
import threading
import urllib.error
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

from pydantic import BaseModel


class TwoArguments(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class OnlyNamed(Exception):
    def __init__(self, *, what: str) -> None:
        super().__init__(f"it was {what}")


class NoSuper(Exception):
    def __init__(self, message: str, code: int) -> None:
        self.message = message

    def __str__(self) -> str:
        return f"says {self.message}"


class HoldsALock(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()

    def __str__(self) -> str:
        return f"locked: {self.args[0]} {type(self.lock).__name__}"


class ReadsItsArgument(Exception):
    def __str__(self) -> str:
        return f"HTTP {self.args[0].status}"


class CannotSay(Exception):
    def __str__(self) -> NoReturn:
        raise RuntimeError("no")


class CannotReduce(ValueError):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no")


class HasExc(Exception):
    """Has an attribute of the name that a ``Retry`` has."""

    exc = ValueError("another")


class Status(enum.Enum):
    BAD = 400


class Response:
    status = 404

    def __repr__(self) -> str:
        return "<Response>"


class Outer:
    class Inner(Exception): ...


class Model(BaseModel):
    x: int


def local() -> NoReturn:
    class Local(Exception): ...

    raise Local("here")


def http_error() -> NoReturn:
    raise urllib.error.HTTPError("http://x", 404, "Not Found", {}, None)  # type: ignore[arg-type]


def group() -> NoReturn:
    raise ExceptionGroup("several", [TwoArguments("x", 1), ValueError("y")])


def with_cause() -> NoReturn:
    try:
        raise KeyError("inner")
    except KeyError as exc:
        raise TwoArguments("outer", 1) from exc


def with_notes() -> NoReturn:
    exc = TwoArguments("x", 1)
    exc.add_note("first note")
    exc.add_note("second note")
    raise exc


def validation() -> NoReturn:
    Model.model_validate({"x": "y"})
    raise AssertionError


def bad_json() -> NoReturn:
    json.loads("{")
    raise AssertionError


def unreadable() -> NoReturn:
    b"\xff".decode()
    raise AssertionError


def of(make: Callable[[], Exception]) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise make()

    return fail


FORMS: dict[str, Callable[[], Any]] = {
    "plain": of(lambda: ValueError("mine")),
    "nothing": of(ValueError),
    "several": of(lambda: ValueError("a", 1, None)),
    "key": of(lambda: KeyError("x")),
    "os": of(lambda: FileNotFoundError(2, "No such file", "/x")),
    "name": of(lambda: socket.gaierror(-2, "Name or service not known")),
    "url": of(lambda: urllib.error.URLError(OSError(111, "refused"))),
    "http": http_error,
    "command": of(lambda: subprocess.CalledProcessError(3, ["x"])),
    "json": bad_json,
    "unicode": unreadable,
    "validation": validation,
    "two": of(lambda: TwoArguments("x", 1)),
    "named": of(lambda: OnlyNamed(what="this")),
    "no super": of(lambda: NoSuper("x", 1)),
    "lock": of(lambda: HoldsALock("x")),
    "argument": of(lambda: ReadsItsArgument(Response())),
    "cannot say": of(lambda: CannotSay("x", 1)),
    "cannot reduce": of(lambda: CannotReduce("x")),
    "has exc": of(lambda: HasExc("mine")),
    "nested": of(lambda: Outer.Inner("x")),
    "local": local,
    "group": group,
    "cause": with_cause,
    "notes": with_notes,
    "enum": of(lambda: ValueError(Status.BAD)),
    "uuid": of(lambda: ValueError(uuid.UUID(int=1), {1, 2})),
    "surrogate": of(lambda: ValueError("\ud800")),
    "lines": of(lambda: ValueError("a\nb")),
}
