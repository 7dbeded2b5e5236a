import asyncio
import contextvars
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured, QueueNotFound
from celery.signals import before_task_publish

from tests.sample import make_app
from tests.servers import Server
from tornado_celery_bridge import (
    Bridge,
    BridgeClosed,
    BridgeConfig,
    DispatchSaturated,
    ResultBackendUnavailable,
    ResultTimeout,
    WaitersSaturated,
    testing,
)


async def test_closed_bridge_says_so(app: Celery) -> None:
    bridge = Bridge(app)
    with pytest.raises(BridgeClosed, match="async with"):
        await bridge.dispatch("sample.add", (1, 2))
    async with bridge:
        assert await (await bridge.dispatch("sample.add", (1, 2))) == 3
    with pytest.raises(BridgeClosed):
        await bridge.get("some-id")
    await bridge.close()


async def test_waits_and_streams_end_with_the_bridge(app: Celery) -> None:
    async with Bridge(app) as bridge:
        waiting = asyncio.ensure_future(bridge.get("some-id"))
        states = bridge.stream("some-id")
        assert (await anext(states)).state == "PENDING"
        streaming = asyncio.ensure_future(anext(states))
        while bridge._parts.awaiting.waits < 2:
            await asyncio.sleep(0)
    for each in (waiting, streaming):
        with pytest.raises(ResultBackendUnavailable, match="closed"):
            await each
    assert bridge._parts.awaiting.waits == 0


async def test_many_bridges_in_one_process(app: Celery) -> None:
    async with Bridge(app) as one, Bridge(app) as other:
        result = await one.dispatch("sample.add", (1, 2))
        assert await other.get(result.id) == await result == 3


async def test_without_result_backend() -> None:
    with pytest.raises(ImproperlyConfigured, match="result_backend"):
        await Bridge(make_app("memory://", "disabled://")).start()


async def test_unknown_queue_is_the_callers_error(sample_worker: str) -> None:
    async with Bridge(make_app(sample_worker, sample_worker, task_create_missing_queues=False)) as bridge:
        add = bridge.app.tasks["sample.add"]
        with pytest.raises(QueueNotFound):
            await bridge.dispatch(add.s(1, 2), queue="misspelt")
        assert await (await bridge.dispatch(add.s(1, 2))) == 3


async def test_one_bad_message_spoils_no_other(bridge: Bridge) -> None:
    echo = bridge.app.tasks["sample.echo"]
    dispatched = await asyncio.gather(
        *(bridge.dispatch(echo.s(object() if number == 5 else number)) for number in range(20)),
        return_exceptions=True,
    )
    assert isinstance(dispatched[5], Exception)
    good = [result for number, result in enumerate(dispatched) if number != 5]
    assert await asyncio.gather(*good) == [number for number in range(20) if number != 5]  # type: ignore[arg-type]


@pytest.fixture
async def small(server: Server) -> AsyncIterator[Bridge]:
    app = make_app(server.url, server.url, task_default_queue="nobody-consumes-this")
    async with Bridge(app, BridgeConfig(max_pending_dispatches=3, max_waiters=2)) as bridge:
        yield bridge


async def test_pending_dispatches_are_bounded(small: Bridge) -> None:
    outcomes = await asyncio.gather(*(small.dispatch("sample.add", (1, 2)) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[3:]] == [DispatchSaturated] * 2
    await small.dispatch("sample.add", (1, 2))


async def test_waiters_are_bounded(small: Bridge) -> None:
    waiting = [asyncio.ensure_future(small.get(f"id-{number}")) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(WaitersSaturated):
        await small.get("id-3")
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    with pytest.raises(TimeoutError):
        await small.get("id-3", timeout=1.0)


async def test_hooks_see_the_callers_context(bridge: Bridge) -> None:
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")
    seen: list[str] = []

    def receiver(**_: Any) -> None:
        seen.append(trace.get())

    trace.set("mine")
    before_task_publish.connect(receiver, weak=False)
    try:
        await bridge.dispatch(bridge.app.tasks["sample.add"].s(1, 2))
    finally:
        before_task_publish.disconnect(receiver)
    assert seen == ["mine"]


async def test_eager_mode(sample_worker: str) -> None:
    async with Bridge(make_app(sample_worker, sample_worker, task_always_eager=True)) as bridge:
        result = await bridge.dispatch(bridge.app.tasks["sample.add"].s(1, 2))
        assert await result == 3
        assert result.state == "SUCCESS"


@pytest.fixture
def class_based() -> Celery:
    app = Celery("classes", broker="memory://", backend="cache+memory://", set_as_current=False)

    class Double(app.Task):  # type: ignore[name-defined,misc]
        name = "classes.double"

        def run(self, number: int) -> int:
            return 2 * number

    app.register_task(Double())
    return app


async def test_a_class_based_task_runs_as_any_other(class_based: Celery) -> None:
    """Celery makes no check of arguments for it, and neither do we."""
    async with testing.bridge(class_based) as bridge:
        assert await (await bridge.dispatch(class_based.tasks["classes.double"].s(3))) == 6
        assert await (await bridge.dispatch("classes.double", (4,))) == 8


@pytest.fixture
def app_in_kolkata(app: Celery) -> Celery:
    app.conf.update(timezone="Asia/Kolkata")
    _ = app.timezone  # looked up now, which reads files
    return app


async def test_a_time_without_a_zone_is_of_the_apps(app_in_kolkata: Celery, bridge: Bridge) -> None:
    """``eta`` and ``expires`` alike, given with the call or set before."""
    soon = datetime.now(app_in_kolkata.timezone).replace(tzinfo=None)
    add = bridge.app.tasks["sample.add"].s(1, 2)
    assert await bridge.get(await bridge.dispatch(add, expires=soon + timedelta(seconds=60)), timeout=10) == 3
    for late in (
        await bridge.dispatch(add, eta=soon + timedelta(seconds=60)),
        await bridge.dispatch(add.set(eta=soon + timedelta(seconds=60))),
    ):
        with pytest.raises(ResultTimeout):
            await bridge.get(late, timeout=0.3)
        await bridge.revoke(late)
