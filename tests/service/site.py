"""The service as a real HTTP server in the test's own loop, and what the tests ask of it."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from celery import Celery
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.web import Application

from tornado_celery_bridge import Bridge, BridgeConfig
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable
from tornado_celery_bridge.service import Service as Product
from tornado_celery_bridge.service.access.keys import Keyring
from tornado_celery_bridge.service.http.handler import MAX_BODY
from tornado_celery_bridge.service.http.lifecycle import Lifecycle
from tornado_celery_bridge.service.pages.flower import Flower
from tornado_celery_bridge.service.process.server import make_server
from tornado_celery_bridge.service.resources.catalogue import Catalogue
from tornado_celery_bridge.service.resources.jobs.service import Jobs

ROOT = Path(__file__).parents[2]


@dataclass
class Service:
    """A running service, and what is behind it."""

    port: int
    product: Product
    server: HTTPServer
    client: AsyncHTTPClient

    @property
    def jobs(self) -> Jobs:
        return self.product.jobs

    @property
    def lifecycle(self) -> Lifecycle:
        return self.product.lifecycle

    @property
    def bridge(self) -> Bridge:
        return self.jobs.bridge

    @property
    def application(self) -> Application:
        return cast(Application, self.server.request_callback)

    async def fetch(self, path: str, method: str = "GET", **options: Any) -> HTTPResponse:
        options.setdefault("allow_nonstandard_methods", True)
        url = f"http://127.0.0.1:{self.port}{path}"
        options.setdefault("request_timeout", 30)
        return await self.client.fetch(url, method=method, raise_error=False, **options)

    async def post(
        self, path: str, body: Any = b"", headers: dict[str, str] | None = None, **options: Any
    ) -> HTTPResponse:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.fetch(
            path, "POST", body=content, headers={"Content-Type": "application/json", **(headers or {})}, **options
        )

    async def submit(self, task: str, body: Any = None, *, wait: int | None = None) -> HTTPResponse:
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        timeout = 30 + (wait or 0)  # the service is to answer in its time, not the client to give up before
        return await self.post(f"/v1/tasks/{task}/jobs", {} if body is None else body, headers, request_timeout=timeout)

    async def started(self, job_id: str) -> None:
        """Return once a worker has begun the job."""
        async with asyncio.timeout(20):
            with self.jobs.ledger.events.follow(job_id) as events:
                async for event in events:
                    if json.loads(event.data).get("state") == "STARTED":
                        return

    async def messages(self) -> int:
        """How many messages of this process are in the worker's queues' lists; a worker may publish copies any time."""
        redis, origin = self.jobs.ledger.redis.client, f'"gen{os.getpid()}@'.encode()
        lists = [
            queue + step for queue in ("websample", "quiet") for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")
        ]
        found = [each for name in lists for each in await redis.lrange(name, 0, -1)]
        return sum(origin in each for each in found)

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def running(
    app: Celery,
    ledger: Ledger | None = None,
    config: BridgeConfig | None = None,
    *,
    keys: Keyring | None = None,
    max_body: int = MAX_BODY,
    flower: Flower | None = None,
) -> AsyncIterator[Service]:
    """Serve until the block ends, then check that no request is left."""
    async with Bridge(app, config) as bridge:
        if ledger is None:
            ledger = await asyncio.to_thread(Ledger, app)
        product = Product(bridge)
        product.keys, product.flower, product.max_body = keys, flower, max_body
        product.use(Jobs(bridge, ledger, await asyncio.to_thread(Catalogue, app), links=product.links))
        with contextlib.suppress(LedgerUnavailable):
            await product.tell_owners()
        server = make_server(product)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        client = SimpleAsyncHTTPClient(force_instance=True, max_clients=200)
        try:
            yield Service(sockets[0].getsockname()[1], product, server, client)
        finally:
            client.close()
            server.stop()
            await product.lifecycle.end(5, 5)
            await server.close_all_connections()
            await product.close()
            await ledger.close()
            assert product.lifecycle._requests == 0


def problem(response: HTTPResponse, status: int, code: str) -> dict[str, Any]:
    """Check that *response* is a whole problem document, and return it."""
    assert response.code == status, response.body
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(response.body)
    assert document["status"] == status
    assert document["code"] == code
    assert document["type"].endswith(code)
    assert document["title"]
    assert document["detail"]
    assert document["instance"].startswith("/")
    assert document["request_id"] == response.headers["X-Request-Id"]
    assert document["trace_id"] == response.headers["traceparent"].split("-")[1]
    return document


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Return once *condition* holds. For what gives no event to wait for: another process, or the far end."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


async def tasks_of(service: Service) -> set[asyncio.Task[Any]]:
    """Return the loop's tasks once both listeners have those of their connections, which are there to stay."""
    await until(lambda: service.bridge._parts.listener.connected)
    with service.jobs.ledger.events.follow("nothing"):
        await until(lambda: service.jobs.ledger.events._subscriber.connected)
    return asyncio.all_tasks()


async def nothing_new(before: set[asyncio.Task[Any]]) -> None:
    """Check that every task that was not there *before* ends."""
    try:
        await until(lambda: asyncio.all_tasks() <= before)
    except TimeoutError:
        raise AssertionError(f"still there: {asyncio.all_tasks() - before}") from None


def environment(**more: str) -> dict[str, str]:
    """The environment of a process of the product."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}
