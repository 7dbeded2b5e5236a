"""Handlers with the mixin: requests under way when the server ends, and clients that hang up."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from celery import Celery
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from tornado_celery_bridge import Bridge, TaskState
from tornado_celery_bridge.handlers import ClientLeft, TaskHandlerMixin, drain

#: Characters of an answer that no buffer of a socket holds.
LARGE = 20_000_000


class Nap(TaskHandlerMixin, RequestHandler):
    """Awaits a task, and overrides what handlers usually override, without calling the mixin's."""

    async def prepare(self) -> None:
        self.settings["began"].set()

    def on_finish(self) -> None:
        pass

    async def get(self, seconds: str) -> None:
        result = await self.bridge.dispatch("sample.nap", (float(seconds),))
        self.write({"slept": await self.bridge.get(result, timeout=20)})


class Large(TaskHandlerMixin, RequestHandler):
    async def get(self) -> None:
        self.settings["began"].set()
        self.write("x" * LARGE)


class Napping(TaskHandlerMixin, WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        self.settings["began"].set()
        result = await self.bridge.dispatch("sample.nap", (float(message),))
        await self.write_message(str(await self.bridge.get(result, timeout=20)))


class Revoking(TaskHandlerMixin, RequestHandler):
    async def get(self, seconds: str) -> None:
        result = await self.bridge.dispatch("sample.nap", (float(seconds),))
        self.settings["results"].append(result)
        try:
            self.write({"slept": await self.unless_client_leaves(result)})
        except ClientLeft:
            await self.bridge.revoke(result, terminate=True)


class Leaving(TaskHandlerMixin, RequestHandler):
    async def get(self, seconds: str) -> None:
        result = await self.bridge.dispatch("sample.nap", (float(seconds),))
        self.settings["results"].append(result)
        await self.unless_client_leaves(self.bridge.get(result))


class Site:
    def __init__(self, bridge: Bridge) -> None:
        routes: list[Any] = [
            (r"/nap/(.*)", Nap),
            (r"/large", Large),
            (r"/revoking/(.*)", Revoking),
            (r"/leaving/(.*)", Leaving),
        ]
        routes.append((r"/napping", Napping))
        self.bridge = bridge
        self.began = asyncio.Event()
        self.results: list[Any] = []
        self.sockets: list[WebSocketClientConnection] = []
        self.application = Application(routes, bridge=bridge, began=self.began, results=self.results)
        self.server = HTTPServer(self.application)
        socket, self.port = bind_unused_port()
        self.server.add_socket(socket)

    async def get(self, path: str) -> HTTPResponse:
        client = AsyncHTTPClient(force_instance=True, max_body_size=2 * LARGE)
        try:
            return await client.fetch(f"http://127.0.0.1:{self.port}{path}", raise_error=False)
        finally:
            client.close()

    async def socket(self) -> WebSocketClientConnection:
        self.sockets.append(await websocket_connect(f"ws://127.0.0.1:{self.port}/napping"))
        return self.sockets[-1]

    async def hang_up(self, path: str) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while not self.results:
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def site(app: Celery) -> AsyncIterator[Site]:
    bridge = await Bridge(app).start()
    made = Site(bridge)
    yield made
    for socket in made.sockets:
        socket.close()
    made.server.stop()
    await made.server.close_all_connections()
    await bridge.close()
    gc.collect()


async def test_requests_under_way_are_answered(site: Site) -> None:
    asking = asyncio.ensure_future(site.get("/nap/0.5"))
    await site.began.wait()
    await drain(site.server, timeout=10)
    await site.bridge.close()
    assert (await asking).code == 200
    with pytest.raises((OSError, HTTPClientError)):
        await site.get("/nap/0")


async def test_websockets_are_closed_in_order(site: Site) -> None:
    """One that waits for nothing at once; one that was asked for something when it has answered that."""
    idle, busy = await site.socket(), await site.socket()
    await busy.write_message("0.5")
    await site.began.wait()
    draining = asyncio.ensure_future(drain(site.server, timeout=60))
    assert await idle.read_message() is None
    assert (idle.close_code, idle.close_reason) == (1001, "the server is going down")
    assert await busy.read_message() == "0.5"
    assert await busy.read_message() is None
    assert busy.close_code == 1001
    await draining


async def test_a_websocket_whose_answer_takes_too_long_is_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    busy = await site.socket()
    await busy.write_message("3")
    await site.began.wait()
    draining = asyncio.ensure_future(drain(site.server, timeout=0.1))
    assert await busy.read_message() is None
    assert busy.close_code == 1001
    await draining
    assert "1 requests are cut off" in caplog.text


async def test_a_large_answer_is_written_to_its_end(site: Site) -> None:
    asking = asyncio.ensure_future(site.get("/large"))
    await site.began.wait()
    await drain(site.server, timeout=10)
    assert len((await asking).body) == LARGE


async def test_what_takes_too_long_is_cut_off(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    asking = asyncio.ensure_future(site.get("/nap/3"))
    await site.began.wait()
    await drain(site.server, timeout=0.1)
    with pytest.raises(HTTPClientError):
        await asking
    assert "1 requests are cut off" in caplog.text


@pytest.mark.parametrize(
    ("path", "ends"),
    [
        ("/revoking/30", lambda state: state.state == "REVOKED"),
        ("/leaving/0.3", lambda state: state.result == 0.3),
    ],
)
async def test_a_client_that_leaves_ends_the_wait(
    site: Site, path: str, ends: Callable[[TaskState], bool], caplog: pytest.LogCaptureFixture
) -> None:
    await site.hang_up(path)
    assert ends(await site.bridge.wait(site.results[0], timeout=20))
    assert site.bridge._parts.awaiting.waits == 0
    await drain(site.server, timeout=5)  # nothing is under way any more
    assert "cut off" not in caplog.text
    assert "ERROR" not in caplog.text
