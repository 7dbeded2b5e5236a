"""Tasks of ``async def``, in each pool."""

import asyncio
import contextlib
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from celery import Celery, chain, chord

from tests.servers import wait_for
from tests.worker.async_tasks import add_async_tasks
from tornado_celery_bridge import Bridge, TaskFailed, TaskRevoked, testing
from tornado_celery_bridge.base.versions import CELERY
from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.worker import install
from tornado_celery_bridge.worker.coroutines import Code

#: What is raised in a task, and what is told of it.
RAISED = {
    "ValueError": "ValueError: mine",
    "Reject": "Reject: ('mine', False)",
    "SystemExit": "CodeExited: SystemExit: 3",
    "KeyboardInterrupt": "CodeExited: KeyboardInterrupt",
    "MemoryError": "MemoryError: mine",
    "CancelledError": "CodeExited: CancelledError",
    "StopIteration": "RuntimeError: coroutine raised StopIteration",
    "TaskGroup": "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)",
}


needs_models = pytest.mark.skipif(CELERY < (5, 5), reason="impossible here: Celery below 5.5 has no pydantic=True")


async def ended(bridge: Bridge, name: str, *args: Any) -> Job:
    result = await bridge.submit(f"a.{name}", args)
    async with asyncio.timeout(30):
        with bridge.ledger.events.follow(result.id) as events:
            assert [event.kind async for event in events].count("end") == 1
    job = await bridge.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    return job


async def test_what_it_returns_is_the_result(pools: Bridge) -> None:
    adds = pools.app.tasks["a.adds"]
    assert await pools.get(await pools.submit(adds.s(1, 2)), timeout=30) == 3
    assert await pools.get(await pools.dispatch(adds.s(1, 2)), timeout=30) == 3
    assert await pools.get(await pools.submit("a.class", (1, 2)), timeout=30) == 3
    assert await pools.get(await pools.submit("a.called", (1,)), timeout=30) == 1
    assert await pools.get(await pools.submit("a.awaits_others", (2,)), timeout=30) == 3
    assert await pools.get(await pools.submit("a.replaces"), timeout=30) == 3
    assert (await ended(pools, "silent")).result == "done"
    assert (await ended(pools, "raises", "Ignore")).state == "IGNORED"
    canvas = chain(chord([adds.s(1, 2), adds.s(3, 4)], pools.app.tasks["e.total"].s()), adds.s(1))
    assert await pools.get(await pools.dispatch(canvas), timeout=30) == 11


@needs_models
async def test_it_takes_and_returns_models(pools: Bridge, eager: Celery) -> None:
    assert await pools.get(await pools.submit("a.models", ({"x": 1, "y": 2},)), timeout=30) == {"x": 2, "y": 2}
    assert (await asyncio.to_thread(eager.tasks["a.models"].delay, {"x": 1})).result == {"x": 2, "y": 0}


async def test_what_it_raises_is_told_and_the_worker_goes_on(pools: Bridge) -> None:
    jobs = await asyncio.gather(*(ended(pools, "raises", what) for what in RAISED))
    told = {}
    for what, job in zip(RAISED, jobs, strict=True):
        with pytest.raises(TaskFailed) as failed:
            await pools.get(job.record.id)
        told[what] = str(failed.value).partition(" failed: ")[2]
        assert (job.state, job.attempt) == ("FAILURE", 1)
    assert told == RAISED


@pytest.mark.parametrize("name", ["retries", "autoretries"])
async def test_it_is_tried_again(pools: Bridge, tmp_path: Path, name: str) -> None:
    job = await ended(pools, name, str(tmp_path / "marks"))
    assert (job.state, job.result, job.attempt) == ("SUCCESS", "done", 3)


async def test_it_tells_what_a_task_can(pools: Bridge) -> None:
    result = await pools.submit("a.tells", (0.001,))
    assert await pools.get(result, timeout=30) == [result.id, "a.tells", "half"]
    with pools.ledger.events.follow(result.id) as events:
        told = [(event.kind, json.loads(event.data)) async for event in events]
    assert [data["message"] for kind, data in told if kind == "log"][-3:] == ["first", "of a group", "of a thread"]
    assert [data["message"] for kind, data in told if kind == "progress"] == ["half"]


async def test_a_cancelled_one_ends_where_it_tells_of_its_progress(pools: Bridge, tmp_path: Path) -> None:
    result = await pools.submit("a.goes_on_until_cancelled", (str(tmp_path / "marks"),))
    await asyncio.to_thread(wait_for, (tmp_path / "marks").exists)
    await pools.ledger.jobs.cancel(result.id)
    with pytest.raises(TaskRevoked):
        await pools.get(result, timeout=30)


