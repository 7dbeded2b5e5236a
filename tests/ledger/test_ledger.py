"""The ledger's two sides against one Redis: what a job may become, and what is left of it."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Reject

from tests.ledger.records import NOW, accept, begin, end, job, keys, record
from tests.servers import free_port
from tornado_celery_bridge import Stored
from tornado_celery_bridge.ledger import Claim, Filter, Gone, Job, JobRecord, Ledger, Reservation, calls, ledger_backend
from tornado_celery_bridge.ledger.blocking import WorkerLedger
from tornado_celery_bridge.ledger.connection import BlockingConnection
from tornado_celery_bridge.ledger.events import MAX_BEHIND
from tornado_celery_bridge.ledger.records import Event
from tornado_celery_bridge.worker.attempt import Attempt


async def test_a_life(ledger: Ledger, worker: WorkerLedger) -> None:
    assert await ledger.jobs.get("a") is None
    assert (await accept(ledger, record("a", tags=("x",)), {"n": [1, None]})).kind == "accepted"
    assert await job(ledger, "a") == Job(record=record("a", tags=("x",)), queue_depth=1)
    assert await ledger.jobs.input_of("a") == b'{"n":[1,null]}'
    assert await begin(worker, "a", "1") == "go"
    assert await asyncio.to_thread(worker.report, "a", "1", "progress", {"current": 1}, "PROGRESS", {"c": 1}) == "go"
    running = await job(ledger, "a")
    assert (running.state, running.attempt, running.progress, running.worker) == ("PROGRESS", 1, {"c": 1}, "w@here")
    await end(worker, "a", value={"é": [1.5]})
    done = await job(ledger, "a")
    assert (done.state, done.done, done.result, done.number) == ("SUCCESS", True, {"é": [1.5]}, 3)
    assert all(key.startswith("pre.{tcb}") for key in await keys(ledger))


async def test_what_must_not_run(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    assert await begin(worker, "nobody's", "1") == "unknown"
    assert await begin(worker, "a", "1") == "go"
    assert await begin(worker, "a", "1") == "go"  # the same question, asked again as the answer was lost
    assert await begin(worker, "a", "2") == "duplicate"
    assert await begin(worker, "a", "3", replaced=1) == "duplicate"  # of one that was given up
    await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q", token="1"))
    assert await begin(worker, "a", "3", replaced=1) == "go"
    assert await begin(worker, "a", "4", replaced=1) == "duplicate"
    assert (await job(ledger, "a")).attempt == 2
    await end(worker, "a", "FAILURE", {"type": "E", "module": "m", "message": "no"})
    assert await begin(worker, "a", "4", replaced=1) == "FAILURE"
    await end(worker, "a", "SUCCESS")  # an attempt that was given up for dead
    assert (await job(ledger, "a")).state == "FAILURE"


async def test_a_retry_runs_again(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    error = {"type": "E", "module": "m", "message": "not yet"}

    async def ask_for_another(token: str) -> None:
        await asyncio.to_thread(lambda: worker.retry("a", token, error, publish=False))

    await begin(worker, "a", "1")
    await ask_for_another("1")
    assert (await job(ledger, "a")).error == error
    assert await begin(worker, "a", "copy") == "duplicate"
    assert await begin(worker, "a", "2", retries=1) == "go"
    again = await job(ledger, "a")
    assert (again.state, again.attempt, again.error) == ("STARTED", 2, None)
    # The next one's message comes to another worker before this one has said that there will be one.
    await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q", token="2", why=error))
    assert await begin(worker, "a", "0", retries=2, after="1") == "duplicate"  # by one that was given up
    assert await begin(worker, "a", "3", retries=2, after="2") == "go"
    await ask_for_another("2")
    assert (await job(ledger, "a")).state == "STARTED"
    assert await begin(worker, "a", "4", retries=2) == "duplicate"
    await end(worker, "a")
    with ledger.events.follow("a") as events:
        states = [json.loads(event.data) async for event in events if event.kind == "state"]
    assert [each["state"] for each in states] == ["STARTED", "RETRY", "STARTED", "RETRY", "STARTED"]
    assert [each["error"] for each in states if each["state"] == "RETRY"] == [error, error]
    assert not {key for key in await keys(ledger) if "retry:" in key}


@pytest.mark.parametrize("task", ["t", "u"])
async def test_a_task_in_place_of_another_runs_again(ledger: Ledger, worker: WorkerLedger, task: str) -> None:
    """Each message comes to another worker before the attempt that published it has told how it ended."""
    await accept(ledger, record("a"), {})
    error = {"type": "E", "module": "m", "message": "not yet"}
    await begin(worker, "a", "1")
    await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q", token="1"))
    assert await begin(worker, "a", "2", task=task, replaced=1, after="1") == "go"
    await asyncio.to_thread(worker.hand_on, "a", "1")
    await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q", token="2", why=error))
    assert await begin(worker, "a", "0", task=task, replaced=1, retries=1, after="1") == "duplicate"
    assert await begin(worker, "a", "3", task=task, replaced=1, retries=1, after="2") == "go"
    await asyncio.to_thread(lambda: worker.retry("a", "2", error, publish=False))
    assert await begin(worker, "a", "4", task=task, replaced=1, retries=1, after="2") == "duplicate"
    await end(worker, "a")
    with ledger.events.follow("a") as events:
        states = [json.loads(event.data)["state"] async for event in events if event.kind == "state"]
    assert states[-2:] == ["RETRY", "STARTED"]


def orders(number: int, begun: int = 0, told: int = 0, asked: int = 0) -> Iterator[list[tuple[str, int]]]:
    """Yield each order in which *number* tasks, each in place of the one before, can ask, begin and end."""
    if told == number:
        yield []
    for what, which, may in (
        ("begin", begun, begun < number and (not begun or asked >= begun)),
        ("ask", asked, asked < begun and asked < number - 1),
        ("end", told, told < begun and (told < asked or told == number - 1)),
    ):
        if may:
            counts = {"begin": (1, 0, 0), "end": (0, 1, 0), "ask": (0, 0, 1)}[what]
            for rest in orders(number, *(a + b for a, b in zip((begun, told, asked), counts, strict=True))):
                yield [(what, which), *rest]


@pytest.mark.parametrize("tasks", ["tuv", "ttt", "tut", "tuu"])
async def test_tasks_that_are_replaced_in_quick_turn(ledger: Ledger, worker: WorkerLedger, tasks: str) -> None:
    """Each begins at once, also if its message comes before those that it replaces have told that they have ended."""
    for number, order in enumerate(orders(len(tasks))):
        job_id = str(number)
        await accept(ledger, record(job_id), {})
        for what, which in order:
            token = str(which)
            if what == "begin":
                after = str(which - 1) if which else ""
                said = await begin(worker, job_id, token, task=tasks[which], replaced=which, after=after)
                assert said == "go", (order, which)
            elif what == "ask":
                await asyncio.to_thread(worker.keep, job_id, "{}", None, queue="q", token=token)
            elif which < len(tasks) - 1:
                await asyncio.to_thread(worker.hand_on, job_id, token)
            else:
                await asyncio.to_thread(worker.finish, job_id, "SUCCESS", 1, token)
        assert (await job(ledger, job_id)).state == "SUCCESS", order
    assert number > 3


@pytest.mark.parametrize("task", ["t", "u"])
async def test_a_copy_of_a_task_in_place_of_another(ledger: Ledger, worker: WorkerLedger, task: str) -> None:
    """It begins nothing while the job waits for the retry of that task."""
    await accept(ledger, record("a"), {})
    error = {"type": "E", "module": "m", "message": "not yet"}
    await begin(worker, "a", "1")
    await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q", token="1"))
    assert await begin(worker, "a", "2", task=task, replaced=1, after="1") == "go"
    await asyncio.to_thread(lambda: worker.keep("a", "{}", 8, queue="q", token="2", why=error))
    await asyncio.to_thread(lambda: worker.retry("a", "2", error, publish=False))
    assert await begin(worker, "a", "3", task=task, replaced=1, after="1") == "duplicate"
    assert (await job(ledger, "a")).state == "RETRY"


@pytest.mark.parametrize("replaced", [0, 1])
async def test_what_an_attempt_asks_for_that_was_given_up(ledger: Ledger, worker: WorkerLedger, replaced: int) -> None:
    """It begins nothing: else the ledger's own copy, which is of before, would be refused ever after."""
    await accept(ledger, record("a"), {})
    error = None if replaced else {"type": "E", "module": "m", "message": "not yet"}
    await begin(worker, "a", "1")
    await asyncio.to_thread(lambda: worker.give_back("a", "1", publish=True))
    await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q", token="1", why=error))
    more: dict[str, Any] = {"retries": 1 - replaced, "replaced": replaced}
    assert await begin(worker, "a", "2", after="1", **more) == "duplicate"
    assert await begin(worker, "a", "3") == "go"


