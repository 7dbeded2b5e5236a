"""What the service writes as JSON."""

import json
from typing import Any

import pytest

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.service.http.json import encode

VALUES: list[Any] = [
    *({"a": [1, 2.5, None, True, "é\u2028"]}, [], {}, 10**30, -0.0, 1.0, 1e22, 5e-324, 0.1 + 0.2),
    *(float("nan"), float("inf"), {"x": [float("-inf"), "fine"]}),
    *("\ud800", {"half \udfff": ["\ud800", 1]}, "\x00\x1f\x7f"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_values_are_those_that_the_ledger_keeps(value: Any) -> None:
    assert json.loads(encode(value)) == json.loads(dumps(value))


def test_small_numbers_and_space() -> None:
    assert encode({"a": 1e-07, "b": [1, 2]}) == b'{"a":1e-7,"b":[1,2]}'
    assert encode("\ud800") == b'"?"'
