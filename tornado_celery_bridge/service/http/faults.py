"""Faults: what is wrong with a document, as JSON Pointers (RFC 6901) into it."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from pydantic import Field
from pydantic_core import ErrorDetails

#: Faults that one problem lists, as nobody reads more; and how many misspelt members get a "did you mean".
MAX_FAULTS, MAX_SUGGESTIONS = 50, 10
#: Characters of a member's name in a pointer.
MAX_SEGMENT = 300


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a body."""

    pointer: Annotated[str, Field(description="JSON Pointer (RFC 6901) into the body.")]
    detail: str


def escape(key: str) -> str:
    """Return *key* as a segment of a JSON Pointer. A name that nobody would read to its end is cut."""
    key = key if len(key) <= MAX_SEGMENT else f"{key[:MAX_SEGMENT]}…"
    return key.replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()


def for_arguments(name: str | int) -> str:
    """Return what to give in the place of Celery's own names of arguments; empty for another name."""
    told = "; give input: a list of arguments by position, or an object of arguments by name"
    return told if name in ("args", "kwargs") else ""


def faults_of(
    error: pydantic.ValidationError,
    value: Any,
    base: str,
    *,
    names: Sequence[str] = (),
    positional: Sequence[str] = (),
    positions: Sequence[str] = (),
) -> list[Fault]:
    """
    Return what *error* says as pointers into a body.

    Args:
        error: The error of validating *value*.
        value: What was validated.
        base: The pointer to the value in the body.
        names: The members that the value may have. A misspelt member gets a "did you mean" from these.
        positional: The members that the body gives as a list, in the list's order.
        positions: Of a value that is a part of a list in the body, where in that its elements are.
    """
    places: dict[str | int, str] = {name: str(index) for index, name in enumerate(positional)}
    places |= dict(enumerate(positions))
    details = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FAULTS]
    faults = (
        Fault(
            _pointer(detail, value, base, places),
            detail["msg"] + _suggestion(detail, names if number < MAX_SUGGESTIONS else ()),
        )
        for number, detail in enumerate(details)
    )
    return list(dict.fromkeys(faults))


def _pointer(detail: ErrorDetails, value: Any, base: str, places: Mapping[str | int, str]) -> str:
    last = len(detail["loc"]) - 1
    for depth, segment in enumerate(detail["loc"]):
        try:
            value = value[segment]
        except (KeyError, IndexError, TypeError):
            # Either the place of what is missing, or, inside a union, pydantic's name for one of the alternatives.
            if detail["type"] != "missing" or depth < last:
                continue
        name = str(segment)
        base += "/" + escape(places.get(segment, name) if depth == 0 else name)
    return base


def _suggestion(detail: ErrorDetails, names: Sequence[str]) -> str:
    if detail["type"] != "extra_forbidden" or len(detail["loc"]) != 1:
        return ""
    if "input" in names and (told := for_arguments(detail["loc"][0])):
        return told
    close = difflib.get_close_matches(str(detail["loc"][0])[:100], names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
