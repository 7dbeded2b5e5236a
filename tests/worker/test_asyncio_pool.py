"""The asyncio pool: what it does that no other pool does, and that it ends what it runs."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain

from tests.servers import Database, Server, wait_for, worker
from tests.worker.processes import ASYNCIO, ENVIRONMENT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge, TaskFailed, TaskRevoked
from tornado_celery_bridge.base.versions import CELERY
from tornado_celery_bridge.ledger import Job, Monitor
from tornado_celery_bridge.worker.asyncio_pool import THREADS


async def job(bridge: Bridge, job_id: str) -> Job:
    found = await bridge.ledger.jobs.get(job_id)
    assert isinstance(found, Job)
    return found


async def test_as_many_run_at_once_as_the_worker_has_slots(on_loop: Bridge) -> None:
    results = [await on_loop.submit("a.meets", (100,)) for _ in range(100)]
    assert await asyncio.gather(*(on_loop.get(result, timeout=60) for result in results)) == [100] * 100


async def test_tasks_that_are_not_async_run_in_few_threads_meanwhile(on_loop: Bridge, tmp_path: Path) -> None:
    event = tmp_path / "event"
    results = [await on_loop.submit("e.downloads", (str(event),)) for _ in range(THREADS + 2)]

    async def running() -> int:
        jobs = [await job(on_loop, result.id) for result in results]
        return [each.state for each in jobs].count("DOWNLOADING")

    async with asyncio.timeout(60):
        while await running() < THREADS:
            await asyncio.sleep(0.02)
    assert await on_loop.get(await on_loop.submit("a.adds", (1, 2)), timeout=60) == 3
    assert await running() == THREADS
    await asyncio.to_thread(event.touch)
    assert await asyncio.gather(*(on_loop.get(result, timeout=60) for result in results)) == ["done"] * len(results)


@pytest.mark.parametrize("by", ["time_limit", "terminate", "revoke"])
async def test_code_that_goes_on_is_killed(on_loop: Bridge, tmp_path: Path, by: str) -> None:
    path = tmp_path / "marks"
    send = on_loop.dispatch if by == "revoke" else on_loop.submit
    result = await send("a.goes_on", (str(path),), time_limit=1 if by == "time_limit" else None)
    await asyncio.to_thread(wait_for, path.exists)
    if by == "time_limit":
        with pytest.raises(TaskFailed, match="TimeLimitExceeded"):
            await on_loop.get(result, timeout=60)
        return
    if by == "terminate":
        await on_loop.ledger.jobs.cancel(result.id, grace=0.001)
    else:
        await on_loop.revoke(result, terminate=True)
    # Of a task that is no job, Celery 5.6 tells that it was revoked before it has ended.
    is_told_before = by == "revoke" and CELERY == (5, 6)
    with pytest.raises(TaskRevoked, match="revoked$" if is_told_before else "terminated"):
        await on_loop.get(result, timeout=60)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server, and a worker with the asyncio pool, whose server may be frozen."""
    server = Server(tmp_path / "server").start()
    try:
        environment = {"SAMPLE_URL": server.url, **ENVIRONMENT}
        with worker("tests.worker.sample", environment, tmp_path / "worker.log", *ASYNCIO):
            yield server
    finally:
        server.stop()


async def test_the_loop_goes_on_while_redis_is_frozen(own_server: Server, tmp_path: Path) -> None:
    app = make_app(own_server.url)
    ticks, event, end = (tmp_path / name for name in ("ticks", "event", "end"))
    kinds = ["returns", "fails", "retries", "retries itself", "goes on"]
    marks = [tmp_path / f"{kind}.marks" for kind in kinds]

    def size(*paths: Path) -> int:
        return sum(path.stat().st_size for path in paths if path.exists())

    async with Bridge(app) as bridge:
        ticking = await bridge.submit("a.ticks", (str(ticks), str(end)))
        yielding = await bridge.submit("ag.ticks", (str(end),))
        results = []
        for kind, path in zip(kinds, marks, strict=True):
            signature = app.tasks["a.tells_and_ends"].s(kind, str(path), str(event))
            if kind == "goes on":  # with a message, which is published as it ends
                results.append(await bridge.dispatch(chain(signature, app.tasks["a.follows"].s())))
            else:
                results.append(await bridge.submit(signature))
        await asyncio.to_thread(wait_for, lambda: size(*marks) == len(kinds))
        own_server.freeze()
        try:
            await asyncio.to_thread(event.touch)
            await asyncio.to_thread(wait_for, lambda: size(*marks) == 2 * len(kinds))
            before = await asyncio.to_thread(size, ticks)
            await asyncio.to_thread(wait_for, lambda: size(ticks) > before + 100)
        finally:
            own_server.thaw()
        await asyncio.to_thread(end.touch)
        *jobs, _ = results
        for result in jobs:
            with bridge.ledger.events.follow(result.id) as events:
                told = [event.kind async for event in events if event.kind in ("log", "progress", "end")]
            assert told == ["log", "progress", "end"]
        ended = await asyncio.gather(*(bridge.get(each, timeout=60) for each in results), return_exceptions=True)
        assert [str(each).rpartition("failed: ")[2] for each in ended] == ["done", "ValueError: mine", *["done"] * 3]
        assert await bridge.get(ticking, timeout=60) == "done"
        assert await bridge.get(yielding, timeout=60) is None
        numbers = [each.number for each in await bridge.ledger.jobs.items(yielding.id)]
        assert numbers == list(range(1, len(numbers) + 1)), "each item waited, and is kept once"
    app.close()


