"""The one writer of what the service answers: JSON, by pydantic's own encoder."""

from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from tornado_celery_bridge.base.json import cleaned

#: Objects and arrays inside each other that are shown. pydantic's encoder has a bound of its own, above this.
MAX_DEPTH = 200


class Encoded(bytes):
    """JSON already: an element of a long list that was encoded when it was made, so that few objects are kept."""


def encode(document: Any) -> bytes:
    """
    Return *document* as JSON, whatever a task has returned.

    NaN and infinities are null, half of a surrogate pair is ``?``, and an ellipsis stands for what is too deep.
    """
    try:
        return to_json(document, inf_nan_mode="null", fallback=str)
    except (PydanticSerializationError, RecursionError):  # half of a surrogate pair, or nested too deep
        return to_json(cleaned(_cut(document, MAX_DEPTH)), inf_nan_mode="null", fallback=str)


def _cut(value: Any, depth: int) -> Any:
    if not isinstance(value, dict | list | tuple):
        return value
    if not depth:
        return "…"
    if isinstance(value, dict):
        return {key: _cut(child, depth - 1) for key, child in value.items()}
    return [_cut(child, depth - 1) for child in value]
