"""What a caller gives that can't be meant is said in a sentence, before anything is sent: no worker ever sees it."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from tornado_celery_bridge import Bridge, BridgeConfig, testing

FIVE = timedelta(seconds=5)
Call = Callable[[Any, Any], Any]


def plain() -> None: ...


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    app = Celery("arguments", broker="redis://127.0.0.1:1", backend="redis://127.0.0.1:1", set_as_current=False)

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    made = Bridge(app)
    await made.start()
    yield made
    await made.close()


#: A call, with a bridge and the task `add`, and what is said of it.
WRONG: list[tuple[Call, str]] = [
    (lambda b, add: b.dispatch(add, 1, 2), "args is a list or a tuple of the arguments of add, and 1 is none: for"),
    (lambda b, add: b.dispatch("add", "ab"), "args is a list or a tuple of the arguments of add, and 'ab' is none"),
    (lambda b, add: b.dispatch(add.s(), 1), "args is a list or a tuple of the arguments of add"),
    (lambda b, add: b.publish(add, 1, task_id="x"), "args is a list or a tuple of the arguments of add"),
    (lambda b, add: b.dispatch(add, (1,), 2), "kwargs is a dict of named arguments, and 2 is none"),
    (lambda b, add: b.dispatch(7), "a task, a signature or the name of a task can be sent, and 7 is none"),
    (lambda b, add: b.dispatch(plain), "a function is one by @app.task"),
    (
        lambda b, add: b.dispatch(add, (1, 2), countdown=FIVE),
        "countdown is a number of seconds, and .* is none: give 5",
    ),
    (lambda b, add: b.dispatch(add.s(1, 2).set(countdown="5")), "countdown is a number of seconds, and '5' is none"),
    (lambda b, add: b.dispatch(add, (1, 2), eta="soon"), "eta is a datetime, and 'soon' is none"),
    (lambda b, add: b.dispatch(add, (1, 2), eta=5), "eta is a datetime, and 5 is none"),
    (lambda b, add: b.dispatch(add, (1, 2), expires=FIVE), "expires is a number of seconds, or a datetime, and"),
    (lambda b, add: b.dispatch(add, (1, 2), priority="high"), "priority is a number, and 'high' is none"),
    (lambda b, add: b.dispatch(add, (1, 2), queue=7), "queue is the name of a queue, and 7 is none"),
    (lambda b, add: b.dispatch(add, (1, 2), time_limit=True), "time_limit is a number of seconds, and True is none"),
    (lambda b, add: b.dispatch(add, (1, 2), dispatch_timeout=FIVE), "dispatch_timeout is a number of seconds"),
    (lambda b, add: b.get("x", timeout=FIVE), "timeout is a number of seconds, and .* is none: give 5"),
    (lambda b, add: b.wait("x", timeout="5"), "timeout is a number of seconds, and '5' is none"),
    (lambda b, add: anext(b.stream("x", timeout=FIVE)), "timeout is a number of seconds"),
    (lambda b, add: b.get(7), "7 is neither a result nor a task's id"),
    (lambda b, add: b.state(7), "a task's id is a text, and 7 is none"),
]


@pytest.mark.parametrize(("call", "said"), WRONG, ids=[str(number) for number in range(len(WRONG))])
async def test_what_can_not_be_meant(bridge: Bridge, call: Call, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        await call(bridge, bridge.app.tasks["add"])


@pytest.mark.parametrize(
    "options", [{"countdown": 0.01}, {"eta": "2026-01-01T00:00:00Z"}, {"expires": 60, "queue": "q"}]
)
async def test_what_celery_takes_is_taken(bridge: Bridge, options: dict[str, Any]) -> None:
    async with testing.bridge(bridge.app) as working:
        assert await (await working.dispatch("add", [1, 2], None, priority=None, **options)) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tags": "nightly"}, "tags is a list of words, and 'nightly' is none"),
        ({"tags": [7]}, "tags is a list of words"),
        ({"owner": 7}, "owner is a text, and 7 is none"),
    ],
)
async def test_what_a_job_can_not_have(bridge: Bridge, options: dict[str, Any], said: str) -> None:
    bridge._opened.sending._installed, bridge._ledger = True, object()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=said):
        await bridge.submit("add", (1, 2), **options)
    bridge._ledger = None


def test_what_a_bridge_is_not_made_of() -> None:
    name: Any = "proj.celery"
    with pytest.raises(TypeError, match="a Celery app is needed, and 'proj"):
        Bridge(name)
    duration: Any = FIVE
    with pytest.raises(TypeError, match="result_timeout is a number of seconds"):
        BridgeConfig(result_timeout=duration)
