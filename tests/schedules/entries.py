"""Schedule entries as the tests write them."""

from collections.abc import Iterable
from typing import Any

from redis import Redis

from tornado_celery_bridge.schedules import Entry


def entry(**fields: Any) -> Entry:
    when = {} if fields.keys() & {"interval", "once", "solar", "crontab"} else {"crontab": "0 * * * *"}
    return Entry.of_mapping({"name": "e", "task": "t", **when, **fields})


def seed(client: Redis, entries: Iterable[Entry], slot: int) -> None:
    """Write entries down, due for a run at *slot* (milliseconds since 1970)."""
    with client.pipeline(transaction=False) as pipeline:
        for one in entries:
            known = {"entry": one.encode(), "version": 1, "slot": slot}
            pipeline.hset(f"{{tcb}}schedule:{one.name}", mapping=known)  # type: ignore[arg-type]
            pipeline.zadd("{tcb}schedules", {one.name: 0})
            pipeline.zadd("{tcb}schedules:due", {one.name: one.due(slot)})
        pipeline.execute()
