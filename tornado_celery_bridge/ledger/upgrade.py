"""Brings the ledger of an older version to this one's schema: what ``tcb upgrade`` does."""

from collections.abc import Callable
from typing import Any

import redis
from celery import Celery

from tornado_celery_bridge.ledger import schema
from tornado_celery_bridge.ledger.connection import BlockingConnection
from tornado_celery_bridge.ledger.schema import AnotherSchema

#: What brings the keys that begin with a prefix from one schema to the next, by the former. A step may be interrupted
#: anywhere, and is then done again from its beginning.
STEPS: dict[int, Callable[[redis.Redis, str], None]] = {}

#: Milliseconds. A worker that was not heard of for so long is gone.
SILENT = 10_000


class StillRunning(Exception):
    """Processes of the older version still run. The message names them, and says what to do."""


def upgrade(app: Celery) -> tuple[int, int]:
    """
    Bring *app*'s ledger to this version's schema. Blocks. No process may use the ledger meanwhile; none can.

    Returns:
        The schema before, and the one now. They are the same if there was nothing to do.

    Raises:
        AnotherSchema: A newer version has upgraded the ledger.
        StillRunning: Workers or a beat of the older version still run.
        RedisError: The ledger's Redis does not answer. What was done already stays, and ``upgrade`` goes on from there.
    """
    connection = BlockingConnection(app)
    client, key = connection.client, f"{connection.prefix}schema"
    try:
        found: Any = client.get(key)
        text = str(schema.SCHEMA) if found is None else found.decode()
        before = int(text.partition(">")[0])
        after = schema.SCHEMA
        if before > after or text not in (str(before), f"{before}>{after}"):
            raise AnotherSchema(text)
        if before == after:
            return before, after
        if running := _running(client, connection.prefix):
            raise StillRunning(f"stop these first, with all other processes of the older version: {', '.join(running)}")
        client.set(key, f"{before}>{after}")
        for number in range(before, after):
            STEPS[number](client, connection.prefix)
        client.set(key, after)
        return before, after
    finally:
        client.close()


def _running(client: Any, prefix: str) -> list[str]:
    """Return the workers and the beat that were heard of of late. No schema changes how they are known."""
    seconds, micros = client.time()
    since = seconds * 1000 + micros // 1000 - SILENT
    workers = [f"worker {name.decode()}" for name in client.zrangebyscore(f"{prefix}workers", since, "+inf")]
    leader = client.get(f"{prefix}schedules:leader")
    return [*workers, *([f"beat {leader.decode().partition(' ')[2]}"] if leader else [])]
