"""Limits and terminate: what they end does end, and what they can't end is told."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, wait_for, worker
from tests.worker.processes import OPTIONS, ROOT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge, TaskFailed, TaskRevoked
from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.worker.processes import children


async def told(path: Path) -> str:
    """Return what a task has written, once it has."""
    await asyncio.to_thread(wait_for, lambda: path.exists() and path.read_text())
    return await asyncio.to_thread(path.read_text)


def is_there(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return f"{pid} (sleep) Z" not in Path(f"/proc/{pid}/stat").read_text()
    return False


async def test_a_time_limit_holds_without_a_soft_one_in_an_app_that_has_one(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit(ends.app.tasks["e.terminated"].s(str(tmp_path / "marks")), time_limit=0.2)
    with pytest.raises(TaskFailed, match="TimeLimitExceeded"):
        await ends.get(result, timeout=10)


async def test_a_task_may_have_a_limit_below_the_apps_soft_one(ends: Bridge) -> None:
    assert await ends.get(await ends.submit(ends.app.tasks["e.process"].s()), timeout=10)
    assert await ends.get(await ends.dispatch(ends.app.tasks["e.process"].s()), timeout=10)


async def test_a_slot_is_free_when_the_code_has_ended(ends: Bridge, tmp_path: Path) -> None:
    alone, first, second = ends.app.tasks["e.alone"], tmp_path / "first", tmp_path / "second"
    cancelled = await ends.submit(alone.s(str(first), 30))
    await told(first)
    waits = await ends.submit(alone.s(str(second), 0.1))
    await ends.ledger.jobs.cancel(cancelled.id, grace=0.001)
    with pytest.raises(TaskRevoked):
        await ends.get(cancelled, timeout=10)
    await ends.get(waits, timeout=10)
    job = await ends.ledger.jobs.get(waits.id)
    assert isinstance(job, Job)
    assert float((await told(first)).split()[-1]) * 1000 < (job.started_at or 0)


@pytest.mark.parametrize("by", ["cancel", "revoke", "time limit"])
async def test_what_a_task_has_started_ends_with_it(ends: Bridge, tmp_path: Path, by: str) -> None:
    path = tmp_path / "pids"
    options: dict[str, Any] = {"time_limit": 1} if by == "time limit" else {}
    result = await ends.submit(ends.app.tasks["e.has_children"].s(str(path)), **options)
    child, process = map(int, (await told(path)).split())
    assert await asyncio.to_thread(is_there, child)
    if by == "cancel":
        await ends.ledger.jobs.cancel(result.id, grace=0.001)
    elif by == "revoke":
        await ends.revoke(result, terminate=True)
    with pytest.raises((TaskRevoked, TaskFailed)):
        await ends.get(result, timeout=10)
    await asyncio.to_thread(wait_for, lambda: not is_there(child) and not is_there(process))


async def test_a_process_that_was_told_to_end_runs_nothing_more(ends: Bridge, tmp_path: Path) -> None:
    """The next task's exception, or death, would be taken for the end that this one has swallowed."""
    path = tmp_path / "marks"
    result = await ends.submit(ends.app.tasks["e.terminated_and_returns"].s(str(path)))
    await told(path)
    await ends.revoke(result, terminate=True)
    with pytest.raises(TaskRevoked):
        await ends.get(result, timeout=10)
    told_to_end = int(await told(tmp_path / "marks.pid"))
    others = {await ends.get(await ends.submit(ends.app.tasks["e.process"].s()), timeout=10) for _ in range(4)}
    assert told_to_end not in others


async def test_a_terminate_is_for_one_job_alone(ends: Bridge, tmp_path: Path) -> None:
    """Its code has swallowed it: then the next process that dies is no answer to it."""
    path, dies_once = tmp_path / "marks", ends.app.tasks["e.dies_once"]
    result = await ends.submit(ends.app.tasks["e.terminated_and_returns"].s(str(path)))
    await told(path)
    await ends.ledger.jobs.cancel(result.id, grace=0.001)
    with pytest.raises(TaskRevoked):
        await ends.get(result, timeout=10)
    others = [await ends.submit(dies_once.s(str(tmp_path / f"{number}"))) for number in range(2)]
    assert [await ends.get(other, timeout=30) for other in others] == ["done", "done"]


# Workers of a test's own.


@pytest.fixture
def settings(database: Database) -> dict[str, str]:
    return {"SAMPLE_URL": database.url, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def own_app(database: Database) -> Iterator[Any]:
    app = make_app(database.url)
    yield app
    app.close()


@pytest.fixture
async def own(own_app: Any) -> AsyncIterator[Bridge]:
    async with Bridge(own_app) as made:
        yield made


async def test_terminate_is_obeyed_by_a_worker_that_stops(
    own: Bridge, settings: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "marks"
    result = await own.submit(own.app.tasks["e.terminated_and_goes_on"].s(str(path)))
    running = worker("tests.worker.sample", settings, tmp_path / "worker.log", *OPTIONS)
    process = await asyncio.to_thread(running.__enter__)
    try:
        await told(path)
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_for, lambda: b"Warm shutdown" in (tmp_path / "worker.log").read_bytes())
        await own.ledger.jobs.cancel(result.id, grace=0.001)
        with pytest.raises(TaskRevoked):
            await own.get(result, timeout=15)
        await asyncio.to_thread(process.wait, 15)
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def test_a_worker_that_stops_waits_for_what_its_processes_were_given(
    own: Bridge, settings: dict[str, str], database: Database, tmp_path: Path
) -> None:
    """Also if they have not said yet that they have it: else they wait for 30 s, and the task runs once more."""
    path, log = tmp_path / "marks", tmp_path / "worker.log"
    running = worker("tests.worker.sample", settings, log, *OPTIONS)
    process = await asyncio.to_thread(running.__enter__)
    try:
        pool = await asyncio.to_thread(children, process.pid)
        for pid in pool:
            os.kill(pid, signal.SIGSTOP)
        result = await own.dispatch(own.app.tasks["e.returns"].s(str(path)))
        await asyncio.to_thread(wait_for, lambda: f"{result.id}] received" in log.read_text())
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1.5)  # nothing says that it has closed its consumer
        for pid in pool:
            os.kill(pid, signal.SIGCONT)
        await asyncio.to_thread(process.wait, 15)
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
    assert await own.get(result, timeout=5) == "done"
    assert await asyncio.to_thread(left, database) == 0


def left(database: Database) -> Any:
    with database.client() as client:
        return client.exists("ends", "unacked")


@pytest.mark.parametrize("pool", ["threads", "solo"])
async def test_a_pool_that_can_end_nothing_says_so(
    own: Bridge, settings: dict[str, str], tmp_path: Path, pool: str
) -> None:
    path, log = tmp_path / "marks", tmp_path / "worker.log"
    result = await own.submit(own.app.tasks["e.waits"].s(str(path), 3.0), time_limit=1)
    running = worker("tests.worker.sample", settings, log, *OPTIONS, "--pool", pool)
    await asyncio.to_thread(running.__enter__)
    try:
        await told(path)
        await own.ledger.jobs.cancel(result.id, grace=0.001)
        assert await own.get(result, timeout=20) == "done"
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
    said = await told(log)
    assert f"celery.concurrency.{pool.removesuffix('s')} can't end a task" in said
    assert said.count("goes on until its code ends") == 1
    with own.ledger.events.follow(result.id) as events:
        lines = [json.loads(event.data)["message"] async for event in events if event.kind == "log"]
    assert [line.partition(":")[0] for line in lines] == [
        "its time limit does not hold",
        "cancelled, and goes on until its code ends",
    ]
