"""Jobs as the tests of the ledger write, begin and end them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tornado_celery_bridge import Stored
from tornado_celery_bridge.ledger import Acceptance, Job, JobRecord, Ledger
from tornado_celery_bridge.ledger.blocking import WorkerLedger

#: Has so many seconds pass for the scripts.
Wait = Callable[[float], Awaitable[None]]

NOW = 1_795_608_000_000


def record(
    job_id: str, *, task: str = "t", owner: str = "", tags: tuple[str, ...] = (), callback_url: str | None = None
) -> JobRecord:
    options = {"callback_url": callback_url} if callback_url else {}
    return JobRecord(id=job_id, task=task, owner=owner, queue="q", created_at=NOW, tags=list(tags), options=options)


async def accept(
    ledger: Ledger, record: JobRecord, given: dict[str, Any] | list[Any] | Stored, **more: Any
) -> Acceptance:
    message = {"task": record.task, "args": [], "kwargs": {}, "options": {"task_id": record.id}}
    return await ledger.jobs.accept(record, given, message=message, **more)


async def begin(worker: WorkerLedger, job_id: str, token: str, *, task: str = "t", **more: Any) -> str:
    return await asyncio.to_thread(worker.start, job_id, task, token, worker="w@here", **more)


async def end(worker: WorkerLedger, job_id: str, state: str = "SUCCESS", value: Any = 1) -> None:
    """As the attempt that is under way does, or somebody else if there is none."""

    def tell() -> None:
        token = worker._once.client.hget(f"{worker._once.prefix}job:{job_id}", "token")
        worker.finish(job_id, state, value, token.decode() if isinstance(token, bytes) else "")

    await asyncio.to_thread(tell)


async def job(ledger: Ledger, job_id: str) -> Job:
    found = await ledger.jobs.get(job_id)
    assert isinstance(found, Job)
    return found


async def keys(ledger: Ledger) -> set[str]:
    """All but the history and the schema, which are there to stay."""
    found = {key.decode() async for key in ledger.redis.client.scan_iter("*")}
    return {key for key in found if not key.startswith(("pre.{tcb}history:", "pre.{tcb}schema"))}


async def found(worker: WorkerLedger, *empty: str) -> list[str]:
    """Return the jobs that are published again, or for the first time."""
    lost, _ = await asyncio.to_thread(worker.reconcile, "me", 60.0, 100, empty)
    _, due = await asyncio.to_thread(worker.take, "me", 100)
    return [job_id for job_id, _ in (*lost, *due)]
