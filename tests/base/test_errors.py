"""What is said of an exception, whoever has stored it."""

import json
from typing import Any

import pytest
from celery import Celery
from celery.utils.serialization import get_pickleable_exception

from tornado_celery_bridge.base.errors import Described, described, rebuilt


class TwoArguments(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)


@pytest.fixture
def backend() -> Any:
    return Celery("stock", backend="cache+memory://", set_as_current=False).backend


def test_what_a_stock_worker_has_stored(backend: Any) -> None:
    """Celery's own worker stores its wrapper; what the task raised is in it."""
    for wrapped in (True, False):
        exc: Exception = TwoArguments("x", 1)
        exc = get_pickleable_exception(exc) if wrapped else exc
        stored = json.loads(json.dumps(backend.prepare_exception(exc, "json")))
        assert described(stored) == Described("TwoArguments", __name__, "x")
        assert described(exc) == Described("TwoArguments", __name__, "x")
        made = rebuilt(stored, backend.exception_to_python)
        assert (type(made).__name__, str(made)) == ("TwoArguments", "x")


def test_what_can_be_rebuilt_is(backend: Any) -> None:
    stored = backend.prepare_exception(KeyError("x"), "json")
    made = rebuilt(stored, backend.exception_to_python)
    assert type(made) is KeyError
    assert made.args == ("x",)


def test_what_names_no_exception_is_called_by_nobody(backend: Any) -> None:
    stored = {"exc_type": "system", "exc_module": "os", "exc_message": "exit 3"}
    made = rebuilt(stored, backend.exception_to_python)
    assert isinstance(made, Exception)
    assert (type(made).__name__, str(made)) == ("system", "exit 3")
