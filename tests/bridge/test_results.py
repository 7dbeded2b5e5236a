import pytest
from celery import Celery, chain, chord, group

from tornado_celery_bridge import Bridge, TaskFailed


async def test_await(bridge: Bridge, app: Celery) -> None:
    result = await bridge.dispatch(app.tasks["sample.add"].s(2, 2))
    assert await result == 4
    assert result.state == "SUCCESS"


async def test_failure(bridge: Bridge, app: Celery) -> None:
    result = await bridge.dispatch(app.tasks["sample.fail"].s())
    with pytest.raises(TaskFailed, match="as asked") as caught:
        await result
    assert isinstance(caught.value.__cause__, ValueError)


async def test_canvases(bridge: Bridge, app: Celery) -> None:
    add, total = app.tasks["sample.add"], app.tasks["sample.total"]
    assert await (await bridge.dispatch(chain(add.s(1, 2), add.s(3)))) == 6
    assert await (await bridge.dispatch(group(add.s(i, i) for i in range(3)))) == [0, 2, 4]
    assert await (await bridge.dispatch(chord([add.s(i, i) for i in range(3)], total.s()))) == 6


async def test_stream(bridge: Bridge, app: Celery) -> None:
    result = await bridge.dispatch("sample.count", (5,))
    states = [state async for state in bridge.stream(result)]
    assert states[-1].result == 5
    print(states)
    assert any(state.progress and state.progress.total == 5 for state in states)
