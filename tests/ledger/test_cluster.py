"""
The ledger on one server of a Redis Cluster, which refuses each step that uses keys of two slots.

A server does so for scripts that begin with ``#!lua``; ours do not, as Redis 6 does not know that line.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.ledger.records import NOW, accept, begin, end, record
from tests.lua import commands_in
from tests.schedules.beats import Beat
from tests.schedules.entries import entry
from tests.servers import Server, wait_for
from tornado_celery_bridge import Stored
from tornado_celery_bridge.ledger import (
    Filter,
    Gone,
    Ledger,
    Monitor,
    Operation,
    Reservation,
    Step,
    Workflow,
    WorkflowRecord,
    calls,
)
from tornado_celery_bridge.ledger.blocking import Limit, ResultEntry, WorkerLedger
from tornado_celery_bridge.schedules import Schedules
from tornado_celery_bridge.schedules import calls as schedules_calls
from tornado_celery_bridge.worker import install


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    server = Server(tmp_path / "cluster", "--cluster-enabled", "yes").start()
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_for(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
    for command in commands_in(calls, schedules_calls):
        monkeypatch.setattr(command, "text", f"#!lua\n{command.text}")
    made = Celery("cluster", broker=server.url, backend=server.url, set_as_current=False)
    made.conf.result_backend_transport_options = {"global_keyprefix": "{mine}."}
    install(made)
    yield made
    made.close()
    server.stop()


@pytest.fixture
async def ledger(app: Celery) -> AsyncIterator[Ledger]:
    made = await asyncio.to_thread(Ledger, app, ttl=0)
    yield made
    await made.close()


async def again(operation: Operation, job_id: str, made_id: str) -> str | None:
    return None


async def test_no_step_uses_two_slots(app: Celery, ledger: Ledger) -> None:
    worker = await asyncio.to_thread(WorkerLedger, app)
    entry_of_result = ResultEntry("{mine}.celery-task-meta-a", "{}", 60)
    blob = Stored.new(1_000_000)
    await ledger.blobs.announce(blob.name)
    first = record("a", owner="o", tags=("x",), callback_url="https://x.test/")
    more = {"reservation": Reservation("key", "print"), "unique": "one", "max_unfinished": 9, "goes_on": "z"}
    await accept(ledger, first, blob, **more)
    with ledger.events.follow("a") as events:
        limit = Limit("one at once", 1, 0.001)
        assert await begin(worker, "a", "1", limit=limit, result_entry=entry_of_result) in ("go", "parked")
        await asyncio.to_thread(worker.report, "a", "1", "progress", {"current": 1}, "PROGRESS", {"current": 1})
        await asyncio.to_thread(worker.save_checkpoint, "a", "1", "t", "{}")
        await asyncio.to_thread(worker.item, "a", "1", 1, "{}")
        assert await ledger.jobs.items("a")
        error = {"type": "E", "module": "m", "message": "no"}
        await asyncio.to_thread(lambda: worker.keep("a", "{}", None, queue="q2", token="1", why=error))
        await end(worker, "a", "FAILURE", {"type": "E", "module": "m", "message": "no"})
        assert [event.kind async for event in events][-1] == "end"
    (claim,) = await ledger.callbacks.claim(10, owner_share=9, share=3, lease=60, under_way={})
    await ledger.callbacks.record_attempt(claim, {"status": 500}, "waiting", 60)
    await ledger.callbacks.replay("a")
    assert await ledger.callbacks.delivery("a")
    (group,) = await ledger.failures.groups()
    assert [each.record.id for each in (await ledger.jobs.find(Filter(failure=group.id, tags=("x",)))).jobs] == ["a"]
    await ledger.failures.resolve(group.id)

    for job_id in ("b", "c", "d", "e"):
        await accept(ledger, record(job_id), {})
    for token, ends in (
        ("1", lambda: worker.retry("e", "1", error, publish=True)),
        ("2", lambda: worker.give_back("e", "2", publish=True)),
        ("3", lambda: worker.hand_on("e", "3")),
    ):
        assert await begin(worker, "e", token) == "go"
        await asyncio.to_thread(ends)
    await end(worker, "e")
    await ledger.jobs.withdraw("b", Reservation("other", "print"))
    assert await ledger.jobs.defer("c", 10)
    assert await ledger.jobs.cancel("d") == "PENDING"
    await asyncio.to_thread(worker.reconcile, "me", 60, 10, ["q"])
    _, messages = await asyncio.to_thread(worker.take, "me", 10)
    assert [job_id for job_id, _ in messages] == ["c"]
    await asyncio.to_thread(worker.in_hand, ["c"])
    assert await begin(worker, "c", "1") == "go"
    await asyncio.to_thread(worker.lease, "w@here", [], [("c", "1")], {"slots": 1, "queues": ["q"]})
    messages, _ = await asyncio.to_thread(worker.reconcile, "me", 60, 10, [])
    assert [job_id for job_id, _ in messages] == ["c"]
    assert await begin(worker, "c", "2") == "go"
    await asyncio.to_thread(lambda: worker.retry("c", "2", {"message": "not yet"}, publish=True))
    assert await begin(worker, "c", "3") == "go"
    await asyncio.to_thread(worker.hand_on, "c", "3")
    assert await begin(worker, "c", "4", task="another") == "go"
    await asyncio.to_thread(lambda: worker.give_back("c", "4", publish=True))
    await ledger.queues.pause("q")
    assert [job_id async for step in ledger.queues.purge("q", "no more") for job_id in step] == ["c"]

    flow = WorkflowRecord(id="f", owner="", tags=[], created_at=NOW, tree={"chain": ["f1", "f2"]}, on_error="f3")
    steps = [
        Step(dataclasses.replace(record(job_id), workflow="f"), {}, delay, before, message)
        for job_id, delay, before, message in (
            *(("f1", 0.0, "0", None), ("f2", None, None, None)),
            ("f3", None, None, {"args": ["error of f"]}),
        )
    ]
    await ledger.workflows.accept(flow, steps, {"0": ["f2"]}, message={"all": "of it"})
    await ledger.workflows.cancel("f", ["f1", "f2", "f3"], whole=True)
    found = await ledger.workflows.get("f")
    assert isinstance(found, Workflow)
    assert found.done

    await accept(ledger, record("g", owner="o"), {})
    before = await ledger.changes.read("g")
    assert before
    given: dict[str, Any] = {"queue": "q", "priority": 3, "options": {}, "told": {}, "held": True, "input": "{}"}
    assert await ledger.changes.amend("g", before, message=before.message, due=NOW, **given) == "amended"
    for action in ("cancel", "delete"):
        made = await ledger.operations.begin(action, Filter(owner="o", min_attempt=0), owner="o")
        assert made
        assert await ledger.operations.claim()
        await ledger.operations.carry(made, again)
    made = await ledger.operations.begin("retry", Filter(task="t"), owner="o")
    assert made
    await ledger.operations.carry(made, again)
    assert await ledger.operations.begin("retry", Filter(), owner="o")
    assert await ledger.operations.cancel(made.id, "enough") is False
    assert await ledger.jobs.delete("g") == "gone"

    monitor = Monitor(ledger)
    assert await monitor.workers()
    assert not await monitor.queues()
    assert await monitor.counts()
    while await ledger.jobs.sweep():
        pass
    assert await ledger.jobs.get("a") == Gone("o")
    assert await ledger.blobs.orphans() == [blob.name]


async def test_no_step_of_a_schedule_uses_two_slots(app: Celery, ledger: Ledger) -> None:
    schedules, beat = Schedules(ledger, app), await asyncio.to_thread(Beat, app)
    beat._publish = lambda runs: None  # type: ignore[method-assign]
    await asyncio.to_thread(beat.ask)
    await schedules.create(entry(name="e", interval=3600, overlap="cancel"))
    for _ in range(2):
        slot = await schedules._now()
        await ledger.redis.call("HSET", f"{ledger.redis.prefix}schedule:e", "slot", slot)
        await ledger.redis.call("ZADD", f"{ledger.redis.prefix}schedules:due", slot, "e")
        await asyncio.to_thread(beat.look)
    assert (await schedules.statistics()).runs == 2
    await schedules.run("e")
    await schedules.pause("e")
    await schedules.delete("e")
    await asyncio.to_thread(beat.close)
