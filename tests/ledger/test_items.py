"""What jobs' tasks have yielded: which items are kept, and how they are told."""

import asyncio
import json

from tests.ledger.records import accept, begin, end, job, keys, record
from tornado_celery_bridge.ledger import Event, JobItem, Ledger
from tornado_celery_bridge.ledger.blocking import ResultEntry, WorkerLedger


async def tell(worker: WorkerLedger, token: str, first: int, last: int, value: str = "{}") -> set[str]:
    """Tell items of job a by their numbers; return what was answered."""
    numbers = range(first, last + 1)
    return await asyncio.to_thread(lambda: {worker.item("a", token, number, value) for number in numbers})


async def events(ledger: Ledger, after: int = 0) -> list[Event]:
    """Return the events of job a, up to its end."""
    async with asyncio.timeout(20):
        with ledger.events.follow("a", after) as followed:
            return [event async for event in followed]


async def test_items_are_numbered_by_attempt_and_kept_as_long_as_the_job(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    assert await tell(worker, "1", 1, 2, '{"x": [1, "é"]}') == {"go"}
    await asyncio.to_thread(lambda: worker.give_back("a", "1", publish=False))
    await begin(worker, "a", "2")
    assert await tell(worker, "2", 1, 1, "null") == {"go"}
    assert await tell(worker, "1", 3, 3) == {"late"}
    await end(worker, "a")
    assert await tell(worker, "2", 2, 2) == {"late"}
    first = {"x": [1, "é"]}
    items = [JobItem(2, 1, 1, first), JobItem(3, 1, 2, first), JobItem(6, 2, 1, None)]
    assert await ledger.jobs.items("a") == items
    assert await ledger.jobs.items("a", 2, 1) == items[1:2]
    assert (await job(ledger, "a")).items == 3
    told = await events(ledger)
    assert [event.number for event in told] == list(range(1, 8))
    assert [json.loads(event.data) for event in told if event.kind == "item"] == [
        {"attempt": attempt, "number": number, "value": value} for _, attempt, number, value in items
    ]
    assert [event.number for event in await events(ledger, 3)] == [4, 5, 6, 7]
    await ledger.redis.client.zadd(f"{ledger.redis.prefix}due", dict.fromkeys(["=a"], 1))
    assert await ledger.jobs.sweep() == 1
    assert not [key for key in await keys(ledger) if "items" in key]


async def test_an_item_that_is_told_twice_is_kept_once(ledger: Ledger, worker: WorkerLedger) -> None:
    """As when Redis has run the command, and its answer was lost."""
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    for number in (1, 1, 2, 2):
        await tell(worker, "1", number, number)
    assert [each.number for each in await ledger.jobs.items("a")] == [1, 2]
    await ledger.jobs.cancel("a")
    assert await tell(worker, "1", 2, 3) == {"cancelled"}
    assert [each.number for each in await ledger.jobs.items("a")] == [1, 2, 3]


async def test_the_last_items_are_kept_by_their_number(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    await tell(worker, "1", 1, 1_002)
    await end(worker, "a")
    assert [each.number for each in await ledger.jobs.items("a")] == list(range(3, 1_003))
    first, *told = await events(ledger)
    assert first.kind == "snapshot"
    assert [json.loads(event.data)["number"] for event in told[:-1]] == list(range(4, 1_003))


async def test_the_last_items_are_kept_by_their_bytes(ledger: Ledger, worker: WorkerLedger) -> None:
    """And one snapshot is in the place of those that are not, also between other events."""
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    await tell(worker, "1", 1, 300, json.dumps("x" * 10_000))
    kept = await ledger.jobs.items("a")
    assert 100 <= len(kept) <= 104
    assert [each.number for each in kept] == list(range(301 - len(kept), 301))
    reading = asyncio.create_task(events(ledger))
    await end(worker, "a")
    told = await reading
    assert [event.kind for event in told] == ["state", "snapshot", *["item"] * len(kept), "end"]
    assert [event.number for event in told[2:]] == list(range(told[1].number + 1, told[-1].number + 1))
    assert (await events(ledger, told[2].number))[0] == told[3]


async def test_of_a_task_that_is_no_job_the_result_backend_is_told(ledger: Ledger, worker: WorkerLedger) -> None:
    entry = ResultEntry("celery-task-meta-b", '{"status": "ITEM"}', 60)
    told = await asyncio.to_thread(lambda: worker.item("b", "1", 1, "1", result_entry=entry))
    assert told == "unknown"
    assert await ledger.redis.client.get("celery-task-meta-b") == b'{"status": "ITEM"}'
    assert await ledger.jobs.items("b") == []
