"""What the ledger finds lost, holds up and gives out, against one Redis. Its clock is moved by moving what it wrote."""

import asyncio
import json
import time
from typing import Any

from tests.ledger.records import NOW, accept, begin, end, job, record
from tornado_celery_bridge.ledger import Filter, JobRecord, Ledger, Step, WorkflowRecord
from tornado_celery_bridge.ledger.blocking import Limit, WorkerLedger
from tornado_celery_bridge.ledger.calls import Cancelled


async def reconcile(worker: WorkerLedger, *empty: str, me: str = "me") -> tuple[list[str], set[str]]:
    found, suspects = await asyncio.to_thread(worker.reconcile, me, 60.0, 100, list(empty))
    assert all(json.loads(message)["options"]["task_id"] == job_id for job_id, message in found)
    return [job_id for job_id, _ in found], suspects


async def take(worker: WorkerLedger, me: str = "me") -> tuple[float | None, list[str]]:
    pause, found = await asyncio.to_thread(worker.take, me, 100)
    return pause, [job_id for job_id, _ in found]


async def age(ledger: Ledger, name: str, job_id: str, seconds: float) -> None:
    """Have what is written of a job in a sorted set (see pack() in lua/parts/job.lua) be older by so many seconds."""
    await ledger.redis.call("ZINCRBY", f"{ledger.redis.prefix}{name}", -seconds * 1000, f"={job_id}")


async def lease(worker: WorkerLedger, running: list[str], gone: list[str], name: str = "w@here") -> Cancelled:
    """Renew and end leases of attempts, each as ``id:token``."""

    def pairs(attempts: list[str]) -> list[tuple[str, str]]:
        return [(each.partition(":")[0], each.partition(":")[2]) for each in attempts]

    return await asyncio.to_thread(worker.lease, name, pairs(running), pairs(gone))


