"""RFC 7240, as far as waiting goes."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_celery_bridge.service.http.prefer import preferences


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (["WAIT = 10"], 10),
        (['wait="10"'], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["handling=lenient; wait=3, wait=10;foo=bar"], 10),
        (['foo; bar=", wait=3", wait=4'], 4),
        (["wait=5, wait=10"], 5),
        (["wait=100"], 60),
        (["wait=" + "9" * 400], 60),
        (["wait=0"], 0),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait"], None),
        (["wait=x"], None),
        (["await=3"], None),
        (["wait=٣"], None),
    ],
)
def test_wait(headers: list[str], seconds: int | None) -> None:
    assert preferences(headers).wait == seconds


@pytest.mark.parametrize(
    ("headers", "applied"),
    [
        ([], ""),
        (["wait=100"], "wait=60"),
        (["Respond-Async"], "respond-async"),
        (["wait=3; a=b", "respond-async, wait=4"], "respond-async, wait=3"),
        (["return=minimal"], ""),
    ],
)
def test_what_is_said_to_be_applied(headers: list[str], applied: str) -> None:
    assert preferences(headers).applied == applied


@given(st.text())
def test_nonsense_is_left_out(header: str) -> None:
    assert preferences([header]).wait in (None, *range(61))


@pytest.mark.parametrize("header", ["a" + " " * 16_000 + "@", ";" * 16_000, 'a;"' * 5_000])
def test_hostile_headers_are_cheap(header: str) -> None:
    began = time.perf_counter()
    preferences([header])
    assert time.perf_counter() - began < 0.05
