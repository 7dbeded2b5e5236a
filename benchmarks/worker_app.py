"""The Celery app of :mod:`benchmarks.workers`; stock Celery's, unless BENCH_WAY says otherwise. Sends tasks, too."""

import asyncio
import logging
import os
import statistics
import struct
import sys
import time
from typing import Any

from celery import Celery

WAY = os.environ["BENCH_WAY"]
URL = os.environ["BENCH_REDIS"]
_notes = os.open(os.environ["BENCH_NOTES"], os.O_WRONLY | os.O_APPEND)

app = Celery("bench", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=4 if WAY == "prefork" else 1,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    task_reject_on_worker_lost=True,
    worker_cancel_long_running_tasks_on_connection_loss=True,
)
for name in ("celery.app.trace", "celery.worker.strategy"):  # they log two lines per task
    logging.getLogger(name).setLevel(logging.WARNING)


def note(begun: float) -> int:
    os.write(_notes, struct.pack("dd", begun, time.time()))
    return 1


if WAY.startswith("asyncio"):
    from tornado_celery_bridge.transports import register
    from tornado_celery_bridge.worker import install

    register("redis://")
    install(app)

    @app.task(name="nap")
    async def nap(seconds: float) -> int:
        begun = time.time()
        if seconds:
            await asyncio.sleep(seconds)
        return note(begun)

    @app.task(name="lag")
    async def lag(seconds: float) -> float:
        """Return by how many seconds the loop is late, at p99, while this runs."""
        late, until = list[float](), time.monotonic() + seconds
        while (begun := time.monotonic()) < until:
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - begun - 0.005)
        return statistics.quantiles(late, n=100)[98]

else:

    @app.task(name="nap")
    def nap(seconds: float) -> int:
        begun = time.time()
        if seconds:
            time.sleep(seconds)
        return note(begun)


async def submit(count: int, seconds: float) -> None:
    from tornado_celery_bridge import Bridge

    async with Bridge(app) as bridge:
        for _ in range(0, count, 100):
            await asyncio.gather(*(bridge.submit("nap", (seconds,), dispatch_timeout=30.0) for _ in range(100)))


def publish(count: int, seconds: float) -> None:
    task: Any = nap
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for _ in range(count):
            task.apply_async((seconds,), producer=producer)


if __name__ == "__main__":
    if sys.argv[1] == "lag":
        _result = app.send_task("lag", (float(sys.argv[2]),))
        print("sent", flush=True)
        print(_result.get(timeout=60))
        sys.exit()
    _count, _seconds = int(sys.argv[1]), float(sys.argv[2])
    if WAY == "asyncio-jobs":
        asyncio.run(submit(_count, _seconds))
    else:
        publish(_count, _seconds)
