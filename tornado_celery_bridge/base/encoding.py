"""
The encoding of values that have to come back as they were: in messages, in the result backend and in the ledger.

Theory of operation. It is kombu's JSON, in which ``{"__type__": …, "__value__": …}`` stands for a value that JSON does
not have, such as a time. kombu writes a dict with exactly these two keys in the same way, so whoever reads it gets
something else, or an error. Here such a dict is written as a type of its own, and comes back as the dict that it was.
So nothing that is inside a value can be taken for a type: what a client sends is never a reference to a blob, whichever
door it came through.

This module registers itself as kombu's serializer ``json``, so Celery's messages and results are written in this way
too. kombu's own JSON reads it in every process that has imported this module.
https://docs.celeryq.dev/en/stable/userguide/calling.html#serializers
"""

import json
from typing import Any

from kombu import serialization
from kombu.utils import json as kombu_json

#: The keys of what kombu takes for a type.
_KEYS = {"__type__", "__value__"}


class _Object:
    """A dict that has exactly the keys of a type, on its way into JSON."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        self.items = items


def _dict(items: list[Any]) -> Any:
    return dict(items)


kombu_json.register_type(_Object, "tornado_celery_bridge.Object", lambda made: made.items, _dict)


class _Encoder(kombu_json.JSONEncoder):
    def encode(self, value: Any) -> str:
        text = super().encode(value)
        if '"__type__"' in text and '"__value__"' in text:  # most values have no such dict, which is quick to see
            return super().encode(escaped(value))
        return text

    def default(self, value: Any) -> Any:
        made = super().default(value)
        if isinstance(made, dict) and made.keys() == _KEYS:  # kombu's, of a type
            return {**made, "__value__": escaped(made["__value__"])}
        return escaped(made)


def escaped(value: Any) -> Any:
    """Return *value*, which kombu's own JSON can write, so that it comes back as it was."""
    match value:
        case dict():
            made = {key: escaped(child) for key, child in value.items()}
            return _Object([[key, child] for key, child in made.items()]) if made.keys() == _KEYS else made
        case list() | tuple():
            return [escaped(child) for child in value]
    return value


def dumps(value: Any) -> str:
    """
    Return *value* as JSON from which :func:`loads` returns it. Tuples come back as lists, and keys as text.

    Raises:
        TypeError, ValueError: It holds what neither JSON nor kombu has.
    """
    return json.dumps(value, cls=_Encoder)


def loads(text: str | bytes | bytearray | memoryview) -> Any:
    """
    Return the value that was encoded.

    Raises:
        ValueError: It is not JSON, or has a type that is not known here.
    """
    if not isinstance(text, str):
        text = str(text, "utf-8")
    # kombu looks at each dict in Python. That takes longer than all else of a message, in which there is no type.
    return kombu_json.loads(text) if "__type__" in text or _ESCAPED in text else json.loads(text)


#: Each character of a type's keys may be written so.
_ESCAPED = "\\u00"


serialization.register("json", dumps, loads, content_type="application/json", content_encoding="utf-8")
