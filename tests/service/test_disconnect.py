"""Clients that hang up while they wait."""

import asyncio
import json
from pathlib import Path

from tests.service.site import Service, nothing_new, tasks_of, until
from tornado_celery_bridge.service.access.keys import EVERYBODY


async def hang_up_while_waiting(service: Service, body: object, wait: int = 30) -> str:
    """Submit a job, hang up once it runs, return its id."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/tasks/s.nap/jobs HTTP/1.1\r\nHost: localhost\r\n"
        f"Prefer: wait={wait}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    before = {key async for key in service.jobs.ledger.redis.client.scan_iter("{tcb}job:*", count=10_000)}
    _, writer = await service.raw(head.encode() + content)
    await until(lambda: service.jobs.ledger.events.following)
    (new,) = {key async for key in service.jobs.ledger.redis.client.scan_iter("{tcb}job:*", count=10_000)} - before
    job_id = new.decode().removeprefix("{tcb}job:")
    async with asyncio.timeout(20):
        while (await service.jobs.get(EVERYBODY, job_id)).state != "STARTED":
            await asyncio.sleep(0.01)
    writer.close()
    await until(lambda: not service.lifecycle._requests)
    return str(job_id)


async def test_detached_the_job_goes_on_and_nothing_leaks(service: Service, tmp_path: Path) -> None:
    before = await tasks_of(service)
    job_id = await hang_up_while_waiting(service, {"input": [1, str(tmp_path / "ran")]})
    assert service.jobs.ledger.events.following == 0
    await nothing_new(before)
    assert (await service.bridge.wait(job_id, timeout=20)).state == "SUCCESS"
    assert await asyncio.to_thread((tmp_path / "ran").exists)


async def test_cancelled_the_job_is_stopped(service: Service, tmp_path: Path) -> None:
    body = {"input": [20, str(tmp_path / "ran")], "options": {"on_disconnect": "cancel"}}
    job_id = await hang_up_while_waiting(service, body)
    state = await service.bridge.wait(job_id, timeout=5)
    assert state.state == "REVOKED"
    assert not await asyncio.to_thread((tmp_path / "ran").exists)


async def test_a_waiting_reader_that_leaves(service: Service) -> None:
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}})).body)
    head = f"GET {made['links']['self']} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=30\r\n\r\n"
    _, writer = await service.raw(head.encode())
    await until(lambda: service.jobs.ledger.events.following)
    writer.close()
    await until(lambda: not service.lifecycle._requests)
    assert service.jobs.ledger.events.following == 0