async def test_cancelling(ledger: Ledger, worker: WorkerLedger) -> None:
    for job_id in ("a", "b", "c"):
        await accept(ledger, record(job_id), {})
    assert await ledger.jobs.cancel("a") == "PENDING"
    assert (await job(ledger, "a")).state == "REVOKED"
    assert await begin(worker, "a", "1") == "REVOKED"
    await begin(worker, "b", "1")
    assert await ledger.jobs.cancel("b", unless_begun=True) == "STARTED"
    assert await asyncio.to_thread(worker.report, "b", "1", "log", {}) == "go"
    assert await ledger.jobs.cancel("b") == "STARTED"
    assert await asyncio.to_thread(worker.report, "b", "1", "log", {}) == "cancelled"
    assert await begin(worker, "b", "2", replaced=1) == "REVOKED"  # its worker died before it could be told
    assert (await job(ledger, "b")).state == "REVOKED"
    await end(worker, "c")
    assert await ledger.jobs.cancel("c") == "SUCCESS"
    assert (await job(ledger, "c")).state == "SUCCESS"
    assert await ledger.jobs.cancel("none") is None


async def test_so_many_unfinished_jobs_and_no_more(ledger: Ledger, worker: WorkerLedger) -> None:
    async def ask(job_id: str) -> str:
        return (await accept(ledger, record(job_id, owner="o"), {}, max_unfinished=2)).kind

    assert [await ask(job_id) for job_id in "abc"] == ["accepted", "accepted", "full"]
    await end(worker, "a")
    assert [await ask(job_id) for job_id in "cd"] == ["accepted", "full"]
    await ledger.jobs.withdraw("c")
    await ledger.jobs.cancel("b")
    assert [await ask(job_id) for job_id in "efg"] == ["accepted", "accepted", "full"]


