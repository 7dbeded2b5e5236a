"""The same events on a WebSocket."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.service.site import Service, nothing_new, problem, tasks_of, until
from tornado_celery_bridge.service.resources.jobs import frames, streams


@asynccontextmanager
async def connected(service: Service, path: str) -> AsyncIterator[WebSocketClientConnection]:
    socket = await websocket_connect(f"ws://127.0.0.1:{service.port}{path}")
    try:
        yield socket
    finally:
        socket.close()


def handshake(path: str) -> bytes:
    key = base64.b64encode(bytes(16)).decode()
    head = f"GET {path}/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()


async def rest(socket: WebSocketClientConnection) -> list[dict[str, Any]]:
    told = []
    while (message := await asyncio.wait_for(socket.read_message(), 20)) is not None:
        told.append(json.loads(message))
    return told


async def test_the_same_frames(service: Service) -> None:
    made = json.loads((await service.submit("s.steps", {"input": {"count": 3}})).body)
    async with connected(service, f"/v1/jobs/{made['id']}/ws") as socket:
        told = await rest(socket)
        assert (socket.close_code, socket.close_reason) == (1000, "end")
    assert [frame["id"] for frame in told] == list(range(len(told)))
    assert [frame["event"] for frame in told] == ["state", "state", "progress", "progress", "progress", "end"]
    assert told[-1]["data"] == json.loads((await service.fetch(made["links"]["self"])).body)
    async with connected(service, f"/v1/jobs/{made['id']}/ws?after={told[-2]['id']}") as socket:
        assert await rest(socket) == told[-1:]


async def test_items(service: Service) -> None:
    made = json.loads((await service.submit("s.yields", {"input": {"count": 2}})).body)
    async with connected(service, f"/v1/jobs/{made['id']}/ws") as socket:
        told = await rest(socket)
    items = [frame["data"] for frame in told if frame["event"] == "item"]
    assert items == [{"attempt": 1, "number": n, "value": {"x": n - 1, "y": 0}} for n in (1, 2)]


async def test_refusals(service: Service) -> None:
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}})).body)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = base64.b64encode(bytes(16)).decode()
    problem(await service.fetch("/v1/jobs/none/ws", headers=upgrade), 404, "unknown-job")
    foreign = upgrade | {"Origin": "https://elsewhere.example"}
    path = f"/v1/jobs/{made['id']}/ws"
    problem(await service.fetch(path, headers=foreign), 403, "forbidden")
    url = HTTPRequest(f"ws://127.0.0.1:{service.port}{path}", headers={"Origin": f"http://127.0.0.1:{service.port}"})
    ours = await websocket_connect(url)  # as a page of the service
    assert json.loads(str(await ours.read_message()))["event"] == "state"
    ours.close()
    problem(await service.fetch(path), 400, "not-a-websocket")
    problem(await service.fetch(path, headers=upgrade | {"Sec-WebSocket-Version": "12"}), 426, "upgrade-required")


async def test_who_leaves_leaves_nothing_and_a_shutdown_says_so(service: Service) -> None:
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}})).body)
    before = await tasks_of(service)
    path = f"/v1/jobs/{made['id']}/ws"
    async with connected(service, path) as leaving, connected(service, path) as staying:
        assert json.loads(await leaving.read_message() or "")["data"]["state"] == "PENDING"
        assert service.jobs.ledger.events.following == 2
        leaving.close()
        await until(lambda: service.jobs.ledger.events.following == 1)
        service.lifecycle.closing.set()
        assert (await rest(staying))[-1] == {"event": "close", "data": {"reason": "shutting-down"}, "id": None}
        assert staying.close_code == 1001
    await until(lambda: not service.lifecycle._requests)
    await nothing_new(before)


async def test_a_client_without_pongs_is_not_told_that_it_has_all(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.FollowJobByWebsocket, "ping_interval", 0.2)
    monkeypatch.setattr(streams.FollowJobByWebsocket, "ping_timeout", 0.1)
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"countdown": 60}})).body)
    reader, writer = await service.raw(handshake(made["links"]["self"]))
    sent = await asyncio.wait_for(reader.read(100_000), 10)
    while b"ping timed out" not in sent:
        sent += (piece := await asyncio.wait_for(reader.read(100_000), 10))
        assert piece, sent
    assert b"\x03\xe9ping timed out" in sent  # 1001
    writer.close()
    await service.post(f"{made['links']['self']}/cancel", {})


@pytest.mark.parametrize(
    ("frame", "close"),
    [
        (b"\x81\xff" + (64 * 1024 + 1).to_bytes(8, "big") + bytes(4), b"\x03\xf1message too big"),  # 1009
        (b"\x81\x81" + bytes(4) + b"\xff", b""),  # no UTF-8: the connection is cut off, as Tornado does
    ],
    ids=["too large", "no text"],
)
async def test_what_a_client_may_not_send_ends_its_connection(service: Service, frame: bytes, close: bytes) -> None:
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"countdown": 60}})).body)
    reader, writer = await service.raw(handshake(made["links"]["self"]))
    async with asyncio.timeout(20):
        await reader.readuntil(b"PENDING")
        writer.write(frame)
        sent = await reader.read()
    assert close in sent
    writer.close()
    await until(lambda: not service.lifecycle._requests)
    await until(lambda: not service.jobs.ledger.events.following)
    await service.post(f"{made['links']['self']}/cancel", {})


async def test_a_slow_reader_is_told_1008(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x" * 900_000  # comes more often than any socket's buffers hold

    async def often(*args: Any) -> AsyncIterator[frames.Frame]:
        for _ in range(100):
            yield frames.Frame("state", text)

    monkeypatch.setattr(streams, "WRITE_TIMEOUT", 0.2)
    monkeypatch.setattr(streams, "frames", often)
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"countdown": 60}})).body)
    reader, writer = await service.raw(handshake(made["links"]["self"]))
    streaming = service.jobs.metrics.streams._value
    await until(lambda: streaming.get())
    await until(lambda: not streaming.get())
    last = b""
    async with asyncio.timeout(20):
        while b"\x03\xf0slow-reader" not in last:  # 1008
            last = last[-20:] + (piece := await reader.read(1_000_000))
            assert piece
    writer.close()
    await until(lambda: not service.lifecycle._requests)
    await service.post(f"{made['links']['self']}/cancel", {})
