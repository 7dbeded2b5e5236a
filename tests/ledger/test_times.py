"""What is due, and what has expired, is told by the server's clock, whether or not a worker is there."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from kombu.utils.uuid import uuid

from tests.ledger.records import NOW, Wait, accept, begin, end, found, job, record
from tornado_celery_bridge.ledger import JobRecord, Ledger
from tornado_celery_bridge.ledger.blocking import Limit, WorkerLedger
from tornado_celery_bridge.worker.clock import CLOCK, ServerClock
from tornado_celery_bridge.worker.request import JobRequest

ERROR = {"type": "E", "module": "m", "message": "no"}


def expiring(job_id: str, seconds: float = 5.0) -> JobRecord:
    return replace(record(job_id), expires=NOW + round(seconds * 1000))


async def said(ledger: Ledger, job_id: str) -> tuple[str, str | None]:
    found = await job(ledger, job_id)
    return found.state, None if found.error is None else found.error["message"]


async def test_expired_though_no_worker_comes_upon_it(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    """In a queue, in the outbox, for a limit, for a retry: each is told when its time is over."""
    limit = Limit("one", 1, None)
    for job_id in ("queued", "aside", "parked", "retried"):
        await accept(ledger, expiring(job_id), {})
    await accept(ledger, record("slot"), {})
    await ledger.jobs.defer("aside", 10)
    assert await begin(worker, "slot", "1", limit=limit) == "go"
    assert await begin(worker, "parked", "1", limit=limit) == "parked"
    assert await begin(worker, "retried", "1") == "go"

    def retry() -> None:
        worker.keep("retried", "{}", 60.0, queue="q", expires_in=5.0, token="1", why=ERROR)
        worker.retry("retried", "1", ERROR, publish=False)

    await asyncio.to_thread(retry)
    await wait(4.9)
    assert await ledger.jobs.expire() == 0
    await wait(0.2)
    assert await ledger.jobs.expire() == 4
    for job_id in ("queued", "aside", "parked", "retried"):
        assert await said(ledger, job_id) == ("REVOKED", "expired")
    await end(worker, "slot")
    assert await ledger.jobs.expire() == 0


async def test_what_began_in_time_begins_again(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    await accept(ledger, expiring("a"), {})
    assert await begin(worker, "a", "1") == "go"
    await wait(11)
    assert await ledger.jobs.expire() == 0
    assert await found(worker) == ["a"], "its worker was lost"
    assert await asyncio.to_thread(worker.has_expired, "a") == "no"
    assert await begin(worker, "a", "2") == "go"


async def test_the_ledger_is_asked_as_it_begins(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    for job_id in "ab":
        await accept(ledger, expiring(job_id), {})
    assert await asyncio.to_thread(worker.has_expired, "a") == "no", "a worker's clock is ahead"
    await wait(6)
    assert await begin(worker, "a", "1") == "REVOKED", "a worker's clock is behind"
    assert await asyncio.to_thread(worker.has_expired, "b") == "yes"
    assert [await said(ledger, job_id) for job_id in "ab"] == [("REVOKED", "expired")] * 2
    assert await asyncio.to_thread(worker.has_expired, "c") == "unknown"


async def test_what_comes_too_early_begins_when_it_is_due(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    """A worker whose clock is ahead takes it for due."""
    await accept(ledger, record("a"), {}, delay=40.0)
    assert await begin(worker, "a", "1") == "parked"
    await wait(38)
    assert await found(worker, "q") == []
    await wait(2)
    assert await found(worker, "q") == ["a"]
    assert await begin(worker, "a", "2") == "go"


class Message:
    """What Celery's request asks of a message."""

    def __init__(self, **headers: Any) -> None:
        self.headers: dict[str, Any] = {"id": uuid(), "task": "t", "timelimit": [None, None]}
        self.headers |= {"root_id": None, "parent_id": None, "argsrepr": "", "kwargsrepr": "", **headers}
        self.payload: Any = ((), {}, {})
        self.body, self.content_type, self.content_encoding = b"[[], {}, {}]", "application/json", "utf-8"
        self.properties: dict[str, Any] = {}
        self.delivery_info: dict[str, Any] = {}


def test_a_worker_waits_by_the_servers_clock(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own is 90 s behind, say: what is due in 10 s is due in 10 s, and what expires does so."""
    app.task(name="t", shared=False)(test_a_worker_waits_by_the_servers_clock)
    now = datetime.now(UTC)

    def request(**times: float) -> JobRequest:
        written = {name: (now + timedelta(seconds=seconds)).isoformat() for name, seconds in times.items()}
        return JobRequest(Message(**written), app=app, task=app.tasks["t"])

    monkeypatch.setattr(CLOCK, "behind", 90.0)
    assert request(eta=100).eta == now + timedelta(seconds=10)
    assert request(expires=100).maybe_expire() is None
    assert request(expires=80).maybe_expire() is True
    monkeypatch.setattr(CLOCK, "behind", -90.0)
    assert request(eta=10).eta == now + timedelta(seconds=100)
    assert request(expires=-80).maybe_expire() is None
    monkeypatch.setattr(CLOCK, "behind", 0.1)
    assert request(eta=10).eta == now + timedelta(seconds=10), "what is of no matter is left alone"


def test_how_far_a_clock_is_off(worker: WorkerLedger) -> None:
    clock = ServerClock()
    clock.measure(worker.time)
    assert abs(clock.behind) < 5  # of this machine and its own server
    clock.measure(lambda: worker.time() + 90)
    assert 85 < clock.behind < 95