async def test_code_that_never_asks_is_told_of_a_cancel(on_loop: Bridge, tmp_path: Path) -> None:
    path = tmp_path / "marks"
    result = await on_loop.submit("a.cleans_up", (str(path), "awaits"))
    await asyncio.to_thread(wait_for, path.exists)
    await on_loop.ledger.jobs.cancel(result.id)
    with pytest.raises(TaskRevoked, match="cancelled"):
        await on_loop.get(result, timeout=60)
    assert await asyncio.to_thread(Path(f"{path}.told").read_text) == "CancelledError"


async def test_the_log_says_which_code_holds_the_loop_up(on_loop: Bridge, asyncio_log: Path, tmp_path: Path) -> None:
    event = tmp_path / "event"
    result = await on_loop.submit("a.computes", (str(event),))
    await asyncio.to_thread(wait_for, lambda: b"in computes" in asyncio_log.read_bytes())
    assert "the loop is held up" in await asyncio.to_thread(asyncio_log.read_text)
    await asyncio.to_thread(event.touch)
    assert await on_loop.get(result, timeout=60) == "done"


async def test_a_task_that_is_not_async_cannot_be_ended_and_says_so(on_loop: Bridge, tmp_path: Path) -> None:
    event = tmp_path / "event"
    result = await on_loop.submit("e.downloads", (str(event),), time_limit=1)
    async with asyncio.timeout(60):
        while (await job(on_loop, result.id)).state != "DOWNLOADING":
            await asyncio.sleep(0.02)
    await on_loop.ledger.jobs.cancel(result.id, grace=0.001)
    lines = []
    with on_loop.ledger.events.follow(result.id) as events:
        async with asyncio.timeout(60):
            async for told in events:
                lines += [told.data] if told.kind == "log" else []
                if "cancelled, and goes on" in told.data:
                    break
    assert any("its time limit does not hold" in line for line in lines)
    await asyncio.to_thread(event.touch)
    assert await on_loop.get(result, timeout=60) == "done"


async def test_remote_control_and_events_tell_of_it(on_loop: Bridge, tmp_path: Path) -> None:
    app: Any = on_loop.app
    told: list[dict[str, Any]] = []
    ready, heard = threading.Event(), threading.Event()

    def listen() -> None:
        with app.connection() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": told.append})
            with receiver.Consumer() as (own, *_):
                ready.set()
                while not heard.is_set():
                    with contextlib.suppress(TimeoutError):
                        own.drain_events(timeout=0.1)

    listening = asyncio.create_task(asyncio.to_thread(listen))
    await asyncio.to_thread(ready.wait, 60)
    await asyncio.to_thread(app.control.enable_events, reply=True, timeout=10, limit=1)
    path, event = tmp_path / "marks", tmp_path / "event"
    result = await on_loop.submit("a.waits_for", (str(path), str(event)))
    await asyncio.to_thread(wait_for, path.exists)
    inspect = app.control.inspect(timeout=10, limit=1)
    (active,) = (await asyncio.to_thread(inspect.active)).values()
    assert [each["name"] for each in active] == ["a.waits_for"]
    (stats,) = (await asyncio.to_thread(inspect.stats)).values()
    assert (stats["pool"]["max-concurrency"], stats["pool"]["running"]) == (100, 1)
    await asyncio.to_thread(app.control.pool_grow, 5, reply=True, timeout=10, limit=1)
    (stats,) = (await asyncio.to_thread(inspect.stats)).values()
    assert stats["pool"]["max-concurrency"] == 105
    await asyncio.to_thread(app.control.pool_shrink, 5, reply=True, timeout=10, limit=1)
    await asyncio.to_thread(event.touch)
    assert await on_loop.get(result, timeout=60) == "done"

    def has_heard() -> bool:
        return [each["type"] for each in told if each.get("uuid") == result.id][-1:] == ["task-succeeded"]

    try:
        await asyncio.to_thread(wait_for, has_heard)
    finally:
        heard.set()
        await listening
    await asyncio.to_thread(app.control.disable_events)
    assert "task-started" in [each["type"] for each in told if each.get("uuid") == result.id]