async def test_a_run_of_a_schedule_is_none_of_an_owners_unfinished_jobs(ledger: Ledger, worker: WorkerLedger) -> None:
    for job_id in "rs":  # a run has a bound of its own
        assert (await accept(ledger, replace(record(job_id, owner="o"), schedule="e"), {})).kind == "accepted"
    asked = [await accept(ledger, record(job_id, owner="o"), {}, max_unfinished=1) for job_id in "ab"]
    assert [each.kind for each in asked] == ["accepted", "full"]
    await end(worker, "r")
    assert (await accept(ledger, record("c", owner="o"), {}, max_unfinished=1)).kind == "full"


async def test_withdrawn_it_never_was(ledger: Ledger, worker: WorkerLedger) -> None:
    held = Reservation("name", "print")
    await accept(ledger, record("a", owner="o", tags=("x", "y")), {}, reservation=held)
    await ledger.jobs.withdraw("a", held)
    await asyncio.to_thread(worker.reconcile, "me", 0.001, 9, [])
    assert await keys(ledger) <= {"pre.{tcb}leader"}
    await accept(ledger, record("b"), {}, reservation=held)
    await begin(worker, "b", "1")
    await ledger.jobs.withdraw("b", held)  # it was published after all
    assert (await job(ledger, "b")).state == "STARTED"


