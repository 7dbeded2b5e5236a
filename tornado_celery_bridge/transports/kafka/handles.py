"""
librdkafka's handles, which must not end in a process other than the one that made them.

Each has threads of its own, which a forked child does not have: a handle that is destroyed in a child waits for them
for ever, or crashes. So a child never destroys those that it inherits; it shares their memory with its parent anyway.
"""

import ctypes
import os
from typing import Any, TypeVar

from confluent_kafka import Consumer, Producer

_Handle = TypeVar("_Handle")

#: By id: two handles may be equal by librdkafka's notion.
_held: dict[int, Any] = {}


def hold(handle: _Handle) -> _Handle:
    """Return *handle*: a new producer, consumer or admin client. :func:`end` ends it."""
    _held[id(handle)] = handle
    return handle


def end(handle: Any) -> None:
    """
    End *handle* now, whoever still has a reference to it; one that is inherited never ends.

    Raises:
        KafkaException, RuntimeError: It ended with an error.
    """
    if id(handle) not in _held:
        return
    try:
        if isinstance(handle, Producer):
            handle.purge()  # else it waits for a broker that is away
            handle.close()
        elif isinstance(handle, Consumer):
            handle.close()
        else:
            handle.__exit__(None, None, None)
    finally:
        del _held[id(handle)]


def _keep_for_ever() -> None:
    for handle in _held.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))  # not even the interpreter's end lets go of it
    _held.clear()


os.register_at_fork(after_in_child=_keep_for_ever)
