"""
Redis commands of our own: each is a Lua file, whose head declares its keys and its arguments by name.

The head is a comment::

    -- defer: put a job that could not be published into the outbox.
    -- KEYS: job:{job_id}, outbox
    -- ARGV: prefix, job_id, most
    -- Answers: whether it will be published
    -- include: job, queues

``KEYS`` are the keys that the command is known to use, with an argument's name in braces. The first of the ``ARGV`` is
the deployment's prefix, which all keys begin with. ``ROWS``, if there are any, are the columns of a list that follows
the arguments. In the code below the head the arguments are local variables; the line that makes them is added. Each
name after ``include`` stands for the file ``parts/name.lua``, once, with what that includes itself.

Redis makes the functions of a script anew at each call, which costs more than the commands of a short one. What few
calls need is named after ``include rarely``: the functions of these parts are fields of ``rare``, such as
``rare.lapse``, and are made when a call first asks for one of them.

In Python a command is made by its name and what decodes its answer, and called by the same names::

    command = Commands(Path(__file__).parent / "lua")
    defer = command("defer", bool)
    await connection.run(defer(job_id="a", most=100))

None and False are ``''`` in Lua, True is ``'1'``.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

R = TypeVar("R")

_INCLUDE = re.compile(r"^-- include: (.+)\n", re.MULTILINE)
_RARELY = re.compile(r"^-- include rarely: (.+)\n", re.MULTILINE)
_FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)
_LABEL = re.compile(r"^-- (KEYS|ARGV|ROWS): (.*(?:\n--   .*)*)$", re.MULTILINE)
_KEY = re.compile(r"([^{}]*)(?:\{(\w+)\})?")


def nothing(answer: Any) -> None:
    """Decode an answer that says nothing."""


def as_it_is(answer: Any) -> Any:
    """Decode an answer that whoever asks decodes."""
    return answer


class Command(Generic[R]):
    """A command: called with its arguments by name, and its rows as ``rows``, it makes a :class:`Call`."""

    def __init__(
        self, name: str, folders: Sequence[Path], answer: Callable[[Any], R], defaults: dict[str, Any], first: str = ""
    ) -> None:
        self.name = name
        #: Decodes the answer.
        self.answer = answer
        own = (folders[0] / f"{name}.lua").read_text()
        head, code = own.split("\n\n", 1)
        labels = {label: re.split(r",[\s-]+", names) for label, names in _LABEL.findall(head)}
        #: The names of the keys, of the arguments after the prefix, and of the columns of a row.
        self.keys, self.arguments, self.columns = labels["KEYS"], labels["ARGV"][1:], tuple(labels.get("ROWS", ()))
        self.key_parts = [_KEY.fullmatch(key).groups("") for key in self.keys]  # type: ignore[union-attr]
        #: Arguments that may be left out.
        self.defaults = defaults
        self._names = {*self.arguments, *(["rows"] if self.columns else [])}
        names = labels["ARGV"]
        unpack = f"local {', '.join(names)} = unpack(ARGV, 1, {len(names)})\n"
        rows = f"local FIRST_ROW, ROW_WIDTH = {len(names) + 1}, {len(self.columns)}\n" if self.columns else ""
        #: The script, with what it includes.
        self.text = "".join([rows, *_with_rare(own, folders), head, "\n", unpack, first, code])

    def __call__(self, **named: Any) -> "Call[R]":
        if self.defaults:
            named = {**self.defaults, **named}
        if named.keys() != self._names:
            raise TypeError(f"{self.name} takes {sorted(self._names)}, and was given {sorted(named)}")
        return Call(self, named)


class Call(Generic[R]):
    """A command with its arguments; a client sends it, and decodes the answer."""

    __slots__ = ("_named", "command")

    def __init__(self, command: Command[R], named: dict[str, Any]) -> None:
        self.command = command
        self._named = named

    def arguments(self, prefix: str) -> list[Any]:
        """Return what comes after the script's name in EVALSHA: the number of keys, the keys, and the arguments."""
        command, named = self.command, self._named
        keys = [_key(prefix + start, named[name]) if name else prefix + start for start, name in command.key_parts]
        values = [named[name] for name in command.arguments]
        if command.columns:
            for row in named["rows"]:
                values += row if isinstance(row, tuple) else (row,)
        values = ["" if value is None or value is False else "1" if value is True else value for value in values]
        return [len(keys), *keys, prefix, *values]


class Commands:
    """
    Makes the commands of the Lua files in a folder.

    Args:
        folder: Has the files.
        parts: Other folders whose ``parts`` may be included.
        first: Lua that each command runs before its own code.
    """

    def __init__(self, folder: Path, *, parts: Sequence[Path] = (), first: str = "") -> None:
        self._folders = [folder, *parts]
        self._first = first

    def __call__(self, name: str, answer: Callable[[Any], R], **defaults: Any) -> Command[R]:
        """Return the command of a file. *answer* decodes its answer; *defaults* are arguments that may be left out."""
        return Command(name, self._folders, answer, defaults, self._first)


@functools.cache
def sha_of(text: str) -> str:
    """Return what Redis knows a script by."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _with_rare(text: str, folders: Sequence[Path]) -> list[str]:
    """Return the parts that *text* includes, and what makes those that it includes rarely."""
    included: set[str] = set()
    parts = [*_parts(text, folders, included)]
    names = _named(_RARELY, text, *parts)
    if not names:
        return parts
    rare: list[str] = []
    for name in names:  # which grows meanwhile
        new = [] if name in included else [*_parts(f"-- include: {name}\n", folders, included)]
        rare += new
        names += [each for each in _named(_RARELY, *new) if each not in names]
    functions = [each for name in names for each in _FUNCTION.findall(_part(name, folders))]
    fill = f"{', '.join(f'loaded.{each}' for each in functions)} = {', '.join(functions)}\n"
    begin = "rare = setmetatable({}, {__index = function(loaded, name)\n"
    return ["local rare\n", *parts, begin, *rare, fill, "return rawget(loaded, name)\nend})\n"]


def _parts(text: str, folders: Sequence[Path], included: set[str]) -> Iterator[str]:
    """Yield the parts that *text* includes and that are not *included* yet, each after what it includes itself."""
    for name in _named(_INCLUDE, text):
        if name not in included:
            included.add(name)
            part = _part(name, folders)
            yield from _parts(part, folders, included)
            yield part


def _part(name: str, folders: Sequence[Path]) -> str:
    paths = (folder / "parts" / f"{name}.lua" for folder in folders)
    return next(path for path in paths if path.exists()).read_text()


def _named(line: re.Pattern[str], *texts: str) -> list[str]:
    """Return the names in such lines of *texts*, each once."""
    return list(dict.fromkeys(name for text in texts for names in line.findall(text) for name in names.split(", ")))


def _key(start: str, name: str | bytes) -> str | bytes:
    return start.encode() + name if isinstance(name, bytes) else start + name
