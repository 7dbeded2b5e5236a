"""The one writer of what the service answers: JSON, by pydantic's own encoder."""

from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from tornado_celery_bridge.base.json import cleaned


def encode(document: Any) -> bytes:
    """Return *document* as JSON: NaN and infinities as null, half of a surrogate pair as ``?``, no needless space."""
    try:
        return to_json(document, inf_nan_mode="null", fallback=str)
    except PydanticSerializationError:  # half of a surrogate pair
        return to_json(cleaned(document), inf_nan_mode="null", fallback=str)
