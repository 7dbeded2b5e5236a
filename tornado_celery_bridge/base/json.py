"""JSON for what tasks return, which may hold values that JSON does not have."""

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any


def dumps(value: Any) -> str:
    """Return *value* as JSON. Times become ISO 8601, bytes base64, NaN and infinities null, and unknown values text."""
    try:
        text = _encode(value)
        text.encode()
    except ValueError:  # NaN, an infinity, or half of a surrogate pair
        text = _encode(cleaned(value))
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


# json.dumps would make an encoder for each call.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def cleaned(value: Any) -> Any:
    """Return *value* with None in place of NaN and infinities, and ``?`` in place of halves of surrogate pairs."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case str():
            return value.encode("utf-8", "replace").decode()
        case Mapping():
            return {cleaned(str(key)): cleaned(child) for key, child in value.items()}
        case list() | tuple():
            return [cleaned(child) for child in value]
    return value