async def test_it_takes_no_more_than_it_may_run(on_loop: Bridge, tmp_path: Path) -> None:
    app: Any = on_loop.app
    path, event = tmp_path / "marks", tmp_path / "event"
    results = [await on_loop.submit("a.waits_for", (str(path), str(event))) for _ in range(103)]
    await asyncio.to_thread(wait_for, lambda: path.exists() and path.stat().st_size >= 100)
    inspect = app.control.inspect(timeout=10, limit=1)
    (stats,) = (await asyncio.to_thread(inspect.stats)).values()
    (reserved,) = (await asyncio.to_thread(inspect.reserved)).values()
    await asyncio.to_thread(event.touch)
    assert (stats["prefetch_count"], stats["pool"]["running"], reserved) == (100, 100, [])
    assert await asyncio.gather(*(on_loop.get(result, timeout=60) for result in results)) == ["done"] * 103
    assert await asyncio.to_thread(path.read_text) == "x" * 103


async def test_limits_hold(on_loop: Bridge) -> None:
    results = [await on_loop.submit("a.alone") for _ in range(4)]
    assert await asyncio.gather(*(on_loop.get(result, timeout=60) for result in results)) == [1] * 4


async def test_it_gives_signs_of_life(on_loop: Bridge, asyncio_log: Path) -> None:
    heartbeat = asyncio_log.with_name("heartbeat")
    await asyncio.to_thread(wait_for, heartbeat.exists)
    before = await asyncio.to_thread(heartbeat.stat)
    await asyncio.to_thread(wait_for, lambda: heartbeat.stat().st_mtime > before.st_mtime)


class Workers:
    """Workers with the asyncio pool, one after the other, which run tasks that wait for an event."""

    def __init__(self, database: Database, folder: Path, count: int) -> None:
        self.url, self.folder, self.count = database.url, folder, count
        self.event = folder / "event"
        self.arguments = [(str(folder / f"{number}.marks"), str(self.event)) for number in range(count)]

    def start(self, name: str, **more: str) -> Any:
        environment = {"SAMPLE_URL": self.url, **ENVIRONMENT, **more}
        options = (*ASYNCIO, "--concurrency", str(self.count))
        return worker("tests.worker.sample", environment, self.folder / name, *options)

    def wait_until_begun(self, times: int) -> None:
        """Wait until each task has begun so often."""
        wait_for(lambda: sum(len(path.read_text()) for path in self.folder.glob("*.marks")) >= times * self.count, 60)

    def end(self, name: str) -> None:
        """Stop a worker in order, once it has begun each task, and have them end meanwhile."""
        with self.start(name) as process:
            self.wait_until_begun(2)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: b"Warm shutdown" in (self.folder / name).read_bytes())
            self.event.touch()
            process.wait(60)


async def ends_after(workers: Workers, stop: Callable[[], None], *, attempt: int, lost: int) -> None:
    """Submit the tasks, run workers, and look at what has become of the jobs."""
    app = make_app(workers.url)
    async with Bridge(app) as bridge:
        results = [await bridge.submit("a.waits_for", each) for each in workers.arguments]
        await asyncio.to_thread(stop)
        for result in results:
            assert await bridge.get(result, timeout=1) == "done"
        assert {(await job(bridge, result.id)).attempt for result in results} == {attempt}
        (counts,) = (await Monitor(bridge.ledger).counts()).values()
        assert counts.lost == lost
    app.close()


@pytest.mark.parametrize("seconds", ["0", pytest.param("0.5", marks=pytest.mark.nightly)], ids=["cold", "soft"])
async def test_a_worker_that_stops_gives_its_jobs_back(database: Database, tmp_path: Path, seconds: str) -> None:
    workers = Workers(database, tmp_path, 50)

    def stop() -> None:
        with workers.start("stopped", SAMPLE_SOFT_SHUTDOWN=seconds) as process:
            workers.wait_until_begun(1)
            process.send_signal(signal.SIGQUIT)
            process.wait(60)
        workers.end("warm")

    await ends_after(workers, stop, attempt=2, lost=0)
    told = await asyncio.to_thread(lambda: list(tmp_path.glob("*.told")))
    assert len(told) == 50, "each could clean up"


@pytest.mark.parametrize("count", [50, pytest.param(1_000, marks=pytest.mark.nightly)])
async def test_a_worker_that_is_killed_loses_nothing(database: Database, tmp_path: Path, count: int) -> None:
    workers = Workers(database, tmp_path, count)

    def kill() -> None:
        with workers.start("killed"):
            workers.wait_until_begun(1)
        workers.end("warm")

    await ends_after(workers, kill, attempt=2, lost=count)