async def test_a_job_whose_worker_is_gone_runs_again(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    assert await reconcile(worker) == ([], set())
    await age(ledger, "held", "a", 11)
    await lease(worker, ["a:1"], [])
    assert await reconcile(worker) == ([], set())  # it is held again
    await age(ledger, "held", "a", 11)
    await lease(worker, ["a:another"], [])
    assert await reconcile(worker) == (["a"], set())
    waiting = await job(ledger, "a")
    assert (waiting.state, waiting.attempt, waiting.started_at) == ("PENDING", 1, None)
    assert await reconcile(worker) == ([], set())
    assert await begin(worker, "a", "2") == "go"
    assert (await job(ledger, "a")).attempt == 2


async def test_a_copy_waits_for_the_lease(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    assert await begin(worker, "a", "2") == "duplicate"
    await age(ledger, "held", "a", 11)
    assert await begin(worker, "a", "3") == "go"


async def test_what_a_worker_does_not_run_any_more_is_let_go_of(ledger: Ledger, worker: WorkerLedger) -> None:
    for job_id in "abc":
        await accept(ledger, record(job_id), {})
        await begin(worker, job_id, job_id)
    await end(worker, "b")
    await lease(worker, ["c:c"], ["a:a", "b:b"])
    assert await reconcile(worker) == (["a"], set())
    assert (await job(ledger, "b")).state == "SUCCESS"


async def test_given_up_after_three_lost_attempts(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a", owner="o"), {"n": 1})
    for attempt in range(3):
        assert (await job(ledger, "a")).state == "PENDING"
        assert await begin(worker, "a", str(attempt)) == "go"
        await age(ledger, "held", "a", 11)
        await reconcile(worker)
    dead = await job(ledger, "a")
    assert dead.state == "FAILURE"
    assert dead.error is not None
    assert "3 workers were lost" in dead.error["message"]
    assert [each.record.id for each in (await ledger.jobs.find(Filter(dead=True, owner="o"))).jobs] == ["a"]
    assert await ledger.jobs.input_of("a") == b'{"n":1}'
    assert await begin(worker, "a", "late") == "FAILURE"


async def test_a_zombie_may_have_succeeded_but_not_failed(ledger: Ledger, worker: WorkerLedger) -> None:
    error = {"type": "E", "module": "m", "message": "no"}
    for job_id in "ab":
        await accept(ledger, record(job_id), {})
        await begin(worker, job_id, "1")
        await age(ledger, "held", job_id, 11)
    await reconcile(worker)
    await asyncio.to_thread(worker.finish, "a", "FAILURE", error, "1")
    await begin(worker, "a", "2")
    await asyncio.to_thread(worker.finish, "a", "FAILURE", error, "1")
    assert (await job(ledger, "a")).state == "STARTED"
    await asyncio.to_thread(worker.finish, "a", "FAILURE", error, "2")
    assert (await job(ledger, "a")).state == "FAILURE"
    await asyncio.to_thread(worker.finish, "b", "SUCCESS", 7, "1")
    assert (await job(ledger, "b")).result == 7


async def test_what_a_task_was_replaced_by_may_fail(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q", token="1"))
    assert await begin(worker, "a", "2", task="another") == "go"
    await asyncio.to_thread(worker.finish, "a", "FAILURE", {"type": "E", "module": "m", "message": "no"}, "2")
    assert (await job(ledger, "a")).state == "FAILURE"


async def test_a_zombie_says_nothing_but_the_end(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    await age(ledger, "held", "a", 11)
    await reconcile(worker)
    await asyncio.to_thread(worker.report, "a", "1", "progress", {"current": 1}, "PROGRESS", {"current": 1})
    assert (await job(ledger, "a")).state == "PENDING"
    await end(worker, "a", value=7)
    assert await begin(worker, "a", "2") == "SUCCESS"


async def test_a_message_that_others_overtook_is_published_again(ledger: Ledger, worker: WorkerLedger) -> None:
    for job_id in ("lost", "same", "other", "urgent"):
        queue = "other" if job_id == "other" else "q"
        priority = 9 if job_id == "urgent" else None
        await accept(ledger, JobRecord(**_fields(job_id), queue=queue, priority=priority), {})
    for name in ("queued:q:", "queued:other:", "queued:q:9"):
        for job_id in ("lost", "same", "other", "urgent"):
            await ledger.redis.call("ZADD", f"{ledger.redis.prefix}{name}", "XX", 1, f"={job_id}")
    assert await reconcile(worker) == ([], {"q", "other"})  # long waits are no reason
    await accept(ledger, record("late"), {})
    await ledger.redis.call("HSET", f"{ledger.redis.prefix}job:same", "due", 8_000)
    await begin(worker, "same", "1")
    assert await reconcile(worker) == ([], {"q", "other"})  # what came at the same time is none
    await ledger.redis.call("HSET", f"{ledger.redis.prefix}job:late", "due", 9_000)
    await begin(worker, "late", "2")
    await ledger.redis.call("HSET", f"{ledger.redis.prefix}reached", "q:", 9_001)
    assert await reconcile(worker) == (["lost"], {"q", "other"})
    assert await reconcile(worker) == ([], {"q", "other"})
    assert await reconcile(worker, "other") == (["other"], {"q"})
    assert await reconcile(worker, "q") == (["urgent"], set())


async def test_what_begins_out_of_turn_overtakes_nobody(ledger: Ledger, worker: WorkerLedger) -> None:
    """A job whose worker was lost has two messages, one at the head of its queue; a delayed one is at a worker."""
    for job_id, delay in (("first", 0.0), ("patient", 0.0), ("delayed", 0.001)):
        await accept(ledger, record(job_id), {}, delay=delay)
    await begin(worker, "first", "1")
    for name in ("held", "queued:q:"):  # so is the backlog
        for job_id in ("first", "patient"):
            await ledger.redis.call("ZADD", f"{ledger.redis.prefix}{name}", "XX", 1, f"={job_id}")
    await ledger.redis.call("HSET", f"{ledger.redis.prefix}reached", "q:", 1)
    assert await reconcile(worker) == (["first"], {"q"})
    assert await begin(worker, "first", "2") == "go"
    assert await begin(worker, "delayed", "1") == "go"
    assert await reconcile(worker) == ([], {"q"})
    await accept(ledger, record("late"), {})
    assert await begin(worker, "late", "1") == "go"
    assert await reconcile(worker) == (["patient"], set())


def _fields(job_id: str) -> dict[str, Any]:
    return {"id": job_id, "task": "t", "owner": "", "created_at": NOW}


async def test_one_of_all_looks(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    await reconcile(worker, me="one")
    await age(ledger, "held", "a", 11)
    assert await reconcile(worker, me="other") == ([], set())
    assert await reconcile(worker, me="one") == (["a"], set())


async def test_a_retry_is_kept_until_it_is_due(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    message = json.dumps({"task": "t", "options": {"task_id": "a", "retries": 1}})
    await asyncio.to_thread(lambda: worker.keep("a", message, 60, queue="q"))
    error = {"type": "E", "module": "m", "message": "not yet"}
    await asyncio.to_thread(lambda: worker.retry("a", "1", error, publish=False))
    await age(ledger, "held", "a", 11)
    assert await reconcile(worker, "q") == ([], set())
    await age(ledger, "queued:q:", "a", 70)
    found, _ = await asyncio.to_thread(worker.reconcile, "me", 60.0, 100, ["q"])
    assert found == [("a", message)]
    assert (await job(ledger, "a")).state == "RETRY"


async def copies(ledger: Ledger, worker: WorkerLedger, many: int, apart: float = 11) -> None:
    """Have a job's message be lost so many times, so many seconds apart."""
    for _ in range(many):
        await age(ledger, "queued:q:", "a", apart)
        assert await reconcile(worker, "q") == (["a"], set())


async def test_a_message_that_leads_nowhere(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await copies(ledger, worker, 10)
    await age(ledger, "queued:q:", "a", 11)
    assert await reconcile(worker, "q") == ([], set())
    given_up = await job(ledger, "a")
    assert given_up.error is not None
    assert (given_up.state, given_up.error["kind"]) == ("FAILURE", "undelivered")
    assert "published 10 times more" in given_up.error["message"]
    assert await asyncio.to_thread(worker.doubted) == set()


async def test_a_message_that_somebody_has_leads_somewhere(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    for _ in range(3):  # a worker that is busy
        await copies(ledger, worker, 5)
        assert await asyncio.to_thread(worker.doubted) == set()
        await copies(ledger, worker, 5)
        assert await asyncio.to_thread(worker.doubted) == {"a"}
        await asyncio.to_thread(worker.in_hand, ["a"])
        assert await asyncio.to_thread(worker.doubted) == set()
    await copies(ledger, worker, 12, apart=70)  # a broker that lost its messages again and again
    await copies(ledger, worker, 9)
    assert await begin(worker, "a", "1") == "go"
    assert await asyncio.to_thread(worker.doubted) == set()
    error = {"type": "E", "module": "m", "message": "not yet"}
    await asyncio.to_thread(lambda: worker.retry("a", "1", error, publish=False))
    await copies(ledger, worker, 10)
    await ledger.jobs.cancel("a")
    assert await asyncio.to_thread(worker.doubted) == set()


async def test_a_workflow_that_was_never_published(ledger: Ledger, worker: WorkerLedger) -> None:
    steps = [
        Step(JobRecord(**_fields(name), queue="q", workflow="w"), {}, delay, before)
        for name, delay, before in (("a", 0.0, "0"), ("b", None, None))
    ]
    workflow = WorkflowRecord(id="w", owner="", tags=[], created_at=NOW, tree={"chain": ["a", "b"]})
    await ledger.workflows.accept(workflow, steps, {"0": ["b"]}, message={"all": "of it"})
    await age(ledger, "queued:q:", "a", 11)
    found, _ = await asyncio.to_thread(worker.reconcile, "me", 60.0, 100, ["q"])
    assert found == [("a", '{"all": "of it"}')]
    await begin(worker, "a", "1")
    await end(worker, "a")
    # As the worker does before it publishes it.
    await asyncio.to_thread(lambda: worker.keep("b", '{"b": 1}', None, queue="q"))
    await age(ledger, "queued:q:", "b", 11)
    found, _ = await asyncio.to_thread(worker.reconcile, "me", 60.0, 100, ["q"])
    assert found == [("b", '{"b": 1}')]
    await begin(worker, "b", "2")
    await end(worker, "b")
    assert not [key async for key in ledger.redis.client.scan_iter("*message*")]


async def test_the_outbox(ledger: Ledger, worker: WorkerLedger) -> None:
    for job_id in "zab":
        await accept(ledger, record(job_id), {})
        assert await ledger.jobs.defer(job_id, 3)
    await accept(ledger, record("d"), {})
    assert not await ledger.jobs.defer("d", 3)
    await accept(ledger, record("e"), {})
    await ledger.jobs.cancel("a")
    assert await take(worker) == (None, [])  # nobody leads yet
    await reconcile(worker)
    assert await take(worker) == (None, ["z", "b"])
    await asyncio.to_thread(worker.defer, ["z", "b"])
    assert await ledger.jobs.defer("e", 3)
    assert await take(worker, "another") == (None, [])
    assert await take(worker) == (None, ["z", "b", "e"])


async def test_so_many_at_once_and_no_more(ledger: Ledger, worker: WorkerLedger) -> None:
    two = Limit("user 1", 2, None)
    for job_id in "abcdef":
        await accept(ledger, record(job_id), {})
    assert [await begin(worker, job_id, job_id, limit=two) for job_id in "abcd"] == ["go", "go", "parked", "parked"]
    assert await begin(worker, "e", "e", limit=Limit("user 2", 2, None)) == "go"
    assert await begin(worker, "c", "copy", limit=two) == "parked"
    assert (await job(ledger, "c")).state == "PENDING"
    await end(worker, "b")
    assert await begin(worker, "f", "f", limit=two) == "parked"  # the slot is another's, who was there before
    assert await take(worker) == (None, ["c"])
    assert await begin(worker, "c", "again", limit=two) == "go"
    await ledger.jobs.cancel("d")
    await age(ledger, "held", "a", 11)
    assert await reconcile(worker) == (["a"], set())  # lost, it keeps its slot
    assert await begin(worker, "a", "again", limit=two) == "go"
    await end(worker, "a")
    assert await take(worker) == (None, ["f"])
    for job_id in "cef":
        await end(worker, job_id)
    assert not [key async for key in ledger.redis.client.scan_iter("*slots*")]


async def test_so_many_in_a_time(ledger: Ledger, worker: WorkerLedger) -> None:
    ten_a_second = Limit("t", None, 0.1)
    for job_id in "abcd":
        await accept(ledger, record(job_id), {})
    assert [await begin(worker, each, each, limit=ten_a_second) for each in "abc"] == ["go", "parked", "parked"]
    begun = time.monotonic()
    found: list[tuple[str, float]] = []
    while len(found) < 2:
        pause, more = await take(worker)
        for job_id in more:
            found.append((job_id, time.monotonic() - begun))
            assert await begin(worker, job_id, "again", limit=ten_a_second) == "go"
        await asyncio.sleep(0.005 if pause is None else pause)
    assert [job_id for job_id, _ in found] == ["b", "c"]
    assert found[0][1] > 0.05
    assert found[1][1] > 0.15


async def test_unique(ledger: Ledger, worker: WorkerLedger) -> None:
    assert (await accept(ledger, record("a"), {}, unique="x")).kind == "accepted"
    assert await accept(ledger, record("b"), {}, unique="x") == ("unique", b"a")
    assert (await accept(ledger, record("c"), {}, unique="y")).kind == "accepted"
    await begin(worker, "a", "1")
    assert await accept(ledger, record("b"), {}, unique="x") == ("unique", b"a")
    await end(worker, "a")
    assert (await accept(ledger, record("b"), {}, unique="x")).kind == "accepted"
    await ledger.jobs.withdraw("b")
    assert (await accept(ledger, record("d"), {}, unique="x")).kind == "accepted"


async def test_a_cancelled_job_that_goes_on_is_told_of(ledger: Ledger, worker: WorkerLedger) -> None:
    for job_id in "abcd":
        await accept(ledger, record(job_id), {})
        await begin(worker, job_id, job_id)
    await ledger.jobs.cancel("a", grace=0.001)
    await ledger.jobs.cancel("b")
    await ledger.jobs.cancel("c", grace=60)
    await asyncio.sleep(0.01)
    assert await lease(worker, ["a:a", "b:b", "c:c", "d:d"], []) == (["a", "b", "c"], ["a"])
    await age(ledger, "held", "b", 11)
    assert await reconcile(worker) == ([], set())
    assert (await job(ledger, "b")).state == "REVOKED"


async def test_a_full_redis_is_waited_for(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await ledger.redis.call("CONFIG", "SET", "maxmemory", "1")
    try:
        beginning = asyncio.ensure_future(begin(worker, "a", "1"))
        done, _ = await asyncio.wait([beginning], timeout=0.3)
        assert not done
    finally:
        await ledger.redis.call("CONFIG", "SET", "maxmemory", "0")
    assert await beginning == "go"
