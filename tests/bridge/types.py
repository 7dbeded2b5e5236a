"""
What type checkers infer of a bridge's methods. This is never run: mypy reads it with the tests, and so does
.ci/pyright. celery-types knows what a task of ``@shared_task`` returns, and nothing of one of ``@app.task``.
"""

from typing import Any, assert_type

from celery import Celery, chain, chord, group, shared_task

from tornado_celery_bridge import AsyncResult, Bridge, GroupResult, TaskState

app = Celery()


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task()
def name(number: int) -> str | None:
    return str(number)


@shared_task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task
def untold(number: int) -> int:
    return number


async def dispatched(bridge: Bridge) -> None:
    assert_type(await bridge.dispatch(add, (1, 2)), AsyncResult[int])
    assert_type(await bridge.dispatch(add.s(1, 2), countdown=10), AsyncResult[int])
    assert_type(await bridge.dispatch(name.si(1)), AsyncResult[str | None])
    assert_type(await bridge.dispatch(fetch.s("x")), AsyncResult[bytes])
    assert_type(await bridge.dispatch("sample.add", (1, 2)), AsyncResult[Any])
    assert_type(await bridge.dispatch(untold.s(1)), AsyncResult[Any])
    assert_type(await bridge.dispatch(group(add.s(1, 2), name.s(1))), GroupResult)
    assert_type(await bridge.dispatch(add.chunks([(1, 2)], 1)), GroupResult)
    assert_type(await bridge.dispatch(chord([add.s(1, 2)], name.s())), AsyncResult[Any])


async def submitted(bridge: Bridge) -> None:
    assert_type(await bridge.submit(add, (1, 2), owner="me", tags=["a"]), AsyncResult[int])
    assert_type(await bridge.submit(add.s(1, 2)), AsyncResult[int])
    assert_type(await bridge.submit(fetch, ("x",)), AsyncResult[bytes])
    assert_type(await bridge.submit("sample.add", (1, 2)), AsyncResult[Any])


async def awaited(bridge: Bridge) -> None:
    result = await bridge.dispatch(add.s(1, 2))
    assert_type(await result, int)
    assert_type(await result.future(), int)
    assert_type(await bridge.get(result, timeout=1), int)
    assert_type(await bridge.get(result.id), Any)
    assert_type(await bridge.wait(result), TaskState)
    assert_type(await bridge.get(await bridge.dispatch(group(add.s(1, 2)))), list[Any])
    async for each in bridge.as_completed([result]):
        assert_type(each, AsyncResult[int])
    async for state in bridge.stream(result):
        assert_type(state, TaskState)


async def of_a_chain(bridge: Bridge) -> None:
    assert_type(await bridge.dispatch(chain(add.s(1, 2), name.s())), Any)  # of a group, it is a GroupResult
