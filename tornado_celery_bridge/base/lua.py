"""
Redis commands of our own: each is a Lua file, and one declaration in Python that calls it by name.

A declaration is a function. Its name is the file's; its parameters after the first are the command's arguments, by
name; its body makes a value of Redis' answer, the first parameter. ``@command(…)`` takes the names of the keys that the
command is known to use, with an argument's name in braces, and makes a :class:`Command` of the function::

    @command("job:{job_id}", "outbox")
    def defer(answer: int, *, job_id: str, most: int) -> bool:
        return bool(answer)

    await connection.run(defer(job_id="a", most=100))

In Lua the deployment's prefix is ``ARGV[1]``, and the arguments follow it: None and False are ``''``, True is ``'1'``.
If the last parameter is a sequence, it is the *rows*: all that is in it follows the other arguments, one by one.

A line ``-- include: name`` stands for the file ``parts/name.lua``, once, with what that includes itself.
"""

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

__all__ = ("Call", "Command", "commands", "sha_of")

P = ParamSpec("P")
R = TypeVar("R")

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
_KEY = re.compile(r"([^{}]*)(?:\{(\w+)\})?")


class Call(Generic[R]):
    """A command with its arguments; a client sends it, and returns :meth:`answer` of what Redis answers."""

    __slots__ = ("_command", "_named")

    def __init__(self, command: "Command[..., R]", named: dict[str, Any]) -> None:
        self._command = command
        self._named = named

    @property
    def text(self) -> str:
        """The script."""
        return self._command.text

    def arguments(self, prefix: str) -> list[Any]:
        """Return what comes after the script's name in EVALSHA: the number of keys, the keys, and the arguments."""
        command, named = self._command, self._named
        keys = [_key(prefix + start, named[name]) if name else prefix + start for start, name in command.key_parts]
        values = [named[name] for name in command.arguments]
        if command.rows:
            for row in named[command.rows]:
                values += row if isinstance(row, tuple) else (row,)
        values = ["" if value is None or value is False else "1" if value is True else value for value in values]
        return [len(keys), *keys, prefix, *values]

    def answer(self, answer: Any) -> R:
        """Return what *answer*, as Redis gave it, means."""
        return self._command.declaration(answer, **self._named)


class Command(Generic[P, R]):
    """A command: called with its arguments by name, it makes a :class:`Call`."""

    def __init__(self, declaration: Callable[Concatenate[Any, P], R], keys: Sequence[str], text: str) -> None:
        functools.update_wrapper(self, declaration)
        self.name = declaration.__name__
        self.declaration: Callable[..., R] = declaration
        #: The script, with what it includes.
        self.text = text
        #: The keys' names, as they were declared.
        self.keys = tuple(keys)
        self.key_parts = [_KEY.fullmatch(key).groups("") for key in keys]  # type: ignore[union-attr]
        _, *parameters = inspect.signature(declaration).parameters.values()
        self._defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
        self._names = {each.name for each in parameters}
        #: The arguments' names, in order, but for the rows'.
        self.arguments = [each.name for each in parameters]
        #: The parameter of the rows; empty if there are none. And the names of what is in a row.
        self.rows = ""
        self.columns: tuple[str, ...] = ()
        last = get_type_hints(declaration).get(self.arguments[-1]) if self.arguments else None
        if get_origin(last) is Sequence:
            self.rows, (row,) = self.arguments.pop(), get_args(last)
            self.columns = getattr(row, "_fields", (self.rows,))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        named = {**self._defaults, **kwargs} if self._defaults else kwargs
        if args or named.keys() != self._names:
            raise TypeError(f"{self.name} takes {sorted(self._names)} by name, and was given {sorted(named)}")
        return Call(self, named)


def commands(
    folder: Path, *, parts: Sequence[Path] = ()
) -> "Callable[..., Callable[[Callable[Concatenate[Any, P], R]], Command[P, R]]]":
    """
    Return the decorator for declarations of the commands in a folder.

    Args:
        folder: Has the Lua files.
        parts: Other folders whose ``parts`` may be included.
    """

    def command(*keys: str) -> Callable[[Callable[Concatenate[Any, P], R]], Command[P, R]]:
        def declare(declaration: Callable[Concatenate[Any, P], R]) -> Command[P, R]:
            return Command(declaration, keys, _assembled(folder / f"{declaration.__name__}.lua", [folder, *parts]))

        return declare

    return command


@functools.cache
def sha_of(text: str) -> str:
    """Return what Redis knows a script by."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _assembled(file: Path, folders: Sequence[Path]) -> str:
    """Return a script with the parts that it includes, each before what includes it."""
    included: list[str] = []

    def parts_of(text: str) -> Iterator[str]:
        for name in _INCLUDE.findall(text):
            if name not in included:
                included.append(name)
                part = next(
                    path for folder in folders if (path := folder / "parts" / f"{name}.lua").exists()
                ).read_text()
                yield from parts_of(part)
                yield part

    text = file.read_text()
    return "".join([*parts_of(text), text])


def _key(start: str, name: str | bytes) -> str | bytes:
    return start.encode() + name if isinstance(name, bytes) else start + name
