"""
Bodies: what a body must be before anything else looks at it, and how it becomes a model.

A worker's main process dies of deep nesting, and a lone surrogate or an infinite number breaks whoever reads the
result. So none of these gets in. Three steps, each linear in the body:

1. a scan by one regular expression counts depth and size, so that nothing recursive ever sees a deep document;
2. ``json.loads``, whose hooks put a :class:`_Refused` in the place of what is refused, as they do not know where
   they are;
3. a look at the nodes counts them; if there are more than ``max_nodes``, or one is refused, a walk in the document's
   order tells which is the first, and where it is.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar, cast

import pydantic
from pydantic import BaseModel, ConfigDict

from tornado_celery_bridge.service.http import problems
from tornado_celery_bridge.service.http.faults import escape, faults_of
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.http.problems import Kind, Problem

T = TypeVar("T", bound=BaseModel)

#: Objects and arrays inside each other, the body itself included.
MAX_DEPTH = 32
#: Values in the body: objects, arrays, strings, numbers, literals.
MAX_NODES = 10_000

# A string (an unterminated one runs to the end, so that no text is scanned twice), or a structural character. The
# possessive quantifiers make it 7 times faster: 10 ms for a mebibyte of escaped quotes.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_SURROGATES = re.compile("[\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)
#: Digits of a 64-bit integer with its sign; a longer one is not even converted.
_INT64_CHARS = 20


class _Refused(NamedTuple):
    """Stands in a parsed document where something is not let in."""

    reason: str
    #: The member of an object that is not let in; None for all of the value.
    key: str | None = None


def parse_body(body: bytes | bytearray, max_nodes: int = MAX_NODES) -> dict[str, Any]:
    """
    Return the JSON object that *body* is.

    Args:
        body: As it came.
        max_nodes: How many values it may have.

    Raises:
        Problem: 400, with a pointer to what is wrong.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise problems.INVALID_JSON.at("", f"The body is not UTF-8: {exc.reason} at byte {exc.start}.") from None
    _scan(text, max_nodes)
    document: Any = _parse(text)
    if not isinstance(document, dict | _Refused):
        raise problems.INVALID_JSON.at("", "The body is not a JSON object.")
    # UTF-8 has no surrogates: they can only come from an escape. Without one, the search (48 ms for 5 MB) is left out.
    surrogates = "\\ud" in text or "\\uD" in text
    if surrogates or not _is_let_in(document, max_nodes):
        _walk(document, max_nodes, surrogates=surrogates)
    return cast("dict[str, Any]", document)


class Body(BaseModel):
    """A body of known members. Nothing is converted, and nothing else may be there."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Nothing(Body):
    """No body, or an empty object."""


def parse(model: type[T], document: Any, kind: Kind = problems.INVALID_BODY, base: str = "") -> T:
    """
    Return *document* as a *model*.

    Args:
        model: What it should be.
        document: What :func:`parse_body` returned, or a part of it.
        kind: The problem if it does not fit.
        base: The JSON Pointer to *document* in the body.

    Raises:
        Problem: Of this *kind*, with a pointer to everything that does not fit.
    """
    try:
        return cast(T, model.__pydantic_validator__.validate_json(encode(document)))
    except pydantic.ValidationError as exc:
        faults = faults_of(exc, document, base, names=list(model.model_fields))
        raise kind("The options do not fit." if base else "The body does not fit.", faults=faults) from None


def _scan(text: str, max_nodes: int) -> None:
    """Refuse a text that is too deep or has too many values, whether it is JSON or not."""
    depth = commas = opened = strings = 0
    for token in _TOKENS.finditer(text):
        match text[token.start()]:
            case "[" | "{":
                depth += 1
                opened += 1
            case "]" | "}":
                depth -= 1
            case ",":
                commas += 1
            case _:
                strings += 1
        if depth > MAX_DEPTH:
            raise problems.TOO_DEEP.at("", f"The body is nested more than {MAX_DEPTH} levels deep.")
        if commas >= max_nodes or opened > max_nodes or strings > 2 * max_nodes:
            raise _too_large(max_nodes)


def _parse(text: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=lambda name: _Refused(f"{name} is not JSON."),
        )
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise problems.INVALID_JSON.at("", f"The body is not JSON: {exc.msg} at {where}.") from None


def _object(pairs: list[tuple[str, Any]]) -> Any:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                return _Refused("This member is there twice.", key)
            seen.add(key)
    return made


def _integer(digits: str) -> Any:
    if len(digits) > _INT64_CHARS or int(digits) not in _INT64:
        return _Refused("This integer does not fit in 64 bits.")
    return int(digits)


def _number(digits: str) -> Any:
    number = float(digits)
    return number if math.isfinite(number) else _Refused("This number is beyond a 64-bit float.")


def _is_let_in(document: Any, max_nodes: int) -> bool:
    """Return whether the document has at most *max_nodes* values, and none that is refused."""
    nodes, level = 0, [document]
    while level:
        nodes += len(level)
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                below += value.values()
            elif kind is list:
                below += value
            elif kind is _Refused:
                return False
        if nodes > max_nodes:
            return False
        level = below
    return True


def _walk(document: Any, max_nodes: int, *, surrogates: bool) -> None:
    """Refuse the document for the first thing in it that is not let in; in the document's order."""
    stack: list[Iterator[tuple[str, Any]]] = [iter([("", document)])]
    path: list[str] = []
    nodes = 0
    while stack:
        step = next(stack[-1], None)
        del path[len(stack) - 1 :]
        if step is None:
            stack.pop()
            continue
        nodes += 1
        if nodes > max_nodes:
            raise _too_large(max_nodes)
        path.append(step[0])
        _check(step[1], path, surrogates=surrogates)
        stack.append(_children(step[1]))


def _check(value: Any, path: list[str], *, surrogates: bool) -> None:
    match value:
        case _Refused(reason, key):
            pointer = "".join(path if key is None else [*path, "/", escape(key)])
            raise problems.UNACCEPTABLE_JSON.at(pointer, reason)
        case str() if surrogates and _SURROGATES.search(value):
            raise problems.UNACCEPTABLE_JSON.at("".join(path), "This string has half of a surrogate pair.")
        case dict() if surrogates and any(map(_SURROGATES.search, value)):
            raise problems.UNACCEPTABLE_JSON.at("".join(path), "A member's name has half of a surrogate pair.")


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((f"/{escape(key)}", child) for key, child in value.items())
    if isinstance(value, list):
        return ((f"/{index}", child) for index, child in enumerate(value))
    return iter(())


def _too_large(max_nodes: int) -> Problem:
    return problems.TOO_LARGE.at("", f"The body has more than {max_nodes:,} values.")
