"""Jobs that wait are changed, held back and released: what was published before begins nothing any more."""

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tests.ledger.records import Wait, accept, begin, end, found, job, record
from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.ledger import Filter, Ledger
from tornado_celery_bridge.ledger.blocking import Limit, WorkerLedger
from tornado_celery_bridge.ledger.changes import VERSION

ERROR = {"type": "E", "module": "m", "message": "not yet"}


async def change(ledger: Ledger, job_id: str, **more: Any) -> str:
    before = await ledger.changes.read(job_id)
    assert before is not None
    found = await job(ledger, job_id)
    given: dict[str, Any] = {"queue": found.record.queue, "priority": found.record.priority, "told": {}, "options": {}}
    return await ledger.changes.amend(job_id, before, message=before.message, **{**given, **more})


async def message(ledger: Ledger, job_id: str) -> Mapping[str, Any]:
    before = await ledger.changes.read(job_id)
    assert before is not None
    return before.message


async def test_a_job_on_hold_begins_when_it_is_released(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    await accept(ledger, record("a"), {})
    assert await change(ledger, "a", held=True, told={"held": True}) == "amended"
    assert (await job(ledger, "a")).on_hold
    assert await begin(worker, "a", "1") == "duplicate"  # by the message of before
    assert await begin(worker, "a", "1", version="1") == "parked"  # nobody has published this one
    await wait(3_600)
    assert await found(worker, "q") == []
    assert await change(ledger, "a", queue="other", told={"queue": "other"}) == "amended"  # it stays on hold
    assert await found(worker, "q", "other") == []
    assert await change(ledger, "a", held=False, told={"held": False}) == "amended"
    assert await found(worker) == ["a"]
    released = await job(ledger, "a")
    assert (released.on_hold, released.record.queue) == (False, "other")
    for old in ("", "1", "2"):
        assert await begin(worker, "a", "1", version=old) == "duplicate"
    assert await begin(worker, "a", "1", version="3") == "go"
    assert await change(ledger, "a", held=True) == "begun"
    told, _ = await ledger.events.read("a", 0)
    kinds = [(event.kind, event.data) for event in told]
    assert [json.loads(data) for kind, data in kinds if kind == "changed"] == [
        *({"held": True}, {"queue": "other"}, {"held": False}),
    ]
    await end(worker, "a")
    assert await ledger.changes.read("a") is None


async def test_when_it_is_due_is_changed(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    now = int(await ledger.redis.client.get("clock") or 0)
    await accept(ledger, dataclasses.replace(record("a"), eta=now + 60_000), {}, delay=60)
    assert await change(ledger, "a", due=now + 10_000, is_eta=True) == "amended"
    assert (await job(ledger, "a")).record.eta == now + 10_000
    assert "eta" not in (await message(ledger, "a"))["options"]  # the ledger publishes it when it is due
    assert await found(worker, "q") == []
    assert await begin(worker, "a", "1", version="1") == "parked"
    await wait(10)
    assert await found(worker) == ["a"]
    assert await change(ledger, "a", due=now, is_eta=False) == "amended"  # at once, after all
    assert (await job(ledger, "a")).record.eta is None
    assert await found(worker) == ["a"]
    assert await begin(worker, "a", "1", version="2") == "go"


async def test_another_input_and_priority(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {"x": 1})
    before = await ledger.changes.read("a")
    assert before is not None
    new = {**before.message, "kwargs": {"x": 2}}
    place = {"queue": "q2", "priority": 7, "where": {"queue": "q2", "priority": 7}, "options": {"priority": 7}}
    changed: dict[str, Any] = {"message": new, "input": '{"x":2}', "told": {}, **place}
    assert await ledger.changes.amend("a", before, **changed) == "amended"
    assert await ledger.changes.amend("a", before, **changed) == "changed"  # somebody else was first
    assert await ledger.jobs.input_of("a") == b'{"x":2}'
    shown = (await job(ledger, "a")).record
    assert (shown.queue, shown.priority, shown.options) == ("q2", 7, {"priority": 7})
    _, taken = await asyncio.to_thread(worker.take, "me", 10)
    published = encoding.loads(taken[0][1])
    assert published["kwargs"] == {"x": 2}
    assert published["options"] == {
        **{"task_id": "a", "queue": "q2", "priority": 7},
        "headers": {VERSION: 1},
    }
    assert await begin(worker, "a", "1", version="1") == "go"
    await asyncio.to_thread(worker.give_back, "a", "1", publish=True)
    assert await found(worker) == ["a"]
    assert await begin(worker, "a", "2") == "duplicate"  # the first message, with the old input
    assert await change(ledger, "a", input='{"x":3}') == "begun"
    assert await begin(worker, "a", "2", version="1") == "go"


async def test_a_retry_that_waits_is_changed(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    await accept(ledger, record("a"), {})
    assert await change(ledger, "a", priority=3) == "amended"
    assert await begin(worker, "a", "1", version="1") == "go"
    asked = {"task": "t", "args": [], "kwargs": {}, "options": {"task_id": "a", "retries": 1}}
    await asyncio.to_thread(lambda: worker.keep("a", json.dumps(asked), 600.0, queue="q", token="1", why=ERROR))
    await asyncio.to_thread(lambda: worker.retry("a", "1", ERROR, publish=False))
    now = int(await ledger.redis.client.get("clock") or 0)
    assert await change(ledger, "a", due=now) == "amended"  # now, and not in ten minutes
    assert await found(worker) == ["a"]
    assert await begin(worker, "a", "2", retries=1) == "duplicate"
    assert await begin(worker, "a", "2", retries=1, version="2") == "go"
    await asyncio.to_thread(
        lambda: worker.keep("a", json.dumps(asked | {"options": {"retries": 2}}), None, queue="q", token="2", why=ERROR)
    )
    await asyncio.to_thread(lambda: worker.retry("a", "2", ERROR, publish=False))
    assert await begin(worker, "a", "3", retries=2) == "go"  # what comes after was not changed


async def test_who_waits_for_a_limit_lets_others_pass(ledger: Ledger, worker: WorkerLedger) -> None:
    limit = Limit("", 1, None)
    for job_id in ("a", "b", "c"):
        await accept(ledger, record(job_id), {})
    assert await begin(worker, "a", "1", limit=limit) == "go"
    assert await begin(worker, "b", "2", limit=limit) == "parked"
    assert await begin(worker, "c", "3", limit=limit) == "parked"
    assert await change(ledger, "b", held=True) == "amended"
    await end(worker, "a")
    assert await found(worker) == ["c"]
    assert await begin(worker, "c", "3", limit=limit) == "go"
    assert await change(ledger, "b", held=False) == "amended"
    assert await found(worker) == ["b"]
    assert await begin(worker, "b", "2", limit=limit, version="2") == "parked"
    await end(worker, "c")
    assert await found(worker) == ["b"]
    assert await begin(worker, "b", "2", limit=limit, version="2") == "go"


async def test_a_job_on_hold_is_cancelled_and_expires(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    now = record("x").created_at
    await accept(ledger, dataclasses.replace(record("a"), expires=now + 5_000), {})
    await accept(ledger, record("b"), {})
    for job_id in ("a", "b"):
        assert await change(ledger, job_id, held=True) == "amended"
    await wait(6)
    assert await ledger.jobs.expire() == 1
    assert await ledger.jobs.cancel("b") == "PENDING"
    assert {each.record.id for each in (await ledger.jobs.find(Filter(state="REVOKED"))).jobs} == {"a", "b"}
    assert not (await job(ledger, "b")).on_hold
