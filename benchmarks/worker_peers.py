"""
A worker of a peer, or what sends it tasks: ``worker_peers.py PEER work`` or ``... send COUNT SECONDS``.

It runs in the interpreter that has the peers, so it imports nothing of ours. Needs BENCH_REDIS and BENCH_NOTES. Each
runs 1,000 tasks at once in one process, on uvloop if that is installed, and keeps results.
"""

import asyncio
import contextlib
import os
import struct
import sys
import time
from typing import Any

URL = os.environ["BENCH_REDIS"]
AT_ONCE = 1_000
_notes = os.open(os.environ["BENCH_NOTES"], os.O_WRONLY | os.O_APPEND)


async def nap(seconds: float) -> int:
    """Wait, and note from when to when."""
    begun = time.time()
    if seconds:
        await asyncio.sleep(seconds)
    os.write(_notes, struct.pack("dd", begun, time.time()))
    return 1


async def in_parts(count: int, send: Any) -> None:
    for _ in range(0, count, 100):
        await asyncio.gather(*(send() for _ in range(100)))


class Arq:
    @staticmethod
    def work() -> None:
        from arq.connections import RedisSettings
        from arq.worker import Worker, func

        async def task(_: Any, seconds: float) -> int:
            return await nap(seconds)

        settings = RedisSettings.from_dsn(URL)
        Worker([func(task, name="nap")], redis_settings=settings, max_jobs=AT_ONCE, poll_delay=0.01).run()

    @staticmethod
    async def send(count: int, seconds: float) -> None:
        from arq import create_pool
        from arq.connections import RedisSettings

        redis = await create_pool(RedisSettings.from_dsn(URL))
        await in_parts(count, lambda: redis.enqueue_job("nap", seconds))


class Saq:
    @staticmethod
    def work() -> None:
        from saq import Queue, Worker

        async def task(_: Any, *, seconds: float) -> int:
            return await nap(seconds)

        async def run() -> None:
            await Worker(Queue.from_url(URL), [("nap", task)], concurrency=AT_ONCE).start()

        asyncio.run(run())

    @staticmethod
    async def send(count: int, seconds: float) -> None:
        from saq import Queue

        queue = Queue.from_url(URL)
        await in_parts(count, lambda: queue.enqueue("nap", seconds=seconds))


class Taskiq:
    @staticmethod
    def broker() -> Any:
        from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

        broker = ListQueueBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))
        broker.register_task(nap, "nap")
        return broker

    @staticmethod
    def work() -> None:
        from taskiq.api import run_receiver_task

        async def run() -> None:
            await run_receiver_task(Taskiq.broker(), max_async_tasks=AT_ONCE, run_startup=True)

        asyncio.run(run())

    @staticmethod
    async def send(count: int, seconds: float) -> None:
        broker = Taskiq.broker()
        await broker.startup()
        task = broker.find_task("nap")
        await in_parts(count, lambda: task.kiq(seconds))


class Streaq:
    @staticmethod
    def worker() -> Any:
        from streaq import Worker

        worker = Worker(redis_url=URL, concurrency=AT_ONCE)
        return worker, worker.task(nap)

    @staticmethod
    def work() -> None:
        worker, _ = Streaq.worker()
        asyncio.run(worker.run_async())

    @staticmethod
    async def send(count: int, seconds: float) -> None:
        worker, task = Streaq.worker()
        async with worker:
            await in_parts(count, lambda: _enqueued(task.enqueue(seconds)))


async def _enqueued(task: Any) -> None:
    await task


PEERS: dict[str, Any] = {each.__name__.lower(): each for each in (Arq, Saq, Taskiq, Streaq)}


def main() -> None:
    peer, what, *numbers = sys.argv[1:]
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    if what == "work":
        PEERS[peer].work()
    else:
        asyncio.run(PEERS[peer].send(int(numbers[0]), float(numbers[1])))


if __name__ == "__main__":
    main()
