"""What gets in, what does not, where it says so, and what that costs."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_celery_bridge.service.http.body import MAX_DEPTH, MAX_NODES, parse_body
from tornado_celery_bridge.service.http.problems import Problem

texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda children: st.lists(children, max_size=5) | st.dictionaries(texts, children, max_size=5),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def refusal(body: bytes) -> Problem | None:
    try:
        parse_body(body)
    except Problem as problem:
        return problem
    return None


@given(st.dictionaries(texts, values, max_size=5), st.booleans())
def test_json_gets_in_unchanged(document: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    if depth_of(document) <= MAX_DEPTH:
        assert parse_body(body) == document


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u d8a019.eE-\nnul', max_size=200).map(str.encode))
def test_anything_else_is_refused_and_nothing_worse(body: bytes) -> None:
    refused = refusal(body)
    if refused is None:
        json.dumps(json.loads(body), allow_nan=False, ensure_ascii=False).encode()
    else:
        assert refused.status_code == 400
        assert refused.faults


@given(st.lists(st.sampled_from(["a", "b/c", "~", "ü"]), max_size=5), st.data())
def test_the_pointer_leads_to_what_is_refused(path: list[str], data: st.DataObject) -> None:
    bad = data.draw(st.sampled_from(["NaN", "-Infinity", "1e999", str(2**63), '"\\ud800"', '{"x":1,"x":2}']))
    body = bad
    for key in reversed(path):
        body = f'{{"fine": [1], {json.dumps(key)}: {body}}}'
    body = f'{{"in": {body}}}'
    pointer = "/in" + "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in path)
    with pytest.raises(Problem) as refused:
        parse_body(body.encode())
    assert refused.value.faults[0].pointer == pointer + ("/x" if bad.startswith("{") else "")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        (b"", "invalid-json", ""),
        (b"{", "invalid-json", ""),
        (b"[1]", "invalid-json", ""),
        (b'"text"', "invalid-json", ""),
        (b"null", "invalid-json", ""),
        (b'{"a": 1} x', "invalid-json", ""),
        (b'{"a": "\xff"}', "invalid-json", ""),
        (b'{"a": "\xed\xa0\x80"}', "invalid-json", ""),  # a surrogate in UTF-8
        (b'\xef\xbb\xbf{"a": 1}', "invalid-json", ""),
        (b'{"a": 01}', "invalid-json", ""),
        (b"NaN", "unacceptable-json", ""),
        (b'{"a": 1, "b": 2, "a": 3}', "unacceptable-json", "/a"),
        (b'{"i": [0, {"k": NaN}]}', "unacceptable-json", "/i/1/k"),
        (b'{"i": ' + b"9" * 5000 + b"}", "unacceptable-json", "/i"),
        (b'{"i": -9223372036854775809}', "unacceptable-json", "/i"),
        (b'{"i": {"\\udfff": 1}}', "unacceptable-json", "/i"),
    ],
)
def test_refused(body: bytes, code: str, pointer: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_body(body)
    assert (refused.value.status_code, refused.value.code) == (400, code)
    assert refused.value.faults[0].pointer == pointer


@pytest.mark.parametrize(
    "body",
    [
        b'{"i": "\\ud83d\\ude00 \\u0000 [[[[ {{{{ ,,,,"}',
        b'{"i": {"__type__": "datetime", "__value__": "x"}}',
        b'{"i": [-9223372036854775808, 9223372036854775807, 1e308, -0.0]}',
        b'{"": {"": ""}}',
    ],
)
def test_let_in(body: bytes) -> None:
    assert parse_body(body) == json.loads(body)


def test_the_limits_are_exact() -> None:
    deepest = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse_body(f'{{"i": {deepest}}}'.encode())
    with pytest.raises(Problem, match="400"):
        parse_body(f'{{"i": [{deepest}]}}'.encode())
    most = MAX_NODES - 2  # the body and the list are two more
    assert len(parse_body(json.dumps({"i": [1] * most}).encode())["i"]) == most
    with pytest.raises(Problem) as refused:
        parse_body(json.dumps({"i": [1] * (most + 1)}).encode())
    assert refused.value.code == "too-large"
    with pytest.raises(Problem) as refused:
        parse_body(json.dumps({"i": [[]] * (most + 1)}).encode())
    assert refused.value.code == "too-large"


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"i": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"i": "' + b'\\"' * (MIB // 2),
        b'"' * MIB,
        b"\\" * MIB,
        b'{"i": [' + b"," * MIB,
        b'{"i": ' + b"9" * MIB + b"}",
        b'{"i": 0.' + b"9" * MIB + b"}",
        b'{"i": ' + b" " * MIB + b"}",
        b"{}" * (MIB // 2),
        b'{"i": "' + b"\\ud800" * (MIB // 6) + b'"}',
    ],
)
def test_hostile_bodies_are_cheap(body: bytes) -> None:
    began = time.thread_time()
    refusal(body)
    assert time.thread_time() - began < 0.1


def test_a_book_is_cheap() -> None:
    body = json.dumps({"input": {"text": 'a "quoted" line\n' * 60_000}}).encode()
    began = time.thread_time()
    parse_body(body)
    assert time.thread_time() - began < 0.1
