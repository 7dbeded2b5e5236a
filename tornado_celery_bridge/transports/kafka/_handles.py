"""
librdkafka's handles, which must not end in a process that they were not made in.

Each has threads of its own, which a forked child does not have: a handle that is destroyed there waits for them for
ever, or crashes. So a child never lets go of those that it inherits; their memory is shared with its parent anyway.
"""

import ctypes
import os
from typing import Any, TypeVar

__all__ = ("hold", "let_go")

_Handle = TypeVar("_Handle")

#: By id: two consumers are equal or not by librdkafka's notion.
_held: dict[int, Any] = {}


def hold(handle: _Handle) -> _Handle:
    """Return *handle*, a producer, consumer or admin client that was just made, until :func:`let_go`."""
    _held[id(handle)] = handle
    return handle


def let_go(handle: Any) -> None:
    """Let *handle* end with its last reference; of one that was inherited, nothing."""
    _held.pop(id(handle), None)


def _keep_for_ever() -> None:
    for handle in _held.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))  # not even the interpreter's end lets go of it
    _held.clear()


os.register_at_fork(after_in_child=_keep_for_ever)
