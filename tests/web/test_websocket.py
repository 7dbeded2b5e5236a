"""The same events on a WebSocket."""

import asyncio
import json
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.web.conftest import Service, nothing_new, tasks_of, until

pytestmark = [pytest.mark.server, pytest.mark.worker]


async def connect(service: Service, path: str, **headers: str) -> WebSocketClientConnection:
    return await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{service.port}{path}", headers=headers))


async def rest(socket: WebSocketClientConnection) -> list[dict[str, Any]]:
    told = []
    while (message := await asyncio.wait_for(socket.read_message(), 20)) is not None:
        told.append(json.loads(message))
    return told


async def test_the_same_frames(service: Service) -> None:
    made = json.loads((await service.submit("s.steps", {"input": {"count": 3}})).body)
    socket = await connect(service, f"/v1/jobs/{made['id']}/ws")
    told = await rest(socket)
    assert [frame["id"] for frame in told] == list(range(len(told)))
    assert [frame["event"] for frame in told] == ["state", "state", "progress", "progress", "progress", "end"]
    assert told[-1]["data"] == json.loads((await service.fetch(made["links"]["self"])).body)
    assert (socket.close_code, socket.close_reason) == (1000, "end")
    socket = await connect(service, f"/v1/jobs/{made['id']}/ws?after={told[-2]['id']}")
    assert await rest(socket) == told[-1:]


async def test_refusals(service: Service) -> None:
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}})).body)
    with pytest.raises(HTTPClientError, match="404"):
        await connect(service, "/v1/jobs/none/ws")
    with pytest.raises(HTTPClientError, match="403"):
        await connect(service, f"/v1/jobs/{made['id']}/ws", Origin="https://elsewhere.example")
    assert (await service.fetch(f"/v1/jobs/{made['id']}/ws")).code in (400, 426)


async def test_who_leaves_leaves_nothing_and_a_shutdown_says_so(service: Service) -> None:
    made = json.loads((await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}})).body)
    before = await tasks_of(service)
    leaving = await connect(service, f"/v1/jobs/{made['id']}/ws")
    staying = await connect(service, f"/v1/jobs/{made['id']}/ws")
    assert json.loads(await leaving.read_message() or "")["data"]["state"] == "PENDING"
    leaving.close()
    await until(lambda: service.jobs.ledger.following == 1)
    service.lifecycle.closing.set()
    assert (await rest(staying))[-1] == {"event": "close", "data": {"reason": "shutting-down"}, "id": None}
    assert staying.close_code == 1001
    await until(lambda: not service.lifecycle._requests)
    await nothing_new(before)
