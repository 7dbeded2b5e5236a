"""One Tornado process of the comparison. Its argument is the way of handling. Needs BENCH_REDIS; prints its port."""

import asyncio
import concurrent.futures
import json
import os
import sys
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

URL = os.environ["BENCH_REDIS"]
WAYS: dict[str, Any] = {}


def way(make: Any) -> Any:
    WAYS[make.__name__.rstrip("_")] = make
    return make


def celery_app() -> Any:
    from celery import Celery

    app = Celery("bench", broker=URL, backend=URL)

    @app.task(name="bench.add")
    def add(x: int, y: int) -> int:
        return x + y

    return app, add


@way
async def bare() -> Any:
    async def handle() -> Any:
        return 1

    return handle


@way
async def delay_on_loop() -> Any:
    _, add = celery_app()

    async def handle() -> Any:
        return add.delay(2, 2).id

    return handle


@way
async def pool_delay() -> Any:
    _, add = celery_app()
    pool = concurrent.futures.ThreadPoolExecutor(32)

    async def handle() -> Any:
        return (await asyncio.get_running_loop().run_in_executor(pool, add.delay, 2, 2)).id

    return handle


@way
async def pool_get() -> Any:
    _, add = celery_app()
    pool = concurrent.futures.ThreadPoolExecutor(32)

    async def handle() -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: add.delay(2, 2).get(timeout=30))

    return handle


@way
async def pool_nap() -> Any:
    app, _ = celery_app()
    pool = concurrent.futures.ThreadPoolExecutor(32)

    async def handle() -> Any:
        nap = app.signature("bench.nap", (1.0,))
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: nap.delay().get(timeout=60))

    return handle


@way
async def bridge_nap() -> Any:
    from tornado_celery_bridge import Bridge

    app, _ = celery_app()
    bridge = await Bridge(app).start()

    async def handle() -> Any:
        return await (await bridge.dispatch("bench.nap", (1.0,)))

    return handle


@way
async def bridge_dispatch() -> Any:
    from tornado_celery_bridge import Bridge

    app, add = celery_app()
    bridge = await Bridge(app).start()

    async def handle() -> Any:
        return (await bridge.dispatch(add.s(2, 2))).id

    return handle


@way
async def bridge_await() -> Any:
    from tornado_celery_bridge import Bridge

    app, add = celery_app()
    bridge = await Bridge(app).start()

    async def handle() -> Any:
        return await (await bridge.dispatch(add.s(2, 2)))

    return handle


@way
async def arq() -> Any:
    from arq import create_pool
    from arq.connections import RedisSettings

    redis = await create_pool(RedisSettings.from_dsn(URL))

    async def handle() -> Any:
        return (await redis.enqueue_job("add", 2, 2)).job_id

    return handle


@way
async def saq() -> Any:
    from saq import Queue

    queue = Queue.from_url(URL)

    async def handle() -> Any:
        return (await queue.enqueue("add", x=2, y=2)).id

    return handle


@way
async def taskiq() -> Any:
    from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

    broker = ListQueueBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))

    @broker.task(task_name="add")  # type: ignore[untyped-decorator]
    async def add(x: int, y: int) -> int:
        return x + y

    await broker.startup()

    async def handle() -> Any:
        return (await add.kiq(2, 2)).task_id

    return handle


@way
async def streaq() -> Any:
    from streaq import Worker

    worker = Worker(redis_url=URL)

    @worker.task  # type: ignore[untyped-decorator]
    async def add(x: int, y: int) -> int:
        return x + y

    await worker.__aenter__()

    async def handle() -> Any:
        return (await add.enqueue(2, 2)).id

    return handle


class Handler(tornado.web.RequestHandler):
    async def get(self) -> None:
        self.finish(json.dumps({"ok": await self.settings["handle"]()}))

    def log_exception(self, *args: Any) -> None:
        super().log_exception(*args)


async def main(name: str) -> None:
    handle = await WAYS[name]()
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Handler)], handle=handle, log_function=id))
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
