"""Refused requests leave no trace that grows, and take nobody's entries away."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.servers import Database
from tests.service.keys import Guarded, guarded
from tornado_celery_bridge.service.access import audit


async def size_of(town: Guarded) -> int:
    redis = town.service.jobs.ledger.redis
    names = await redis.call("KEYS", f"{redis.prefix}audit:*")
    return sum([int(await redis.call("MEMORY", "USAGE", name, "SAMPLES", 0)) for name in names])


async def test_a_flood_of_refused_requests(database: Database, everybody: tuple[Path, dict[str, str]]) -> None:
    async with guarded(database.url, everybody) as town:
        log = town.service.product.audit
        assert (await town.submit("alice", "s.add", [1])).code == 202
        long = "/v1/jobs/" + "x" * 7_900 + "/cancel"
        viewer = town.keys["viewer"].split("_")[1]
        await asyncio.gather(*(town.fetch("viewer", long, "POST") for _ in range(50)))
        await log.close()
        before = await size_of(town)
        await asyncio.gather(*(town.fetch("viewer", long, "POST") for _ in range(150)))
        # As many as were seen: they need not all come over the network.
        refused: Any = {"at": "x", "key": viewer, "status": 403, "path": long, "target": long}
        for _ in range(21_200):
            log.record(refused, is_submission=False)
        await log.close()
        assert await size_of(town) < before + 1_000  # bytes: a count, and its time
        told = json.loads((await town.fetch("admin", "/v1/audit")).body)
        assert [each["path"] for each in told["entries"]] == ["/v1/tasks/s.add/jobs"]
        [counted] = told["refused"]
        assert (counted["key"], counted["status"], counted["times"]) == (viewer, 403, 21_400)


async def test_the_log_of_a_key_has_a_bound_in_bytes(
    database: Database, everybody: tuple[Path, dict[str, str]]
) -> None:
    async with guarded(database.url, everybody) as town:
        log = town.service.product.audit
        path = "/v1/queues/" + "x" * 8_000 + "/pause"
        entry: Any = {"at": "x" * 24, "key": "a", "status": 200, "path": path, "target": path, "method": "POST"}
        for _ in range(6):
            for _ in range(audit.MOST // 3):
                log.record(entry.copy(), is_submission=False)
            await log.close()
        assert await size_of(town) < 1_000 * audit.MOST  # bytes
