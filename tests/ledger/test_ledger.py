"""The ledger's two sides against one Redis: what a job may become, and what is left of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Reject

from tests.servers import Server, free_port
from tornado_celery_bridge import Stored
from tornado_celery_bridge.ledger import Gone, Job, JobRecord, Ledger, Reservation, ledger_backend
from tornado_celery_bridge.ledger.worker import _begin, _WorkerLedger

pytestmark = pytest.mark.server

NOW = "2026-11-25T12:00:00.000Z"


@pytest.fixture(scope="module")
def redis_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("ledger")).start()
    yield made
    made.stop()


@pytest.fixture
def app(redis_of_ours: Server) -> Iterator[Celery]:
    with redis_of_ours.client() as client:
        client.flushall()
    made = Celery("ledger", broker=redis_of_ours.url, backend=redis_of_ours.url, set_as_current=False)
    made.conf.result_backend_transport_options = {"global_keyprefix": "pre."}
    yield made
    made.close()


@pytest.fixture
async def ledger(app: Celery) -> AsyncIterator[Ledger]:
    made = Ledger.of_backend(await asyncio.to_thread(ledger_backend, app))
    yield made
    await made.close()


@pytest.fixture
def worker(app: Celery) -> _WorkerLedger:
    return _WorkerLedger(app)


def record(job_id: str, *, task: str = "t", owner: str = "", tags: tuple[str, ...] = ()) -> JobRecord:
    return JobRecord(
        **{"id": job_id, "task": task, "owner": owner, "options": {}, "tags": list(tags), "queue": "q"},
        **{"priority": None, "created_at": NOW, "eta": None},
    )


async def begin(
    worker: _WorkerLedger, job_id: str, token: str, *, task: str = "t", again: bool = False, retries: int = 0
) -> str:
    return await asyncio.to_thread(worker.start, job_id, task, token, again=again, worker="w@here", retries=retries)


async def end(worker: _WorkerLedger, job_id: str, state: str = "SUCCESS", value: Any = 1) -> None:
    await asyncio.to_thread(worker.finish, job_id, state, value)


async def job(ledger: Ledger, job_id: str) -> Job:
    found = await ledger.get(job_id)
    assert isinstance(found, Job)
    return found


async def keys(ledger: Ledger) -> set[str]:
    return {key.decode() async for key in ledger._redis.scan_iter("*")}


async def test_a_life(ledger: Ledger, worker: _WorkerLedger) -> None:
    assert await ledger.get("a") is None
    assert (await ledger.accept(record("a", tags=("x",)), {"n": [1, None]})).kind == "accepted"
    assert await job(ledger, "a") == Job(record=record("a", tags=("x",)))
    assert await ledger.input_of("a") == b'{"n":[1,null]}'
    assert await begin(worker, "a", "1") == "go"
    assert (
        await asyncio.to_thread(worker.report, "a", "progress", {"current": 1}, "PROGRESS", "progress", {"c": 1})
        == "go"
    )
    running = await job(ledger, "a")
    assert (running.state, running.attempt, running.progress, running.worker) == ("PROGRESS", 1, {"c": 1}, "w@here")
    await end(worker, "a", value={"é": [1.5]})
    done = await job(ledger, "a")
    assert (done.state, done.done, done.result, done.number) == ("SUCCESS", True, {"é": [1.5]}, 3)
    assert all(key.startswith("pre.tcb:") for key in await keys(ledger))


async def test_what_must_not_run(ledger: Ledger, worker: _WorkerLedger) -> None:
    await ledger.accept(record("a"), {})
    assert await begin(worker, "nobody's", "1") == "unknown"
    assert await begin(worker, "a", "0", task="a part of it") == "go"
    assert await begin(worker, "a", "1") == "go"
    assert await begin(worker, "a", "1") == "go"  # the same question, asked again as the answer was lost
    assert await begin(worker, "a", "2") == "duplicate"
    assert await begin(worker, "a", "3", again=True) == "go"
    assert (await job(ledger, "a")).attempt == 2
    await end(worker, "a", "FAILURE", {"type": "E", "module": "m", "message": "no"})
    assert await begin(worker, "a", "4", again=True) == "FAILURE"
    await end(worker, "a", "SUCCESS")  # an attempt that was given up for dead
    assert (await job(ledger, "a")).state == "FAILURE"


async def test_a_retry_runs_again(ledger: Ledger, worker: _WorkerLedger) -> None:
    await ledger.accept(record("a"), {})
    error = {"type": "E", "module": "m", "message": "not yet"}
    told: dict[str, Any] = {"kind": "state", "data": {"state": "RETRY", "error": error}, "state": "RETRY"}

    async def ask_for_another(retries: int) -> None:
        await asyncio.to_thread(lambda: worker.report("a", **told, field="error", value=error, retries=retries))

    await begin(worker, "a", "1")
    await ask_for_another(0)
    assert (await job(ledger, "a")).error == error
    assert await begin(worker, "a", "2", retries=1) == "go"
    again = await job(ledger, "a")
    assert (again.state, again.attempt, again.error) == ("STARTED", 2, None)
    # The next one's message comes to another worker before this one has said that there will be one.
    assert await begin(worker, "a", "3", retries=2) == "go"
    await ask_for_another(1)
    assert (await job(ledger, "a")).state == "STARTED"
    assert await begin(worker, "a", "4", retries=2) == "duplicate"


async def test_cancelling(ledger: Ledger, worker: _WorkerLedger) -> None:
    for job_id in ("a", "b", "c"):
        await ledger.accept(record(job_id), {})
    assert await ledger.cancel("a", NOW) == "PENDING"
    assert (await job(ledger, "a")).state == "REVOKED"
    assert await begin(worker, "a", "1") == "REVOKED"
    await begin(worker, "b", "1")
    assert await ledger.cancel("b", NOW, unless_begun=True) == "STARTED"
    assert await asyncio.to_thread(worker.report, "b", "log", {}) == "go"
    assert await ledger.cancel("b", NOW) == "STARTED"
    assert await asyncio.to_thread(worker.report, "b", "log", {}) == "cancelled"
    assert await begin(worker, "b", "2", again=True) == "REVOKED"  # its worker died before it could be told
    assert (await job(ledger, "b")).state == "REVOKED"
    await end(worker, "c")
    assert await ledger.cancel("c", NOW) == "SUCCESS"
    assert (await job(ledger, "c")).state == "SUCCESS"
    assert await ledger.cancel("none", NOW) is None


async def test_so_many_unfinished_jobs_and_no_more(ledger: Ledger, worker: _WorkerLedger) -> None:
    async def accept(job_id: str) -> str:
        return (await ledger.accept(record(job_id, owner="o"), {}, max_unfinished=2)).kind

    assert [await accept(job_id) for job_id in "abc"] == ["accepted", "accepted", "full"]
    await end(worker, "a")
    assert [await accept(job_id) for job_id in "cd"] == ["accepted", "full"]
    await ledger.withdraw("c")
    await ledger.cancel("b", NOW)
    assert [await accept(job_id) for job_id in "efg"] == ["accepted", "accepted", "full"]


async def test_withdrawn_it_never_was(ledger: Ledger, worker: _WorkerLedger) -> None:
    held = Reservation("name", "print")
    await ledger.accept(record("a", owner="o", tags=("x", "y")), {}, reservation=held)
    await ledger.withdraw("a", held)
    assert await keys(ledger) == set()
    await ledger.accept(record("b"), {}, reservation=held)
    await begin(worker, "b", "1")
    await ledger.withdraw("b", held)  # it was published after all
    assert (await job(ledger, "b")).state == "STARTED"


async def test_forgotten_and_remembered(ledger: Ledger, worker: _WorkerLedger) -> None:
    ledger._ttl = 0.01
    for number in range(5):
        await ledger.accept(record(f"j{number}", owner="o", tags=("x",)), {})
        await end(worker, f"j{number}")
    await ledger.accept(record("open", owner="o"), {})
    async with asyncio.timeout(10):
        forgotten = 0
        while forgotten < 5:
            forgotten += await ledger.sweep()
            await asyncio.sleep(0.01)
    assert await ledger.get("j3") == Gone("o")
    kept = await keys(ledger) - {f"pre.tcb:gone:j{number}" for number in range(5)}
    assert kept == {
        *("pre.tcb:job:open", "pre.tcb:open", "pre.tcb:index:all"),
        *("pre.tcb:index:owner:o", "pre.tcb:index:task:t", "pre.tcb:index:state:PENDING"),
    }


async def test_pages_of_many_at_one_moment(ledger: Ledger, worker: _WorkerLedger) -> None:
    await asyncio.gather(
        *(
            ledger.accept(record(f"j{number:03}", task="even" if number % 2 == 0 else "odd", owner="o"), {})
            for number in range(250)
        )
    )
    # Accepted in the same millisecond, or not: each is there once, in a falling order.
    seen: list[str] = []
    cursor = None
    while True:
        page = await ledger.find(limit=7, cursor=cursor)
        seen += [each.record.id for each in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(seen) == 250
    assert len(set(seen)) == 250
    odd = await ledger.find(owner="o", task="odd", state="PENDING", limit=200)
    assert len(odd.jobs) == 125
    assert (await ledger.find(owner="somebody else")).jobs == []
    with pytest.raises(ValueError, match="cursor"):
        await ledger.find(cursor="1")


async def test_a_page_looks_at_so_many_and_no_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_celery_bridge.ledger._ledger.LOOKS", 10)
    for number in range(30):
        await ledger.accept(record(f"j{number}", tags=("rare",) if number == 0 else ()), {})
    for number in range(30, 60):
        await ledger.accept(record(f"j{number}", task="u", tags=("rare", "x") if number == 59 else ("x",)), {})
    page = await ledger.find(task="t", tags=["x"], limit=5)  # nothing fits, and thirty might
    pages = 1
    while page.cursor is not None:
        assert page.jobs == []
        page = await ledger.find(task="t", tags=["x"], limit=5, cursor=page.cursor)
        pages += 1
    assert pages == 4


async def test_each_event_once_whatever_happens_to_the_connection(ledger: Ledger, worker: _WorkerLedger) -> None:
    await ledger.accept(record("a"), {})
    await begin(worker, "a", "1")
    seen = []

    def write() -> None:
        for number in range(600):
            worker.report("a", "progress", {"n": number})
        worker.finish("a", "SUCCESS", None)

    async def disturb() -> None:
        while True:
            await ledger._redis.client_kill_filter(_type="pubsub")
            await asyncio.sleep(0.02)

    disturbing = asyncio.ensure_future(disturb())
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    async with asyncio.timeout(60):
        with ledger.follow("a") as events:
            async for event in events:
                seen.append(event)
    disturbing.cancel()
    await writing
    assert [event.number for event in seen] == list(range(1, 603))
    assert [json.loads(event.data)["n"] for event in seen if event.kind == "progress"] == list(range(600))
    assert ledger.following == 0


async def test_a_consumer_that_falls_behind_misses_nothing(ledger: Ledger, worker: _WorkerLedger) -> None:
    await ledger.accept(record("a"), {})
    with ledger.follow("a") as events:
        await asyncio.to_thread(worker.start, "a", "t", "1", again=False, worker="w")
        assert (await anext(events)).kind == "state"  # it is subscribed
        await asyncio.to_thread(lambda: [worker.report("a", "log", {"n": n}) for n in range(900)])
        await end(worker, "a")
        assert len(events._events) <= 200
        assert [event.number async for event in events] == list(range(2, 903))


async def test_pace(ledger: Ledger, worker: _WorkerLedger) -> None:
    assert await ledger.pace("t") == (None, None)
    await ledger.accept(record("a"), {})
    await begin(worker, "a", "1")
    await end(worker, "a")
    waited, ran = await ledger.pace("t")
    assert waited is not None
    assert ran is not None
    assert 0 <= waited < 10
    assert 0 <= ran < 10


def test_settings_of_the_app(tmp_path: Path) -> None:
    app = Celery("x", backend="redis://127.0.0.1:1/0", set_as_current=False)
    assert ledger_backend(app).connparams["port"] == 1
    app.conf.job_ledger_url = "redis+socket:///nowhere/redis.sock?virtual_host=2"
    assert ledger_backend(app).connparams["path"] == "/nowhere/redis.sock"
    app.close()


def test_a_task_goes_back_into_its_queue_while_the_ledger_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_celery_bridge.ledger.worker.ATTEMPTS", 0)
    app = Celery("away", backend=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)

    @app.task(name="away.task", shared=False)
    def task() -> None: ...

    request = Context(id="a", retries=0, delivery_info={}, hostname="w@here")
    with pytest.raises(Reject) as caught:
        _begin(task, request, app)
    assert caught.value.requeue
    app.close()


# Blobs.


async def test_a_blob_goes_with_its_job_and_one_that_is_nobodys_goes(ledger: Ledger, worker: _WorkerLedger) -> None:
    given, returned, orphan = (Stored.new(size) for size in (1, 2, 3))
    await ledger.announce(given.name)
    await ledger.accept(record("a"), given)
    assert await ledger.input_of("a") == json.dumps(given.name).encode()
    await ledger.announce(orphan.name)
    assert await ledger.unclaimed() == []
    await begin(worker, "a", "token")
    await asyncio.to_thread(worker.announce, returned.name)
    await end(worker, "a", value=returned)
    ended = await job(ledger, "a")
    assert (ended.stored, ended.result) == (returned, None)
    assert await ledger._redis.zrange("pre.tcb:blobs", 0, -1) == [orphan.name.encode()]
    await ledger.disown(orphan.name)
    assert await ledger.unclaimed() == [orphan.name]
    await ledger._redis.zadd("pre.tcb:due", {"a": 0})
    assert await ledger.sweep() == 1
    assert set(await ledger.unclaimed()) == {given.name, returned.name, orphan.name}
    await ledger.removed([given.name, returned.name, orphan.name])
    assert await keys(ledger) == {"pre.tcb:gone:a", "pre.tcb:pace"}


async def test_a_job_that_is_withdrawn_takes_its_blobs_along(ledger: Ledger) -> None:
    first, second = Stored.new(1), Stored.new(1)
    await ledger.announce(first.name)
    await ledger.accept(record("a"), first)
    await ledger.announce(second.name)
    await ledger.claim("a", second.name)
    assert not await ledger._redis.exists("pre.tcb:blobs")
    await ledger.withdraw("a")
    assert set(await ledger.unclaimed()) == {first.name, second.name}


async def test_what_a_job_that_had_ended_returns_is_nobodys(ledger: Ledger, worker: _WorkerLedger) -> None:
    await ledger.accept(record("a"), {})
    await end(worker, "a")
    late = Stored.new(1)
    await asyncio.to_thread(worker.announce, late.name)
    await end(worker, "a", value=late)
    await ledger.claim("nothing", late.name)
    assert await ledger._redis.zrange("pre.tcb:blobs", 0, -1) == [late.name.encode()]
