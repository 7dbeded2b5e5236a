"""What the tests of Kafka do with a connection of kombu's, and with the ledger."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from celery import Celery, Signature
from kombu import Connection

from tests.transports import consuming
from tornado_celery_bridge.ledger import JobRecord, Ledger
from tornado_celery_bridge.transports import kafka


@contextlib.contextmanager
def connected(url: str, **options: Any) -> Iterator[Connection]:
    options = {"connect_timeout": 10.0, **options}
    with Connection(url, transport=kafka.Transport, transport_options=options) as connection:
        yield connection


def publish(connection: Connection, queue: str, *numbers: int, **more: Any) -> None:
    for number in numbers:
        connection.Producer().publish({"n": number}, routing_key=queue, **more)


class Consuming(consuming.Consuming):
    """That, and how it waits."""

    def get(self, count: int, timeout: float = 20) -> list[int]:
        """Return the numbers of all that came, once there are *count*."""
        while len(self.messages) < count:
            self.connection.drain_events(timeout=timeout)
        return self.numbers

    def drain(self, timeout: float = 0.5) -> list[int]:
        with contextlib.suppress(TimeoutError):
            while True:
                self.connection.drain_events(timeout=timeout)
        return self.numbers


def length(connection: Connection, queue: str) -> int:
    with connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


async def accept(app: Celery, jobs: Sequence[Signature[Any]]) -> None:
    ledger = await asyncio.to_thread(Ledger, app)
    now = round(time.time() * 1000)
    for each in jobs:
        record = JobRecord(id=each.options["task_id"], task="mark", owner="", queue="plain", created_at=now)
        assert (await ledger.jobs.accept(record, {}, message=each)).kind == "accepted"
    await ledger.close()
