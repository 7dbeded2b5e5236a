"""The encoding of values: whatever is inside one, it comes back as it was."""

import datetime
import decimal
import json
import uuid
from typing import Any
from unittest.mock import patch

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization
from kombu.utils import json as kombu_json

from tornado_celery_bridge import Stored
from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.base.store import Store
from tornado_celery_bridge.schedules import Entry

#: Keys and texts of which types are made, among others.
WORDS = st.sampled_from(
    [
        *("__type__", "__value__", "datetime", "date", "bytes", "base64", "decimal", "uuid", "nowhere", "hex"),
        *("tornado_celery_bridge.Stored", "tornado_celery_bridge.Object", "2026-01-02T03:04:05", "0" * 32),
    ]
)
TEXTS = WORDS | st.text(max_size=5)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
#: What JSON does not have, and kombu writes as types.
TYPED = st.one_of(
    st.datetimes(timezones=st.just(datetime.UTC)),
    st.dates(),
    st.times(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.binary(max_size=5),
    st.builds(Stored, name=st.just("0" * 32), size=st.integers(0, 9), member=st.none() | st.text(max_size=3)),
)


def values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return values with lists and dicts in them, of which many have the keys of a type, or one of them."""

    def around(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        like_a_type = st.fixed_dictionaries({"__type__": children | WORDS, "__value__": children})
        return st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3) | like_a_type

    return st.recursive(leaves, around, max_leaves=12)


@given(values(PLAIN | TYPED))
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert encoding.loads(encoding.dumps(value)) == value


@given(values(PLAIN))
def test_no_json_of_a_clients_becomes_anything_else(value: Any) -> None:
    def kinds(of: Any) -> set[type]:
        children = of.values() if isinstance(of, dict) else of if isinstance(of, list) else ()
        return {type(of)}.union(*map(kinds, children))

    assert kinds(encoding.loads(encoding.dumps(value))) == kinds(value)


@given(values(PLAIN | TYPED))
def test_celery_writes_messages_and_results_so(value: Any) -> None:
    app = Celery("plain", broker="memory://", backend="cache+memory://", set_as_current=False)
    backend: Any = app.backend
    assert backend.decode(backend.encode({"result": value})) == {"result": value}
    kind, coding, written = serialization.dumps(([value], {"given": value}, {}), serializer="json")
    assert (kind, coding) == ("application/json", "utf-8")
    assert serialization.loads(written, kind, coding, accept={kind}) == [[value], {"given": value}, {}]


@given(values(PLAIN | TYPED))
def test_the_ledger_and_schedules_keep_them_so(value: Any) -> None:
    message = {"task": "t", "args": [value], "kwargs": {"given": value}, "options": {"headers": {"told": value}}}
    assert encoding.loads(encoding.dumps(message)) == message
    entry = Entry(name="a", task="t", input={"given": value}, interval=60)
    assert Entry.decode(entry.encode()) == entry


@given(values(PLAIN | TYPED))
def test_the_store_keeps_them_so(value: Any) -> None:
    made = Store("memory://values")
    with patch("tornado_celery_bridge.base.store.MAX_INLINE", 0):
        stored = made.keep({"value": value}, lambda name: None)
    assert isinstance(stored, Stored)
    assert made.load(stored) == {"value": value}
    assert json.loads(made.read(stored)).keys() == {"value"}
    made.remove(stored.name)


def test_what_is_not_like_a_type_is_written_as_kombu_does() -> None:
    for value in ({"__type__": 1}, {"__type__": 1, "__value__": 2, "z": 3}, [(1, "é")], {1: None}, {}):
        assert encoding.dumps(value) == kombu_json.dumps(value)
        assert "tornado_celery_bridge" not in encoding.dumps(value)
    moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    assert encoding.dumps(moment) == '{"__type__": "datetime", "__value__": "2026-01-02T00:00:00+00:00"}'


def test_what_is_within_a_value_that_says_itself_how_it_is_written() -> None:
    class Box:
        def __json__(self) -> Any:
            return {"box": [{"__type__": "uuid", "__value__": 1}, uuid.UUID(int=1), decimal.Decimal("1.5")]}

    expected = {"box": [{"__type__": "uuid", "__value__": 1}, uuid.UUID(int=1), decimal.Decimal("1.5")]}
    assert encoding.loads(encoding.dumps(Box())) == expected


@pytest.mark.parametrize("value", [{1, 2}, object(), {(1, 2): 3}])
def test_what_cannot_be_written_is_an_error(value: Any) -> None:
    with pytest.raises(TypeError):
        encoding.dumps([value, {"__type__": 1, "__value__": 2}])


@pytest.mark.parametrize("kind", [str, bytes, bytearray, memoryview])
@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, {"b": "\\u00e4"}], "c": "ä"}',
        '[{"__type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678"}}]',
        r'[{"\u005f_type__": "bytes", "__value__": "a"}]',
        r'{"__typ\u0065__": "bytes", "__value__": "a"}',
        r'[{"_\u005Ftype__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"}]',
    ],
)
def test_all_is_read_as_kombu_reads_it(text: str, kind: Any) -> None:
    given = text if kind is str else kind(text.encode())
    assert encoding.loads(given) == kombu_json.loads(given)


def test_what_no_json_is_an_error() -> None:
    for text in ("{", b"\xff", "\ufeff{}", ""):
        with pytest.raises(ValueError):  # noqa: PT011  # each its own
            encoding.loads(text)
