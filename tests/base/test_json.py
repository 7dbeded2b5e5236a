"""Whatever a task returns is shown as JSON."""

import enum
import json
import uuid
from collections import OrderedDict, deque, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tornado_celery_bridge.base.json import dumps, loads_safely


class Colour(enum.Enum):
    RED = "red"


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("no")


Point = namedtuple("Point", "x y")
NAN = float("nan")
ITSELF: list[Any] = [1]
ITSELF.append(ITSELF)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({2, 1}, [1, 2]),
        (frozenset({(1, 2)}), [[1, 2]]),
        ({"a": {1}, "b": deque([2])}, {"a": [1], "b": [2]}),
        ({(1, "a"): 1, None: 2, True: 3, 4: 5}, {"1,a": 1, "null": 2, "true": 3, "4": 5}),
        ([{(1, 2): {3}}, NAN, Colour.RED, b"\xff"], [{"1,2": [3]}, None, "red", "/w=="]),
        ({Colour.RED: Colour.RED}, {"Colour.RED": "red"}),
        ({"a": NAN, "b": {NAN}}, {"a": None, "b": [None]}),
        ({NAN: 1}, {"nan": 1}),
        ([Decimal("1.50"), uuid.UUID(int=1), datetime(2026, 1, 2, tzinfo=UTC)],) * 1
        + (["1.50", str(uuid.UUID(int=1)), "2026-01-02T00:00:00+00:00"],),
        (Point(1, {2}), [1, [2]]),
        (OrderedDict([((1,), 2)]), {"1": 2}),
        ("\ud800", "?"),
        ({"\ud800": "\ud800"}, {"?": "?"}),
        (Silent(), "<Silent that can't be shown>"),
        ({Silent(): 1}, {"<Silent that can't be shown>": 1}),
        (ITSELF, "[1, [...]]"),
    ],
)
def test_what_json_does_not_have(value: Any, shown: Any) -> None:
    assert json.loads(dumps(value)) == shown


def test_what_can_not_be_read_is_text() -> None:
    for text in (b"[1", "", b"\xff", "[" * 100_000 + "]" * 100_000):
        assert "be read" in loads_safely(text)
    assert loads_safely(b"[1, null]") == [1, None]


def test_what_is_nested_without_end_is_text() -> None:
    assert isinstance(json.loads(dumps(DEEP)), str)
    assert isinstance(json.loads(dumps({(1, 2): DEEP})), str)


_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(allow_nan=False)
)
_keys = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.tuples(st.text(), st.integers())


@settings(suppress_health_check=[HealthCheck.too_slow])  # how long they take to draw, a busy machine decides
@given(
    st.recursive(
        _leaves | st.frozensets(_leaves, max_size=3),
        lambda children: st.lists(children, max_size=3) | st.dictionaries(_keys, children, max_size=3),
        max_leaves=10,
    )
)
def test_any_value_can_be_shown(value: Any) -> None:
    assert json.loads(dumps(value).encode()) is not json
