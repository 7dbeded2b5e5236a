"""A result is at home in every way that Tornado and asyncio have of waiting."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery, group
from celery.result import AsyncResult as CelerysResult
from celery.result import GroupResult, ResultSet
from tornado import gen

from tornado_celery_bridge import AsyncResult, Bridge, TaskFailed, WouldBlock
from tornado_celery_bridge.base.versions import CELERY


@pytest.fixture
async def results(bridge: Bridge) -> list[AsyncResult[Any]]:
    return [await bridge.dispatch("sample.add", (number, number)) for number in range(3)]


async def test_yield_in_a_coroutine(results: list[AsyncResult[Any]]) -> None:
    @gen.coroutine
    def old_style() -> Any:
        first = yield results[0]
        rest = yield results[1:]
        return [first, *rest]

    assert await old_style() == [0, 2, 4]


async def test_multi(results: list[AsyncResult[Any]]) -> None:
    assert await gen.multi(results) == [0, 2, 4]
    assert await gen.multi({"a": results[0], "b": results[1]}) == {"a": 0, "b": 2}


async def test_with_timeout(bridge: Bridge, results: list[AsyncResult[Any]]) -> None:
    assert await gen.with_timeout(timedelta(seconds=10), results[2]) == 4
    slow = await bridge.dispatch("sample.nap", (0.5,))
    with pytest.raises(gen.TimeoutError):  # type: ignore[attr-defined]
        await gen.with_timeout(timedelta(seconds=0.05), slow)


async def test_wait_iterator(results: list[AsyncResult[Any]]) -> None:
    iterator = gen.WaitIterator(*(result.future() for result in results))
    assert sorted([value async for value in iterator]) == [0, 2, 4]


async def test_convert_yielded_and_maybe_future(results: list[AsyncResult[Any]]) -> None:
    assert await gen.convert_yielded(results[1]) == 2
    assert await gen.maybe_future(results[2].future()) == 4


async def test_asyncio(bridge: Bridge, results: list[AsyncResult[Any]]) -> None:
    assert await asyncio.gather(*results) == [0, 2, 4]
    assert await asyncio.wait_for(results[1], 10) == 2
    async with asyncio.timeout(10):
        assert await results[0] == 0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bridge.get(result)) for result in results]
    assert [task.result() for task in tasks] == [0, 2, 4]


async def test_a_task_group_ends_at_the_first_failure(bridge: Bridge) -> None:
    slow, failing = await bridge.dispatch("sample.nap", (5,)), await bridge.dispatch("sample.fail")
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(bridge.get(slow))
            group.create_task(bridge.get(failing))
    assert caught.group_contains(TaskFailed)


#: Of AsyncResult; ``exists`` came with Celery 5.7.
BLOCKING = ["get", "ready", "forget", "revoke", "then", "failed", "collect"]
BLOCKING += ["exists"] if hasattr(CelerysResult, "exists") else []


@pytest.mark.parametrize("call", BLOCKING)
async def test_blocking_calls_are_refused_on_the_loop(results: list[AsyncResult[Any]], call: str) -> None:
    with pytest.raises(WouldBlock):
        outcome = getattr(results[0], call)(*([lambda: None] if call == "then" else []))
        list(outcome)


async def test_blocking_calls_work_off_the_loop(results: list[AsyncResult[Any]]) -> None:
    assert await asyncio.to_thread(results[1].get, timeout=10) == 2
    assert await asyncio.to_thread(lambda: results[1].state) == "SUCCESS"


def in_a_result_set(app: Celery, results: list[Any]) -> Any:
    return ResultSet(results, app=app).get(timeout=10)


def in_a_group(app: Celery, results: list[Any]) -> Any:
    return GroupResult("group", results, app=app).get(timeout=10)


def in_a_group_in_a_set(app: Celery, results: list[Any]) -> Any:
    members: Any = GroupResult("group", results, app=app)
    [values] = ResultSet([members], app=app).join(timeout=10)
    return values


def added_one_by_one(app: Celery, results: list[Any]) -> Any:
    made = ResultSet([], app=app)
    for result in results:
        made.add(result)
    return made.join_native(timeout=10)


#: A set that was empty waits for ever below Celery 5.7, whoever's results are added to it.
COLLECTED = [in_a_result_set, in_a_group, in_a_group_in_a_set, *([added_one_by_one] if CELERY >= (5, 7) else [])]


@pytest.mark.parametrize("collect", COLLECTED)
async def test_in_a_thread_they_are_celerys_own(
    bridge: Bridge, results: list[AsyncResult[Any]], collect: Callable[..., Any]
) -> None:
    assert await asyncio.to_thread(collect, bridge.app, results) == [0, 2, 4]


async def test_a_group_in_a_thread_is_celerys_own(bridge: Bridge) -> None:
    add = bridge.app.tasks["sample.add"]
    result = await bridge.dispatch(group(add.s(number, number) for number in range(3)))
    with pytest.raises(WouldBlock, match="await"):
        result.then(lambda _: None)
    for wait in (result.get, result.join, result.join_native):
        assert await asyncio.to_thread(wait, timeout=10) == [0, 2, 4]
    assert await asyncio.to_thread(lambda: [result.ready(), result.completed_count()]) == [True, 3]


async def test_result_class_is_celerys(app: Celery, results: list[AsyncResult[Any]]) -> None:
    celerys = await asyncio.to_thread(app.AsyncResult, results[0].id)
    assert isinstance(results[0], CelerysResult)
    assert results[0] == celerys