async def test_forgotten_and_remembered(ledger: Ledger, worker: WorkerLedger) -> None:
    ledger.jobs.ttl = 0.01
    for number in range(5):
        await accept(ledger, record(f"j{number}", owner="o", tags=("x",)), {})
        await end(worker, f"j{number}")
    await accept(ledger, record("open", owner="o"), {})
    async with asyncio.timeout(10):
        forgotten = 0
        while forgotten < 5:
            forgotten += await ledger.jobs.sweep()
            await asyncio.sleep(0.01)
    assert await ledger.jobs.get("j3") == Gone("o")
    kept = await keys(ledger) - {f"pre.{{tcb}}gone:j{number}" for number in range(5)}
    assert kept == {
        *("pre.{tcb}job:open", "pre.{tcb}input:open", "pre.{tcb}open", "pre.{tcb}index:all"),
        *("pre.{tcb}message:open", "pre.{tcb}reached", "pre.{tcb}queued:q:"),
        *("pre.{tcb}index:owner:o", "pre.{tcb}index:task:t", "pre.{tcb}index:state:PENDING"),
    }


async def test_a_record_comes_back_as_it_was(ledger: Ledger) -> None:
    full = JobRecord(
        id=str(uuid.uuid4()),
        task="é",
        owner="o",
        queue="q",
        created_at=NOW,
        priority=0,
        eta=NOW + 1,
        tags=["x", "☃"],
        options={"countdown": 1.5},
        retry_of="r",
        workflow=None,
    )
    await accept(ledger, full, [])
    assert await job(ledger, full.id) == Job(record=full, queue_depth=1)
    assert (await ledger.jobs.find(Filter(tags=("☃",)))).jobs == [Job(record=full, brief="[]")]


async def test_a_finished_job_takes_a_kilobyte(ledger: Ledger, worker: WorkerLedger) -> None:
    given, result = {"text": "x" * 200}, "y" * 200
    payload = len(json.dumps(given)) + len(json.dumps(result))

    async def run(count: int) -> None:
        records = [record(str(uuid.uuid4()), task="a.task", owner="o", tags=("x",)) for _ in range(count)]
        await asyncio.gather(*(accept(ledger, each, given) for each in records))
        await asyncio.to_thread(_run, [each.id for each in records])

    def _run(ids: list[str]) -> None:
        for each in ids:
            worker.start(each, "a.task", each, worker="celery@a-host")
            worker.finish(each, "SUCCESS", result, each)
            worker._sure.client.delete(f"pre.{{tcb}}events:{each}")  # as an hour later

    async def used() -> int:
        """Not the server's used_memory: other tests' keys expire meanwhile, and its table of keys grows in steps."""
        client = ledger.redis.client
        return sum([await client.memory_usage(key, samples=0) or 0 async for key in client.scan_iter(count=1_000)])

    await run(200)
    before = await used()
    await run(1_000)
    assert (await used() - before) / 1_000 - payload < 1_024


async def test_a_traceback_is_bounded_and_goes_with_its_job(ledger: Ledger, worker: WorkerLedger) -> None:
    error = {"type": "E", "module": "m", "message": "no"}
    for job_id, state, traceback in (("a", "FAILURE", "é" * 50_000 + "\ud800 raised here"), ("b", "REVOKED", "none")):
        await accept(ledger, record(job_id), {})
        await begin(worker, job_id, "1")
        await asyncio.to_thread(worker.finish, job_id, state, error, "1", traceback=traceback)
    kept = (await job(ledger, "a")).traceback or ""
    assert kept.startswith("…é")
    assert kept.endswith("é\\ud800 raised here")
    assert 16_384 - 2 <= len(kept.encode()) <= 16_384 + 3
    assert (await job(ledger, "b")).traceback is None
    assert [key async for key in ledger.redis.client.scan_iter("*traceback*")] == [b"pre.{tcb}traceback:a"]
    await ledger.redis.client.zadd("pre.{tcb}due", {"=a": 0})
    assert await ledger.jobs.sweep() == 1
    assert [key async for key in ledger.redis.client.scan_iter("*traceback*")] == []