async def test_its_loop_is_kept_with_what_goes_on_there(pools: Bridge) -> None:
    found: dict[str, list[int]] = {}
    for _ in range(6):
        loop, count = await pools.get(await pools.submit("a.left"), timeout=30)
        found.setdefault(loop, []).append(count)
    assert len(found) <= 2, "the worker has two processes, or threads, at most"
    assert all(len(set(counts)) == len(counts) for counts in found.values()), "it went on in each task"


#: What the code is told where it awaits, or as it computes.
TOLD = {
    ("soft_time_limit", "awaits"): "SoftTimeLimitExceeded",
    ("soft_time_limit", "awaits others"): "SoftTimeLimitExceeded",
    ("soft_time_limit", "computes"): "SoftTimeLimitExceeded",
    ("terminate", "awaits"): "CancelledError",
    ("terminate", "awaits others"): "CancelledError",
    ("terminate", "computes"): "SystemExit",
}


@pytest.mark.parametrize(("by", "how"), TOLD)
async def test_a_process_ends_it_and_it_cleans_up(ends: Bridge, tmp_path: Path, by: str, how: str) -> None:
    await ended_and_told(ends, tmp_path, by, how)


@pytest.mark.parametrize(("by", "how"), [each for each in TOLD if "computes" not in each])
async def test_the_asyncio_pool_ends_it_and_it_cleans_up(on_loop: Bridge, tmp_path: Path, by: str, how: str) -> None:
    await ended_and_told(on_loop, tmp_path, by, how)


async def ended_and_told(bridge: Bridge, folder: Path, by: str, how: str) -> None:
    path = folder / "marks"
    result = await bridge.submit("a.cleans_up", (str(path), how), soft_time_limit=1 if by == "soft_time_limit" else 60)
    await asyncio.to_thread(wait_for, path.exists)
    if by == "terminate":
        await bridge.ledger.jobs.cancel(result.id, grace=0.001)
        with pytest.raises(TaskRevoked):
            await bridge.get(result, timeout=30)
    else:
        with pytest.raises(TaskFailed, match="SoftTimeLimitExceeded"):
            await bridge.get(result, timeout=30)
    assert await asyncio.to_thread(Path(f"{path}.told").read_text) == TOLD[by, how]
    assert len(await asyncio.to_thread(path.read_text)) == 1


async def test_a_process_ends_it_at_its_time_limit(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit("a.cleans_up", (str(tmp_path / "marks"), "awaits"), time_limit=1)
    with pytest.raises(TaskFailed, match="TimeLimitExceeded"):
        await ends.get(result, timeout=30)


async def test_code_that_goes_on_although_it_is_killed_is_never_collected() -> None:
    async def goes_on() -> None:
        while True:  # for ever, where there is no loop
            with contextlib.suppress(BaseException):
                await asyncio.sleep(30)

    coroutine = goes_on()
    code, known = Code(coroutine), weakref.ref(coroutine)
    code.send(None)
    code.kill()
    with pytest.raises(asyncio.CancelledError):
        code.send(None)
    del code, coroutine
    gc.collect()
    assert known() is not None


@pytest.fixture
def eager() -> Celery:
    app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = True
    install(app)
    add_async_tasks(app)
    app.finalize()
    return app


def test_an_eager_one_runs_where_it_is_sent(eager: Celery, tmp_path: Path) -> None:
    assert eager.tasks["a.adds"].delay(1, 2).get() == 3
    assert eager.tasks["a.autoretries"].delay(str(tmp_path / "marks")).get() == "done"
    with pytest.raises(ValueError, match="mine"):
        eager.tasks["a.raises"].delay("ValueError").get()


async def test_an_eager_one_that_is_sent_from_a_loop(eager: Celery, blockbuster: BlockBuster) -> None:
    async with Bridge(eager) as bridge:
        assert await (await bridge.dispatch(eager.tasks["a.adds"].s(1, 2))) == 3
    blockbuster.deactivate()  # it blocks the loop, as any eager task does
    assert eager.tasks["a.awaits_others"].delay(1).get() == 2
    with pytest.raises(ValueError, match="mine"):
        eager.tasks["a.raises"].delay("ValueError").get()


async def test_a_direct_call_is_a_call_of_the_function(eager: Celery) -> None:
    assert await eager.tasks["a.adds"](1, 2) == 3


@pytest.fixture
def mine() -> Celery:
    app = Celery("mine", set_as_current=False)
    install(app)
    add_async_tasks(app)
    return app


async def test_the_bridge_for_unit_tests_runs_them(mine: Celery) -> None:
    async with testing.bridge(mine) as bridge, asyncio.timeout(30):
        assert await (await bridge.submit("a.adds", (1, 2))) == 3
        with pytest.raises(TaskFailed, match="mine"):
            await (await bridge.dispatch("a.raises", ("ValueError",)))
