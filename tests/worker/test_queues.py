"""What a job's next message has of the one before: its queue is noted, and its request is known."""

import asyncio
import uuid
from typing import Any

import pytest

from tornado_celery_bridge import AsyncResult, Bridge
from tornado_celery_bridge.ledger import Job, Monitor


def nothing() -> None: ...


async def where(bridge: Bridge, result: AsyncResult[Any]) -> tuple[str, int | None]:
    """Return the queue and the priority that a job is noted with, once its message is there and nowhere else."""
    job = await bridge.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    queue = job.record.queue
    (noted,) = [each for each in await Monitor(bridge.ledger).queues() if each.name == queue]
    assert noted.depth + noted.scheduled == 1
    done = await bridge.purge(queue, "seen")
    assert (done.jobs, done.messages) == (1, 1), "the message is in another queue"
    return queue, job.record.priority


async def retried(bridge: Bridge, result: AsyncResult[Any]) -> None:
    async with asyncio.timeout(10):
        while (await bridge.state(result)).state != "RETRY":
            await asyncio.sleep(0.02)


@pytest.fixture
def queue() -> str:
    return uuid.uuid4().hex


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
async def test_a_tasks_own_queue(ends: Bridge, queue: str) -> None:
    own = ends.app.task(shared=False, name="e.own", queue=queue, priority=3)(nothing)
    assert await where(ends, await ends.submit(own)) == (queue, 6)


async def test_a_router_that_looks_at_arguments(ends: Bridge, queue: str) -> None:
    ends.app.conf.task_routes = lambda name, args, kwargs, options, task=None, **_: {"queue": args[0]}
    ends.app.amqp.flush_routes()
    assert await where(ends, await ends.submit("e.naps", (queue, 1))) == (queue, None)


@pytest.mark.parametrize(("options", "priority"), [({}, None), ({"priority": 2}, 7)])
async def test_a_retry_into_another_queue(
    ends: Bridge, queue: str, options: dict[str, Any], priority: int | None
) -> None:
    result = await ends.submit("e.moves", (queue, options))
    await retried(ends, result)
    assert await where(ends, result) == (queue, priority)


@pytest.mark.parametrize("how", ["tell", "retry", "replace", "replace by a chain", "replace by a chord"])
async def test_the_request_goes_with_the_job(ends: Bridge, how: str) -> None:
    result = await ends.submit("e.tells_request", (how,), headers={"request_id": "3b3f"})
    assert await ends.get(result, timeout=10) == "3b3f"


async def test_a_retry_in_its_own_queue(ends: Bridge) -> None:
    """What the broker gives a message that has no priority is not taken for one that somebody asked for."""
    for priority in (None, 4):
        result = await ends.submit("e.moves", (None, {}), priority=priority)
        await retried(ends, result)
        job = await ends.ledger.jobs.get(result.id)
        assert isinstance(job, Job)
        assert (job.record.queue, job.record.priority) == ("ends", None if priority is None else 5)
        await ends.ledger.jobs.cancel(result.id)
