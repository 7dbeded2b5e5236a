"""What a worker can't read, or never gets, fails, with the reason, and harms nobody else."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tornado_celery_bridge import AsyncResult, Bridge, TaskFailed
from tornado_celery_bridge.ledger import Job

UNKNOWN_TYPE = [{"__type__": "nowhere", "__value__": 1}]


def publish(bridge: Bridge, body: Any, headers: Any, **properties: Any) -> None:
    with bridge.app.connection_for_write() as connection:
        properties = {"content_type": "application/json", "content_encoding": "utf-8"} | properties
        body = body if isinstance(body, bytes | str) else json.dumps(body)
        connection.Producer().publish(body, routing_key="ends", headers=headers, **properties)


async def is_well(bridge: Bridge, path: Path) -> None:
    assert await bridge.get(await bridge.submit("e.returns", (str(path),)), timeout=20) == "done"


async def test_a_serializer_that_the_worker_does_not_accept(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit(ends.app.tasks["e.returns"].s(str(tmp_path / "marks")), serializer="pickle")
    with pytest.raises(TaskFailed, match=r"can't read the task's message: Refusing to deserialize untrusted content"):
        await ends.get(result, timeout=20)
    job = await ends.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    assert job.error is not None
    assert (job.state, job.error["type"], job.attempt) == ("FAILURE", "DecodeError", 0)


@pytest.mark.parametrize("body", [[UNKNOWN_TYPE, {}, {}], "{", b"\xff"])
async def test_a_body_that_cannot_be_decoded(ends: Bridge, tmp_path: Path, body: Any) -> None:
    result: AsyncResult[Any] = AsyncResult(str(uuid.uuid4()), ends)
    headers = {"task": "e.returns", "id": result.id, "lang": "py"}
    await asyncio.to_thread(publish, ends, body, headers)
    with pytest.raises(TaskFailed, match="can't read the task's message"):
        await ends.get(result, timeout=20)


async def test_what_is_no_tasks_message_ends_no_worker(ends: Bridge, tmp_path: Path) -> None:
    named = {"task": "e.returns", "id": "x"}
    for body, headers in (
        (5, named),
        (None, named),
        ([[], {}], named),
        ([1, 2, 3], named),
        ([[], {}, {}], {"task": "e.returns"}),
        ([[], {}, {}], {"task": [], "id": "x"}),
        ([[], {}, {}], named | {"timelimit": 5}),
        ([[], {}, {}], named | {"timelimit": [{}, "x"]}),
        ([[], {}, {}], named | {"expires": {}}),
        ([[], {}, {}], named | {"eta": 5}),
        ([[], {}, {}], named | {"retries": "x"}),
        ([[], {}, 5], named),
        ([[], {}, {"chain": 5, "callbacks": 5, "errbacks": 5, "chord": 5}], named),
        ("text", {}),
        ({"task": 5}, {}),
        ({"task": "e.returns", "args": 5}, {}),
    ):
        await asyncio.to_thread(publish, ends, body, headers)
    await is_well(ends, tmp_path / "marks")


async def test_a_task_that_the_worker_does_not_have(ends: Bridge, tmp_path: Path) -> None:
    for send in (ends.submit, ends.dispatch):
        result: Any = await send("e.nowhere", (1,))
        with pytest.raises(TaskFailed, match="NotRegistered"):
            await ends.get(result, timeout=20)
    await is_well(ends, tmp_path / "marks")


async def test_an_exchange_that_leads_nowhere(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit("e.returns", (str(tmp_path / "marks"),), exchange="nowhere", routing_key="to")
    key, packed = f"{{tcb}}job:{result.id}", uuid.UUID(result.id).bytes
    redis = ends.ledger.redis.client
    await redis.hset(key, "copies", 9)  # as it is after a minute
    async with asyncio.timeout(20):
        while await redis.hget(key, "copies"):
            seconds, _ = await redis.time()
            await redis.zadd("{tcb}queued:ends:", {packed: (seconds - 20) * 1000}, xx=True)
            await asyncio.sleep(0.5)
    with pytest.raises(TaskFailed, match="published 10 times more, and no worker has begun it"):
        await ends.get(result, timeout=5)


async def test_a_worker_says_what_it_has_in_hand(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit("e.returns", (str(tmp_path / "marks"),), countdown=60)
    key = f"{{tcb}}job:{result.id}"
    redis = ends.ledger.redis.client
    await redis.hset(key, "copies", 10)
    await redis.sadd("{tcb}doubted", result.id)
    async with asyncio.timeout(20):
        while await redis.hget(key, "copies"):
            await asyncio.sleep(0.1)
    assert not await redis.exists("{tcb}doubted")
    assert await ends.ledger.jobs.cancel(result.id) == "PENDING"
