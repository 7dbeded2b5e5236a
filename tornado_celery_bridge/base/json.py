"""JSON for people and clients of what tasks return, which may hold values that JSON does not have; JSON of any size."""

import base64
import enum
import json
import json.decoder
import json.scanner
import math
from collections import deque
from collections.abc import Callable, Mapping, Set
from datetime import date, datetime, time
from typing import Any

#: Commas in a row without an object: more of them keep the GIL for over 10 ms.
MAX_FLAT = 50_000
#: Characters of a value that JSON can't hold at all, such as a list that holds itself.
MAX_SHOWN = 1_000


def dumps(value: Any) -> str:
    """
    Return *value* as JSON, whatever it is.

    Times become ISO 8601, bytes base64, sets lists, members of enumerations their values, keys text, NaN and infinities
    null, and unknown values text.
    """
    try:
        text = _encode(value)
        text.encode()
    except (TypeError, ValueError):  # a key that is no text, NaN, an infinity, or half of a surrogate pair
        text = _cleaned(value)
    except RecursionError:
        text = _shown(value)
    return text


def _cleaned(value: Any) -> str:
    try:
        return _encode(cleaned(value))
    except (TypeError, ValueError, RecursionError):  # it holds itself, or is nested without end
        return _shown(value)


def _shown(value: Any) -> str:
    return _encode(cleaned(_text(value)[:MAX_SHOWN]))


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # it is somebody else's
        return f"<{type(value).__name__} that can't be shown>"


def _plain(value: Any) -> Any:
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Set():
            return _listed(value)
        case deque():
            return list(value)
        case enum.Enum():
            return value.value
    return _text(value)


def _listed(values: Set[Any]) -> list[Any]:
    """Return a set as a list, in an order that is the same each time, if there is one."""
    try:
        return sorted(values)
    except TypeError:
        return list(values)


# json.dumps would make an encoder for each call.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def loads_safely(text: str | bytes) -> Any:
    """
    Return what was encoded; of what can't be decoded here (it is nested too deep, say), a text that says so.

    For lists and streams, which one bad value must not break.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        return f"<{len(text):,} characters that can't be read: {type(exc).__name__}>"


def cleaned(value: Any) -> Any:
    """Return *value* with None in place of NaN and infinities, and ``?`` in place of halves of surrogate pairs."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case str():
            return value.encode("utf-8", "replace").decode()
        case Mapping():
            return {_key(key): cleaned(child) for key, child in value.items()}
        case list() | tuple() | deque():
            return [cleaned(child) for child in value]
        case Set():
            return [cleaned(child) for child in _listed(value)]
        case enum.Enum():
            return cleaned(value.value)
        case None | bool() | int() | float():
            return value
    return cleaned(_plain(value))


def _key(key: Any) -> str:
    """Return a key as JSON has it: of a tuple, ``a,1``."""
    match key:
        case str():
            return cleaned(key)  # type: ignore[no-any-return]
        case None | bool():
            return json.dumps(key)
        case tuple():
            return ",".join(map(_key, key))
    return cleaned(_text(key))  # type: ignore[no-any-return]


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
