"""Tasks that are generators, in each pool."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.servers import wait_for
from tests.worker.generator_tasks import add_generators
from tornado_celery_bridge import Bridge, Item, TaskFailed, TaskRevoked, testing
from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.worker import install

#: How the names of tasks of ``def`` and ``async def`` begin.
KINDS = ["g", "ag"]


async def ended(bridge: Bridge, name: str, *args: Any) -> Job:
    result = await bridge.submit(name, args)
    async with asyncio.timeout(60):
        with bridge.ledger.events.follow(result.id) as events:
            assert [event.kind async for event in events][-1] == "end"
    job = await bridge.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    return job


async def kept(bridge: Bridge, job: Job) -> list[tuple[int, int, Any]]:
    """Return the items of a job that are kept: attempt, number, value."""
    return [(each.attempt, each.number, each.value) for each in await bridge.ledger.jobs.items(job.record.id)]


async def test_its_items_are_kept_and_its_result_is_what_it_returns(pools: Bridge) -> None:
    for name, result in (("g.counts", "done"), ("ag.counts", None)):
        job = await ended(pools, name, 3)
        assert (job.state, job.result, job.items) == ("SUCCESS", result, 3)
        assert await kept(pools, job) == [(1, 1, {"n": 0}), (1, 2, {"n": 1}), (1, 3, {"n": 2})]
    assert await kept(pools, await ended(pools, "g.calls_others")) == [(1, 1, 0), (1, 2, 10)]
    assert await kept(pools, await ended(pools, "ag.calls_others")) == [(1, 1, 0), (1, 2, 10)]


@pytest.mark.parametrize("send", ["submit", "dispatch"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_has_its_items_as_they_come(pools: Bridge, tmp_path: Path, kind: str, send: str) -> None:
    event, items = tmp_path / "event", list[Item]()
    result = await getattr(pools, send)(f"{kind}.ticks", (str(event),))
    async for state in pools.stream(result, timeout=60):
        items += [state.item] if state.item is not None else []
        if len(items) == 2:  # by now the stream hears of each
            await asyncio.to_thread(event.touch)
    assert state.state == "SUCCESS"
    numbers = [item.number for item in items]
    assert numbers == sorted({*numbers})
    assert [item.value for item in items] == [*["tick"] * (len(items) - 1), "last"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_one_is_told_where_it_yields(pools: Bridge, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "marks"
    result = await pools.submit(f"{kind}.goes_on", (str(path),))
    await asyncio.to_thread(wait_for, path.exists)
    await pools.ledger.jobs.cancel(result.id)
    with pytest.raises(TaskRevoked):
        await pools.get(result, timeout=60)
    # On a loop the code is told where it awaits as well.
    assert await asyncio.to_thread(Path(f"{path}.told").read_text) in ("JobCancelled", "CancelledError")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_kept_is_raised_where_it_is_yielded(pools: Bridge, kind: str) -> None:
    job = await ended(pools, f"{kind}.yields_what_cannot_be_kept")
    assert job.state == "SUCCESS"
    assert [value for _, _, value in await kept(pools, job)] == ["EncodeError", "ValueError"]


@pytest.mark.parametrize("kind", KINDS)
async def test_another_attempt_counts_anew_and_those_before_are_kept(pools: Bridge, kind: str) -> None:
    job = await ended(pools, f"{kind}.retries")
    assert (job.state, job.attempt, job.items) == ("SUCCESS", 2, 5)
    # What was being done as the attempt ended is done again.
    assert await kept(pools, job) == [(1, 1, 0), (1, 2, 1), (2, 1, 1), (2, 2, 2), (2, 3, 3)]


#: By what it is ended, and what is told of that.
TOLD = {"soft_time_limit": "SoftTimeLimitExceeded", "time_limit": "TimeLimitExceeded", "terminate": "terminated"}


@pytest.mark.parametrize("by", TOLD)
@pytest.mark.parametrize("pool_worker", ["prefork", "asyncio"], indirect=True)
async def test_it_is_ended_as_any_other(pools: Bridge, tmp_path: Path, by: str) -> None:
    path = tmp_path / "marks"
    limits: Any = {} if by == "terminate" else {by: 1.0}
    result = await pools.submit("ag.waits" if by == "terminate" else "ag.goes_on", (str(path),), **limits)
    if by == "terminate":
        async with asyncio.timeout(60):
            while not await pools.ledger.jobs.items(result.id):
                await asyncio.sleep(0.02)
        await pools.ledger.jobs.cancel(result.id, grace=0.001)
    with pytest.raises((TaskFailed, TaskRevoked), match=TOLD[by]):
        await pools.get(result, timeout=60)
    found = await pools.ledger.jobs.items(result.id)
    assert [each.number for each in found] == list(range(1, len(found) + 1)), "each was kept once"
    assert found


async def test_a_task_may_have_a_state_of_the_same_name(ends: Bridge) -> None:
    result = await ends.submit("g.has_a_state_of_its_own")
    assert await ends.get(result, timeout=60) == "done"
    with ends.ledger.events.follow(result.id) as events:
        told = [json.loads(event.data) async for event in events if event.kind == "state"]
    assert told[-1] == {"state": "ITEM", "progress": {"number": 1, "of": "mine"}}


async def test_code_that_goes_on_is_killed(on_loop: Bridge) -> None:
    results = [await on_loop.submit("ag.persists", time_limit=1) for _ in range(5)]
    for result in results:
        with pytest.raises(TaskFailed, match="TimeLimitExceeded"):
            await on_loop.get(result, timeout=60)
    counts = [len(await on_loop.ledger.jobs.items(result.id)) for result in results]
    assert await on_loop.get(await on_loop.submit("a.adds", (1, 2)), timeout=60) == 3
    assert [len(await on_loop.ledger.jobs.items(result.id)) for result in results] == counts


@pytest.fixture
def eager() -> Celery:
    app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = True
    install(app)
    add_generators(app)
    app.finalize()
    return app


def test_an_eager_one_runs_to_its_end(eager: Celery) -> None:
    assert eager.tasks["g.counts"].delay(3).get() == "done"
    assert eager.tasks["ag.counts"].delay(3).get() is None


async def test_a_direct_call_gives_the_generator(eager: Celery) -> None:
    assert list(eager.tasks["g.counts"](2)) == [{"n": 0}, {"n": 1}]
    assert [each async for each in eager.tasks["ag.counts"](2)] == [{"n": 0}, {"n": 1}]


async def test_the_bridge_for_unit_tests_has_items() -> None:
    app = Celery("mine", set_as_current=False)
    install(app)
    add_generators(app)
    async with testing.bridge(app) as bridge:
        assert [value["n"] for _, _, value in await kept(bridge, await ended(bridge, "g.counts", 2))] == [0, 1]
