"""What a job costs its Redis, counted: it is what bounds how many jobs one Redis carries."""

import asyncio
import json
import uuid
from collections import Counter

from tests.ledger.records import accept, begin, record
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.blocking import ResultEntry, WorkerLedger

#: Commands that accept, start and finish run, with a result for Celery's backend: docs/benchmarks.md. The look at the
#: schema is one of each three.
MOST = {"accept": 17, "start": 19, "finish": 21}


async def test_a_job_costs_so_many_commands(ledger: Ledger, worker: WorkerLedger) -> None:
    async def commands() -> Counter[str]:
        found = await ledger.redis.client.info("commandstats")
        return Counter({name: stats["calls"] for name, stats in found.items() if name != "cmdstat_info"})

    def entry(job_id: str, state: str) -> ResultEntry:
        return ResultEntry(f"pre.celery-task-meta-{job_id}", json.dumps({"status": state}), 60)

    fewest: dict[str, Counter[str]] = {}
    for _ in range(4):  # at first the queue is not known, and a minute of the history may end
        await accept(ledger, record(str(uuid.uuid4()), owner="o"), {})
        job_id, spent, before = str(uuid.uuid4()), dict[str, Counter[str]](), await commands()
        await accept(ledger, record(job_id, owner="o"), {}, max_unfinished=10)
        spent["accept"], before = await commands() - before, await commands()
        assert await begin(worker, job_id, "token", result_entry=entry(job_id, "STARTED")) == "go"
        spent["start"], before = await commands() - before, await commands()
        end = entry(job_id, "SUCCESS")
        await asyncio.to_thread(worker.finish, job_id, "SUCCESS", None, "token", result_entry=end)
        spent["finish"] = await commands() - before
        fewest |= {step: min(fewest.get(step, many), many, key=Counter.total) for step, many in spent.items()}
    for step, found in fewest.items():
        assert found.pop("cmdstat_evalsha") == 1, step
        assert found.total() <= MOST[step], (step, found)
