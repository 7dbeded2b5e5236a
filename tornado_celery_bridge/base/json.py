"""JSON for what tasks return, which may hold values that JSON does not have, and JSON of any size."""

import base64
import json
import json.decoder
import json.scanner
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from typing import Any

#: Commas in a row without an object: more of them keep the GIL for over 10 ms.
MAX_FLAT = 50_000


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


class _InTurns(json.JSONDecoder):
    """Decodes in Python, a tenth as fast: between two values other threads get their turn."""

    def __init__(self, object_hook: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__(object_hook=object_hook)
        self.parse_object = json.decoder.JSONObject  # type: ignore[attr-defined]
        self.parse_array = json.decoder.JSONArray  # type: ignore[attr-defined]
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def loads_in_turns(text: str, *, object_hook: Callable[[dict[str, Any]], Any]) -> Any:
    """
    Decode JSON of any size in a thread, so that an event loop in another thread gets its turns meanwhile.

    The decoder in C keeps the GIL from one object to the next, for which it calls *object_hook*. So it stands in the
    loop's way for 0.2 s if the text is a list of two million numbers, and does not if it is a list of objects.

    Raises:
        ValueError: It is not JSON.
    """
    if max(part.count(",") for part in text.split("{")) > MAX_FLAT:
        return _InTurns(object_hook).decode(text)
    return json.loads(text, object_hook=object_hook)