async def test_pages_of_many_at_one_moment(ledger: Ledger, worker: WorkerLedger) -> None:
    await asyncio.gather(
        *(
            accept(
                ledger,
                record(
                    str(uuid.uuid4()) if number % 3 else f"j{number:03}",
                    task="even" if number % 2 == 0 else "odd",
                    owner="o",
                ),
                {},
            )
            for number in range(250)
        )
    )
    # Accepted in the same millisecond, or not: each is there once, in a falling order.
    seen: list[str] = []
    cursor = None
    while True:
        page = await ledger.jobs.find(limit=7, cursor=cursor)
        seen += [each.record.id for each in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(seen) == 250
    assert len(set(seen)) == 250
    odd = await ledger.jobs.find(Filter(owner="o", task="odd", state="PENDING"), limit=200)
    assert len(odd.jobs) == 125
    assert (await ledger.jobs.find(Filter(owner="somebody else"))).jobs == []
    with pytest.raises(ValueError, match="cursor"):
        await ledger.jobs.find(cursor="1")


async def test_a_page_looks_at_so_many_and_no_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_celery_bridge.ledger.jobs.LOOKS", 10)
    for number in range(30):
        await accept(ledger, record(f"j{number}", tags=("rare",) if number == 0 else ()), {})
    for number in range(30, 60):
        await accept(ledger, record(f"j{number}", task="u", tags=("rare", "x") if number == 59 else ("x",)), {})
    both = Filter(task="t", tags=("x",))
    page = await ledger.jobs.find(both, limit=5)  # nothing fits, and thirty might
    pages = 1
    while page.cursor is not None:
        assert page.jobs == []
        page = await ledger.jobs.find(both, limit=5, cursor=page.cursor)
        pages += 1
    assert pages == 4


async def test_each_event_once_whatever_happens_to_the_connection(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    seen = []

    def write() -> None:
        for number in range(600):
            worker.report("a", "1", "progress", {"n": number})
        worker.finish("a", "SUCCESS", None, "1")

    async def disturb() -> None:
        while True:
            await ledger.redis.client.client_kill_filter(_type="pubsub")
            await asyncio.sleep(0.02)

    disturbing = asyncio.ensure_future(disturb())
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    async with asyncio.timeout(60):
        with ledger.events.follow("a") as events:
            async for event in events:
                seen.append(event)
    disturbing.cancel()
    await writing
    assert [event.number for event in seen] == list(range(1, 603))
    assert [json.loads(event.data)["n"] for event in seen if event.kind == "progress"] == list(range(600))
    assert ledger.events.following == 0


async def test_what_comes_while_a_long_history_is_read_is_not_skipped(
    ledger: Ledger, worker: WorkerLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history fills the follower but for one event, and three come before it has been taken."""
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    begun = len((await ledger.events.read("a", 0))[0])
    most = MAX_BEHIND - 1
    await asyncio.to_thread(lambda: [worker.report("a", "1", "log", {"n": n}) for n in range(most - begun)])
    read, follower = ledger.events.read, ledger.events.follow("a")

    async def read_slowly(job_id: str, after: int) -> tuple[list[Event], bool]:
        found = await read(job_id, after)
        if not after:
            await asyncio.to_thread(lambda: [worker.report("a", "1", "log", {"n": n}) for n in range(3)])
            async with asyncio.timeout(10):
                while len(follower._aside) < 3:
                    await asyncio.sleep(0.01)
            await end(worker, "a")
        return found

    monkeypatch.setattr(ledger.events, "read", read_slowly)
    with follower:
        async with asyncio.timeout(10):
            assert [event.number async for event in follower] == list(range(1, most + 5))


async def test_a_consumer_that_falls_behind_misses_nothing(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    with ledger.events.follow("a") as events:
        await asyncio.to_thread(worker.start, "a", "t", "1", worker="w")
        assert (await anext(events)).kind == "state"  # it is subscribed
        await asyncio.to_thread(lambda: [worker.report("a", "1", "log", {"n": n}) for n in range(900)])
        await end(worker, "a")
        assert len(events._events) <= 200
        assert [event.number async for event in events] == list(range(2, 903))


async def test_pace(ledger: Ledger, worker: WorkerLedger) -> None:
    assert await ledger.jobs.pace("t", "q") == (None, None)
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    await end(worker, "a")
    waited, ran = await ledger.jobs.pace("t", "q")
    assert waited is not None
    assert ran is not None
    assert 0 <= waited < 10
    assert 0 <= ran < 10
    assert await ledger.jobs.pace("t", "other") == (None, None)


def test_settings_of_the_app(tmp_path: Path) -> None:
    app = Celery("x", backend="redis://127.0.0.1:1/0", set_as_current=False)
    assert ledger_backend(app).connparams["port"] == 1  # type: ignore[attr-defined]
    app.conf.job_ledger_url = "redis+socket:///nowhere/redis.sock?virtual_host=2"
    assert ledger_backend(app).connparams["path"] == "/nowhere/redis.sock"  # type: ignore[attr-defined]
    app.close()


def test_a_task_goes_back_into_its_queue_while_the_ledger_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_celery_bridge.ledger.blocking.ATTEMPTS", 0)
    app = Celery("away", backend=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)

    @app.task(name="away.task", shared=False)
    def task() -> None: ...

    request = Context(id="a", retries=0, delivery_info={}, hostname="w@here")
    with pytest.raises(Reject) as caught:
        Attempt.of(app, request).begin(task, request)
    assert caught.value.requeue  # type: ignore[attr-defined]
    app.close()


# Callbacks.


async def claim(ledger: Ledger, lease: float = 60.0, **under_way: int) -> list[Claim]:
    return await ledger.callbacks.claim(10, owner_share=9, share=3, lease=lease, under_way=under_way)


async def cancelled(ledger: Ledger, job_id: str, url: str) -> None:
    """Have a job that calls back end before its start."""
    await accept(ledger, record(job_id, callback_url=url), {})
    await ledger.jobs.cancel(job_id)


async def test_the_step_that_ends_a_job_queues_its_callback(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a", callback_url="https://X.test:1/y"), {})
    await begin(worker, "a", "t1")
    assert (await claim(ledger), await ledger.callbacks.delivery("a")) == ([], None)
    await end(worker, "a")
    [found] = await claim(ledger)
    assert (found.job_id, found.receiver, found.tries) == ("a", "/x.test:1", 0)
    told = await ledger.callbacks.delivery("a")
    assert told is not None
    assert (told.id, told.state, told.attempts) == (found.id, "waiting", [])
    assert await claim(ledger) == []
    await end(worker, "a")  # it has ended, and ends no more
    await ledger.callbacks.record_attempt(found, {"status": 200}, "delivered")
    assert await ledger.callbacks.delivery("a") == (found.id, "delivered", [{"status": 200}], None)
    assert await claim(ledger) == []


async def test_a_claim_that_is_not_settled_lapses(ledger: Ledger) -> None:
    await cancelled(ledger, "a", "https://x.test/")
    [late] = await claim(ledger, lease=0.05)
    found: list[Claim] = []
    async with asyncio.timeout(5):
        while not found:
            found = await claim(ledger)
    assert (found[0].id, found[0].lease) != (late.id, late.lease)
    await ledger.callbacks.record_attempt(late, {"status": 410}, "failed")
    told = await ledger.callbacks.delivery("a")
    assert told is not None
    assert (told.state, told.attempts) == ("waiting", [{"status": 410}])
    await ledger.callbacks.record_attempt(found[0], {"status": 500}, "waiting", 0.0)
    assert [each.tries for each in await claim(ledger)] == [1]


async def test_a_callback_whose_job_was_deleted_by_hand_is_dropped(ledger: Ledger) -> None:
    await cancelled(ledger, "a", "https://x.test/")
    await cancelled(ledger, "b", "https://x.test/")
    await ledger.redis.call("DEL", "pre.{tcb}job:a")
    assert [each.job_id for each in await claim(ledger)] == ["b"]
    assert await ledger.redis.call("ZRANGE", "pre.{tcb}callbacks:/x.test", 0, -1) == [b"b"]


async def test_no_receiver_takes_all_and_nobody_waits_behind_it(ledger: Ledger) -> None:
    for number in range(8):
        await cancelled(ledger, f"slow{number}", "https://slow.test/")
    await cancelled(ledger, "fast0", "https://fast.test/")
    await cancelled(ledger, "fast1", "https://fast.test/")
    assert [each.job_id for each in await claim(ledger)] == ["slow0", "slow1", "slow2", "fast0", "fast1"]
    assert await claim(ledger, **{"/slow.test": 3}) == []
    assert [each.job_id for each in await claim(ledger, **{"/slow.test": 2})] == ["slow3"]
    # One place is free, and it goes to the receiver that has fewer.
    await cancelled(ledger, "fast2", "https://fast.test/")
    under_way = {"/slow.test": 2, "/fast.test": 1}
    [found] = await ledger.callbacks.claim(1, owner_share=9, share=3, lease=60, under_way=under_way)
    assert found.job_id == "fast2"


async def test_no_owner_takes_all_with_many_receivers(ledger: Ledger) -> None:
    async def ended(job_id: str, owner: str, url: str) -> None:
        await accept(ledger, record(job_id, owner=owner, callback_url=url), {})
        await ledger.jobs.cancel(job_id)

    for number in range(300):  # more than a claim looks at
        await ended(f"bob{number}", "bob", f"https://hangs{number}.test/")
    await ended("alice0", "alice", "https://alice.test/")
    found = await ledger.callbacks.claim(20, owner_share=4, share=3, lease=60, under_way={})
    assert sorted(each.receiver.partition("/")[0] for each in found) == ["alice", *["bob"] * 4]
    await ended("alice1", "alice", "https://alice.test/")
    full = {f"bob/hangs{number}.test": 1 for number in range(4)}
    [found_one] = await ledger.callbacks.claim(20, owner_share=4, share=3, lease=60, under_way=full)
    assert found_one.job_id == "alice1"
    # One place is free, and it goes to the owner who has fewer.
    await ended("alice2", "alice", "https://alice.test/")
    [found_one] = await ledger.callbacks.claim(1, owner_share=4, share=3, lease=60, under_way={"bob/x.test": 1})
    assert found_one.job_id == "alice2"


async def test_few_attempts_are_kept_and_none_longer_than_the_job(
    ledger: Ledger,
) -> None:
    ledger.jobs.ttl = 0.0
    await cancelled(ledger, "a", "https://x.test/")
    for number in range(25):
        [found] = await claim(ledger)
        await ledger.callbacks.record_attempt(found, {"status": number}, "waiting", 0.0)
    told = await ledger.callbacks.delivery("a")
    assert told is not None
    assert [each["status"] for each in told.attempts] == [*range(5, 25)]
    [found] = await claim(ledger)
    assert await ledger.jobs.sweep() == 1
    await ledger.callbacks.record_attempt(found, {"status": 200}, "delivered")  # which nobody asks for any more
    await ledger.callbacks.replay("a")
    assert await ledger.callbacks.delivery("a") is None
    assert await keys(ledger) == {"pre.{tcb}gone:a"}


async def test_a_job_without_a_callback_costs_nothing_for_it(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "t1")
    await end(worker, "a")
    kept = {field.decode() for field in await ledger.redis.call("HKEYS", "pre.{tcb}job:a")}
    assert kept == {
        *("owner", "task", "queue", "created_at", "state"),
        *("attempt", "started_at", "finished_at", "worker", "number"),
    }
    kinds = {key.removeprefix("pre.{tcb}").partition(":")[0] for key in await keys(ledger)}
    assert kinds == {"job", "input", "value", "events", "index", "due"}


# Blobs.


async def test_a_blob_goes_with_its_job_and_one_that_is_nobodys_goes(ledger: Ledger, worker: WorkerLedger) -> None:
    given, returned, orphan = (Stored.new(size) for size in (1, 2, 3))
    await ledger.blobs.announce(given.name)
    await accept(ledger, record("a"), given)
    assert await ledger.jobs.input_of("a") == json.dumps(given.name).encode()
    await ledger.blobs.announce(orphan.name)
    assert await ledger.blobs.orphans() == []
    await begin(worker, "a", "token")
    await asyncio.to_thread(worker.announce, returned.name)
    await end(worker, "a", value=returned)
    ended = await job(ledger, "a")
    assert (ended.stored, ended.result) == (returned, None)
    assert await ledger.redis.client.zrange("pre.{tcb}blobs", 0, -1) == [orphan.name.encode()]
    await ledger.blobs.disown(orphan.name)
    assert await ledger.blobs.orphans() == [orphan.name]
    await ledger.redis.client.zadd("pre.{tcb}due", {"=a": 0})
    assert await ledger.jobs.sweep() == 1
    assert set(await ledger.blobs.orphans()) == {given.name, returned.name, orphan.name}
    await ledger.blobs.removed([given.name, returned.name, orphan.name])
    assert await keys(ledger) == {"pre.{tcb}gone:a"}


async def test_a_job_that_is_withdrawn_takes_its_blobs_along(ledger: Ledger) -> None:
    first, second = Stored.new(1), Stored.new(1)
    await ledger.blobs.announce(first.name)
    await accept(ledger, record("a"), first)
    await ledger.blobs.announce(second.name)
    await ledger.blobs.adopt("a", second.name)
    assert not await ledger.redis.client.exists("pre.{tcb}blobs")
    await ledger.jobs.withdraw("a")
    assert set(await ledger.blobs.orphans()) == {first.name, second.name}


async def test_what_a_job_that_had_ended_returns_is_nobodys(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await end(worker, "a")
    late = Stored.new(1)
    await asyncio.to_thread(worker.announce, late.name)
    await end(worker, "a", value=late)
    await ledger.blobs.adopt("nothing", late.name)
    assert await ledger.redis.client.zrange("pre.{tcb}blobs", 0, -1) == [late.name.encode()]


async def test_a_checkpoint_is_the_attempts_that_is_under_way(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})

    async def save(token: str, value: str) -> str:
        return await asyncio.to_thread(worker.save_checkpoint, "a", token, "t", value)

    assert await save("1", "{}") == "late", "it has not begun"
    await begin(worker, "a", "1")
    assert await save("1", '{"n":1}') == "saved"
    await asyncio.to_thread(lambda: worker.give_back("a", "1", publish=True))
    assert await save("1", '{"n":2}') == "late"
    await begin(worker, "a", "2")
    assert await save("1", '{"n":3}') == "late", "of a worker that was frozen, say"
    shown = (await job(ledger, "a")).checkpoint
    assert shown is not None
    assert (shown.value, shown.attempt) == ({"n": 1}, 1)
    assert await asyncio.to_thread(worker.checkpoint, "a", "t") == '{"n":1}'
    assert await asyncio.to_thread(worker.checkpoint, "a", "t/1") is None, "of the task that takes its place"
    await ledger.jobs.cancel("a")
    assert await save("2", '{"n":4}') == "cancelled"
    await end(worker, "a", "REVOKED", {"type": "E", "module": "m", "message": "no"})
    assert await save("2", '{"n":5}') == "late"

    await accept(ledger, record("b"), {}, goes_on="a")
    assert await asyncio.to_thread(worker.checkpoint, "b", "t") == '{"n":4}'
    await begin(worker, "b", "1")
    await end(worker, "b")
    assert (await job(ledger, "b")).checkpoint is None
    assert "pre.{tcb}checkpoint:b" not in await keys(ledger)


async def test_what_can_not_be_encoded_fails_alone(app: Celery, ledger: Ledger) -> None:
    """Calls share a round trip, of the loop's side and of the blocking one."""
    half = "\ud800"
    answers = await asyncio.gather(*(ledger.jobs.get(job_id) for job_id in ("a", half, "b")), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), UnicodeEncodeError, type(None)]
    commands = [calls.read(job_id=job_id) for job_id in ("a", half, "b")]
    blocking = await asyncio.to_thread(lambda: BlockingConnection(app).run_all(commands))
    assert [type(answer) for answer in blocking] == [type(None), UnicodeEncodeError, type(None)]
