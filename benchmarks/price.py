"""
Measure what it costs that no job is lost: ``python -m benchmarks.price``. All figures are of one run, with the
service's settings:

- the tasks per second of one worker: jobs in the ledger on our transport, compared with tasks of stock Celery, and with
  tasks of stock Celery on our transport, so that the two prices are seen apart;
- the CPU time that a task costs the Redis server, from its acceptance to its acknowledgement;
- how long one caller waits for one task after another: accepted in the ledger, dispatched and awaited, compared with
  dispatched and awaited.

In each run a worker is started, the given number of no-op tasks is put into its queue at once, and the time is taken
until the queue and `unacked` are empty. The ways take turns, and the ratios are ratios of the medians.
"""

import argparse
import asyncio
import logging
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import redis
from celery import Celery

import celeryconfig
from benchmarks.transport import is_empty
from tests.servers import Server, wait_for, worker
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.ledger import JobRecord, Ledger
from tornado_celery_bridge.transports import register
from tornado_celery_bridge.worker import install

WAY = os.environ.get("BENCH_WAY", "stock")
WAYS = {
    "stock": "stock Celery",
    "transport": "stock Celery on our transport",
    "ledger": "**jobs in the ledger, on our transport**",
}

app = Celery("bench")
app.config_from_object(celeryconfig)
app.conf.update(imports=(), beat_schedule={}, broker_url=os.environ.get("BENCH_REDIS", "redis://"))
app.conf.result_backend = app.conf.job_ledger_url = app.conf.broker_url  # type: ignore[misc]
app.conf.redis_socket_keepalive = True
if WAY != "stock":
    register("redis://")
if WAY == "ledger":
    install(app)

for name in ("celery.app.trace", "celery.worker.strategy"):  # they log two lines per task
    logging.getLogger(name).setLevel(logging.WARNING)


@app.task(name="price.nothing")
def nothing() -> None:
    pass


def records(count: int) -> list[JobRecord]:
    made = int(time.time() * 1000)
    return [
        JobRecord(id=str(uuid.uuid4()), task=nothing.name, owner="o", queue="celery", created_at=made)
        for _ in range(count)
    ]


async def accept(ledger: Ledger, jobs: list[JobRecord]) -> None:
    for start in range(0, len(jobs), 500):
        await asyncio.gather(
            *(
                ledger.jobs.accept(job, {}, message={"task": job.task, "args": [], "kwargs": {}, "options": {}})
                for job in jobs[start : start + 500]
            )
        )


def publish(jobs: list[JobRecord]) -> None:
    with app.connection_for_write() as connection, connection.Producer() as producer, producer.batch(max_size=1000):
        for job in jobs:
            nothing.apply_async(task_id=job.id, producer=producer)


def cpu_time(client: redis.Redis) -> float:
    """Return the CPU seconds that the server has used."""
    found: Any = client.info("cpu")
    return float(found["used_cpu_sys"] + found["used_cpu_user"])


async def throughput(server: Server, way: str, tasks: int) -> tuple[float, float]:
    """Return the tasks per second, and the microseconds of the server's CPU time for each."""
    ledger = Ledger(app)
    with server.client() as client:
        for jobs in (records(100), records(tasks)):
            used = cpu_time(client)
            if way == "ledger":
                await accept(ledger, jobs)
            publish(jobs)
            if len(jobs) > 100:
                client.rename("celery", "held")
                begun = time.perf_counter()
                client.rename("held", "celery")
            await asyncio.to_thread(wait_for, lambda: is_empty(client))
        taken = time.perf_counter() - begun
        used = cpu_time(client) - used
        client.flushall()
    await ledger.close()
    return tasks / taken, used / tasks * 1_000_000


async def latency(way: str, calls: int) -> float:
    """Return the median time from the call to the result, in ms."""
    ledger, times = Ledger(app), []
    async with Bridge(app) as bridge:
        for job in records(calls):
            begun = time.perf_counter()
            if way == "ledger":
                await accept(ledger, [job])
            await (await bridge.dispatch(nothing.s(), task_id=job.id))
            times.append((time.perf_counter() - begun) * 1000)
    await ledger.close()
    return statistics.median(times[calls // 10 :])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.price", description=__doc__)
    parser.add_argument("--tasks", type=int, default=4_000)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    used: dict[str, list[float]] = {way: [] for way in WAYS}
    waits: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "redis").start()
        app.conf.update(broker_url=server.url, result_backend=server.url, job_ledger_url=server.url)
        for run in range(options.runs):
            for way in list(WAYS)[:: 1 if run % 2 else -1]:
                environment = {"BENCH_REDIS": server.url, "BENCH_WAY": way}
                flags = ("-c", "2", "--without-gossip", "--without-mingle")
                with worker("benchmarks.price", environment, Path(folder) / "log", *flags):
                    rate, cpu = asyncio.run(throughput(server, way, options.tasks))
                    rates[way].append(rate)
                    used[way].append(cpu)
                    waits[way].append(asyncio.run(latency(way, options.calls)))
        server.stop()
    print(
        "| one worker, 2 children | tasks/s | of stock | server's CPU, µs/task | of stock | a call, p50 ms | of stock |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, name in WAYS.items():
        cells = []
        for figures, spec in ((rates, ",.0f"), (used, ".0f"), (waits, ".2f")):
            median = statistics.median(figures[way])
            cells.append(f"{median:{spec}} | {median / statistics.median(figures['stock']):.2f}")
        print(f"| {name} | {' | '.join(cells)} |")
    for way, name in WAYS.items():
        print(f"{name}, each run's µs: {', '.join(f'{cpu:.0f}' for cpu in used[way])}")


if __name__ == "__main__":
    main()
