"""The ledger's two sides, before a Redis database of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from celery import Celery

from tests.ledger.records import Wait
from tests.lua import check_slots, read_the_time_from_a_key
from tests.servers import Database
from tornado_celery_bridge.ledger import Ledger, calls
from tornado_celery_bridge.ledger.blocking import WorkerLedger


@pytest.fixture
def app(database: Database) -> Iterator[Celery]:
    made = Celery("ledger", broker=database.url, backend=database.url, set_as_current=False)
    made.conf.result_backend_transport_options = {"global_keyprefix": "pre."}
    yield made
    made.close()
    with database.client() as client:
        check_slots(client)


@pytest.fixture
async def ledger(app: Celery) -> AsyncIterator[Ledger]:
    made = await asyncio.to_thread(Ledger, app)
    yield made
    await made.close()


@pytest.fixture
def worker(app: Celery) -> WorkerLedger:
    return WorkerLedger(app)


@pytest.fixture
async def wait(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Have so many seconds pass for the scripts."""
    read_the_time_from_a_key(monkeypatch, calls)

    async def passes(seconds: float) -> None:
        await ledger.redis.client.incrby("clock", round(seconds * 1000))

    await passes(1_000_000)
    return passes
