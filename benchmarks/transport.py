"""
Measure a worker's tasks per second with our Redis transport and with kombu's: ``python -m benchmarks.transport``.

In each run a stock worker is started, the given number of no-op tasks is put into its queue at once, and the time is
taken until the queue and `unacked` are empty. The transports take turns, and ours is first every other time. The ratio
is that of the medians. The server shares two cores with the worker, so compare ratios, not absolute figures.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

import redis
from celery import Celery

from tests.servers import Server, wait_for, worker
from tornado_celery_bridge.transports import register

if os.environ.get("BENCH_TRANSPORT") == "ours":
    register("redis://")

app = Celery("bench", broker=os.environ.get("BENCH_BROKER", "redis://"))
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "1")),
    worker_cancel_long_running_tasks_on_connection_loss=True,
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
)

for name in ("celery.app.trace", "celery.worker.strategy"):  # they log two lines per task
    logging.getLogger(name).setLevel(logging.WARNING)

POOLS = {"prefork": ("-c", "2"), "threads": ("-P", "threads", "-c", "4"), "solo": ("-P", "solo")}


@app.task(name="bench.nothing")
def nothing() -> None:
    pass


def rate(server: Server, kind: str, pool: str, prefetch: int, tasks: int) -> float:
    """Return the tasks per second."""
    with (
        server.client() as client,
        tempfile.TemporaryDirectory() as folder,
        worker(
            "benchmarks.transport",
            {"BENCH_TRANSPORT": kind, "BENCH_BROKER": server.url, "BENCH_PREFETCH": str(prefetch)},
            Path(folder) / "log",
            *("--without-gossip", "--without-mingle", *POOLS[pool]),
        ),
    ):
        publish(server, 100)
        wait_for(lambda: is_empty(client))
        publish(server, tasks)
        begun = time.perf_counter()
        client.rename("held", "celery")
        wait_for(lambda: is_empty(client))
        return tasks / (time.perf_counter() - begun)


def publish(server: Server, tasks: int) -> None:
    """Put *tasks* into the list `held`, or into the queue if they are few."""
    with (
        app.connection_for_write(server.url) as connection,
        connection.Producer() as producer,
        producer.batch(max_size=1000),
    ):
        for _ in range(tasks):
            nothing.apply_async(producer=producer)
    if tasks > 100:
        with server.client() as client:
            client.rename("celery", "held")


def is_empty(client: redis.Redis) -> bool:
    return not client.exists("celery", "unacked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder)).start()
        print(
            "| pool | prefetch multiplier | kombu's, tasks/s | ours, tasks/s | ratio |\n| --- | --- | --- | --- | --- |"
        )
        for pool in options.pools:
            for prefetch in (1, 4):
                rates: dict[str, list[float]] = {"stock": [], "ours": []}
                for run in range(options.runs):
                    for kind in ("stock", "ours") if run % 2 else ("ours", "stock"):
                        rates[kind].append(rate(server, kind, pool, prefetch, options.tasks))
                stock, ours = (statistics.median(rates[kind]) for kind in ("stock", "ours"))
                print(f"| {pool} | {prefetch} | {stock:,.0f} | {ours:,.0f} | {ours / stock:.2f} |", flush=True)
        server.stop()


if __name__ == "__main__":
    main()
