"""One suite, held by the bridge on real servers and by the one for unit tests."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu.exceptions import EncodeError

from tests.sample import make_app
from tornado_celery_bridge import (
    Bridge,
    BridgeConfig,
    GroupResult,
    ResultTimeout,
    TaskFailed,
    TaskRevoked,
    TaskState,
    testing,
)


@pytest.fixture(params=[pytest.param("redis", marks=[pytest.mark.server, pytest.mark.worker]), "testing"])
def url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("sample_worker") if request.param == "redis" else None


@pytest.fixture
async def bridge(url: str | None) -> AsyncIterator[Bridge]:
    if url is None:
        async with testing.bridge(make_app("redis://127.0.0.1:1", "redis://127.0.0.1:1")) as made:
            yield made
    else:
        async with Bridge(make_app(url, url), BridgeConfig(dispatch_timeout=5)) as made:
            yield made


@pytest.fixture
def tasks(bridge: Bridge) -> Any:
    class Tasks:
        def __getattr__(self, name: str) -> Any:
            return bridge.app.tasks[f"sample.{name}"]

    return Tasks()


async def test_value(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.add.s(2, 2))
    assert await result == 4
    assert await result == 4
    assert result.state == "SUCCESS"
    assert result.result == 4


async def test_ways_to_name_a_task(bridge: Bridge, tasks: Any) -> None:
    assert await (await bridge.dispatch("sample.add", (1, 2))) == 3
    assert await (await bridge.dispatch("sample.add", kwargs={"x": 1, "y": 2})) == 3
    assert await (await bridge.dispatch(tasks.add, (1, 2))) == 3
    assert await (await bridge.dispatch(tasks.add.s(2), (1,))) == 3
    assert await (await bridge.dispatch(tasks.add.si(1, 2), (5,))) == 3


async def test_own_task_id(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.add.s(1, 2), task_id=f"mine-{id(bridge)}")
    assert result.id == f"mine-{id(bridge)}"
    assert await bridge.get(result.id) == 3


async def test_failure_has_the_exception_as_its_cause(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.fail.s())
    with pytest.raises(TaskFailed, match="ValueError: as asked") as caught:
        await result
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.task_id == result.id
    assert "as asked" in (caught.value.traceback or "")
    assert result.state == "FAILURE"


async def test_canvases(bridge: Bridge, tasks: Any) -> None:
    add, total = tasks.add, tasks.total
    assert await (await bridge.dispatch(chain(add.s(1, 2), add.s(3), add.s(4)))) == 10
    grouped = await bridge.dispatch(group(add.s(i, i) for i in range(3)))
    assert isinstance(grouped, GroupResult)
    assert await grouped == [0, 2, 4]
    assert await (await bridge.dispatch(chord([add.s(i, i) for i in range(3)], total.s()))) == 6
    nested = chain(add.s(1, 1), group(add.s(1), chain(add.s(1), add.s(1))), total.s())
    assert await (await bridge.dispatch(nested)) == 7


async def test_a_broken_chain_fails_its_last_link(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(chain(tasks.add.s(1, 2), tasks.fail.s(), tasks.add.s(3)))
    with pytest.raises(TaskFailed, match="as asked"):
        await bridge.get(result, timeout=10)


async def test_a_group_after_a_failure_fails(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(chain(tasks.add.s(1, 2), tasks.fail.s(), group(tasks.add.s(1), tasks.add.s(2))))
    with pytest.raises(TaskFailed, match="as asked"):
        await bridge.get(result, timeout=10)


async def test_a_chord_with_a_failing_header_fails(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(chord([tasks.add.s(1, 2), tasks.fail.s()], tasks.total.s()))
    with pytest.raises(TaskFailed, match="as asked"):
        await bridge.get(result, timeout=10)


async def test_links(bridge: Bridge, tasks: Any) -> None:
    linked = tasks.echo.si("linked").set(task_id=f"linked-{id(bridge)}")
    assert await (await bridge.dispatch(tasks.add.s(1, 2), link=linked)) == 3
    assert await bridge.get(f"linked-{id(bridge)}", timeout=10) == "linked"


async def test_timeout_names_the_task_and_leaves_it_running(bridge: Bridge, tasks: Any) -> None:
    assert await bridge.get(await bridge.dispatch(tasks.add.s(1, 2)), timeout=10) == 3  # what listens is connected
    result = await bridge.dispatch(tasks.nap.s(0.4))
    with pytest.raises(ResultTimeout, match=result.id):
        await bridge.get(result, timeout=0.05)
    with pytest.raises(TimeoutError):
        await bridge.get(result, timeout=0)
    assert await bridge.get(result, timeout=10) == 0.4
    assert await bridge.get(result.id, timeout=0) == 0.4


async def test_stream_of_progress(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.count.s(5))
    states = [state async for state in bridge.stream(result, timeout=10)]
    told = [state.progress for state in states if state.progress]
    assert [(each.current, each.total, each.message) for each in told][-1] == (5, 5, "step 5")
    assert states[-1].ready
    assert states[-1].result == 5
    assert len(states) == len({id(state) for state in states})


async def test_stream_of_any_state(bridge: Bridge, tasks: Any, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    result = await bridge.dispatch(tasks.state.s(str(seen)))
    cooking = []
    async for state in bridge.stream(result.id, timeout=10):
        if state.state == "COOKING":
            cooking.append(state.meta["result"])
            await asyncio.to_thread(seen.touch)  # the task ends once its state was told
    assert cooking == [{"pot": 1}]
    assert (state.state, state.result) == ("SUCCESS", "cooked")


async def test_stream_of_a_finished_task_is_its_end(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.add.s(1, 1))
    await result
    assert [state.state async for state in bridge.stream(result)] == ["SUCCESS"]


async def test_state_and_wait(bridge: Bridge, tasks: Any) -> None:
    assert (await bridge.state("nobody-sent-this")).state == "PENDING"
    failed = await bridge.wait(await bridge.dispatch(tasks.fail.s()), timeout=10)
    assert isinstance(failed, TaskState)
    assert failed.error is not None
    assert (failed.error.type, failed.error.module, failed.error.message) == ("ValueError", "builtins", "as asked")
    assert failed.date_done is not None


async def test_as_completed(bridge: Bridge, tasks: Any) -> None:
    slow, quick = await bridge.dispatch(tasks.nap.s(2.0)), await bridge.dispatch(tasks.nap.s(0.0))
    failing = await bridge.dispatch(tasks.fail.s())
    order = [result async for result in bridge.as_completed([slow, quick, failing], timeout=10)]
    assert order[-1] is slow
    assert {result.state for result in order} == {"SUCCESS", "FAILURE"}


async def test_forget(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.add.s(1, 1))
    await result
    await bridge.forget(result)
    assert (await bridge.state(result)).state == "PENDING"


async def test_revoke_before_the_start(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.add.s(1, 1), countdown=1)
    await bridge.revoke(result)
    with pytest.raises(TaskRevoked):
        await bridge.get(result, timeout=10)


async def test_expired(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.add.s(1, 1), countdown=0.5, expires=0.1)
    with pytest.raises(TaskRevoked):
        await bridge.get(result, timeout=10)


async def test_ignored_result_is_none_at_once(bridge: Bridge, tasks: Any) -> None:
    assert await (await bridge.dispatch(tasks.ignored.s())) is None
    assert await (await bridge.dispatch(tasks.nap.s(0.2), ignore_result=True)) is None


async def test_cancelling_leaves_the_task_running(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.nap.s(0.3))
    waiting = asyncio.ensure_future(bridge.get(result))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await bridge.get(result, timeout=10) == 0.3


async def test_many_waiters_of_one_result(bridge: Bridge, tasks: Any) -> None:
    result = await bridge.dispatch(tasks.nap.s(0.2))
    assert await asyncio.gather(*(bridge.get(result.id, timeout=10) for _ in range(50))) == [0.2] * 50


async def test_bad_arguments_are_the_callers(bridge: Bridge, tasks: Any) -> None:
    with pytest.raises(TypeError):
        await bridge.dispatch(tasks.add.s(1))
    with pytest.raises(EncodeError):
        await bridge.dispatch(tasks.echo.s(object()))


async def test_app_is_as_before() -> None:
    app: Celery = make_app("redis://127.0.0.1:1", "redis://127.0.0.1:1")
    async with testing.bridge(app):
        assert app.conf.broker_url == "memory://"
    assert app.conf.broker_url == app.conf.result_backend == "redis://127.0.0.1:1"
