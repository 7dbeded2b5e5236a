"""Half-sent requests, idle connections and slow bodies keep nobody else out, and fill no log."""

import asyncio
import contextlib
import http.client
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import free_port, wait_for
from tests.service.keys import made, write
from tests.service.site import ROOT, Service, environment
from tornado_celery_bridge.service.http import server as limits
from tornado_celery_bridge.service.http.server import Server

HALF = b"GET /healthz HTTP/1.1\r\nHost: local"


@pytest.fixture
async def small(keyless: Service) -> Service:
    """A service that takes few connections."""
    server = keyless.server
    assert isinstance(server, Server)
    server.most, server.most_of_one = 20, 10
    return keyless


async def half_sent(service: Service, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await service.raw(HALF) for _ in range(count)]


def closed(connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> int:
    return sum(reader.at_eof() for reader, _ in connections)


async def test_who_waits_longest_makes_room(small: Service, caplog: pytest.LogCaptureFixture) -> None:
    first = await half_sent(small, 10)
    second = await half_sent(small, 30)
    for _ in range(5):
        assert (await small.fetch("/healthz", request_timeout=2)).code == 200
    async with asyncio.timeout(5):
        while closed(first) < 10:
            await asyncio.sleep(0.01)
    assert closed(second) >= 20
    assert len([record for record in caplog.records if "make room" in record.getMessage()]) == 1
    for _, writer in first + second:
        writer.close()


async def test_if_all_are_busy_a_new_one_is_refused(small: Service) -> None:
    job = await small.submit("s.add", {"input": [1], "options": {"countdown": 60}})
    path = job.headers["Location"]
    head = f"GET {path}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    small.client.close()  # it has a connection of its own
    streams = [await small.raw(head) for _ in range(10)]
    for reader, _ in streams:
        await asyncio.wait_for(reader.readuntil(b"event: state"), 10)
    reader, writer = await small.raw(head)
    assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 503 Service Unavailable\r\n"
    assert b"Retry-After: 1" in await reader.read()
    writer.close()
    streams[0][1].close()
    async with asyncio.timeout(5):
        while True:
            reader, writer = await small.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            is_let_in = b" 200 " in await reader.readline()
            writer.close()
            if is_let_in:
                break
    for _, writer in streams:
        writer.close()


async def test_a_first_header_has_a_deadline(small: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_HEADER", 0.2)
    monkeypatch.setattr(limits, "LOOK", 0.05)
    [(reader, writer)] = await half_sent(small, 1)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_body_may_take_as_long_as_it_comes(small: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WINDOW", 0.4)
    monkeypatch.setattr(limits, "LOOK", 0.1)
    body = b'{"input": ["' + b"x" * 4000 + b'"]}'
    head = f"POST /v1/tasks/s.echo/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    reader, writer = await small.raw(head)
    began = time.monotonic()
    for start in range(0, len(body), 100):  # more than 1,024 bytes a second, for several windows
        writer.write(body[start : start + 100])
        await writer.drain()
        await asyncio.sleep(0.04)
    assert time.monotonic() - began > 1.5
    assert b" 202 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    reader, writer = await small.raw(head + body[:100])
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


@pytest.mark.parametrize("knows", [True, False], ids=["the limit is known", "files run out"])
def test_more_half_sent_requests_than_descriptors(web_url: str, tmp_path: Path, knows: bool) -> None:
    """300 with `ulimit -n 256`; or with one that is lowered later, so that descriptors run out."""
    port, log = free_port(), tmp_path / "log"
    key, entry = made()
    settings = environment(
        **{"CELERY_APP": "tests.service.sample", "SAMPLE_URL": web_url, "ALLOW_UNSAFE": "no-aof"},
        **{"API_KEYS_FILE": str(write(tmp_path / "keys.json", entry)), "DATA_DIR": str(tmp_path), "PORT": str(port)},
    )
    command = [sys.executable, "-m", "tornado_celery_bridge", "serve"]
    if knows:
        command = ["sh", "-c", f"ulimit -n 256; exec {' '.join(command)}"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=settings, cwd=ROOT, stdout=out, stderr=out)

    def health() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            return connection.getresponse().status

    half: list[socket.socket] = []
    try:
        wait_for(lambda: "serving http" in log.read_text() or process.poll() is not None)
        if not knows:
            subprocess.run(["prlimit", f"--pid={process.pid}", "--nofile=256:256"], check=True)
        for _ in range(300):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.sendall(HALF)
            half.append(connection)
        times = []
        for _ in range(10):
            began = time.monotonic()
            assert health() == 200
            times.append(time.monotonic() - began)
        assert max(times) < 2.0, times
    finally:
        for connection in half:
            connection.close()
        process.terminate()
        process.wait(20)
    assert len(log.read_bytes()) < 10_000, log.read_text()[:5_000]
    assert "Traceback" not in log.read_text()
    assert key not in log.read_text()


#: What has no key and is large.
BUNDLE = "/docs/swagger-ui-bundle.js"


async def asks_and_does_not_read(service: Service) -> socket.socket:
    """Ask for more than a kernel keeps for somebody who reads nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", service.port))
    await loop.sock_sendall(connection, f"GET {BUNDLE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def unread(server: Server) -> int:
    """Return how many bytes of answers the process keeps for those who have not read them."""
    return sum(len(stream._write_buffer) for stream in server._addresses if stream.writing())


async def test_answers_that_nobody_reads_have_a_bound(
    keyless: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a key each of 5,000 connections held 1.4 MB of the process's memory, for ever."""
    server = keyless.server
    assert isinstance(server, Server)
    monkeypatch.setattr(limits, "MOST_UNREAD", 4_000_000)
    monkeypatch.setattr(limits, "REQUESTS", 1)
    whole = len((await keyless.fetch(BUNDLE)).body)
    assert whole > 1_000_000
    most, silent = 0, []
    for _ in range(30):
        silent.append(await asks_and_does_not_read(keyless))
        answer = await keyless.fetch(BUNDLE)  # who reads is answered as ever
        assert (answer.code, len(answer.body)) == (200, whole)
        most = max(most, unread(server))
    assert 1_000_000 < most < 4_000_000 + 3 * whole
    assert len([each for each in caplog.records if "bytes of answers are not read" in each.getMessage()]) == 1
    for connection in silent:
        connection.close()


async def test_an_answer_is_read_at_a_least_rate(keyless: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    server = keyless.server
    assert isinstance(server, Server)
    monkeypatch.setattr(limits, "WINDOW", 0.4)
    monkeypatch.setattr(limits, "LOOK", 0.1)
    whole = len((await keyless.fetch(BUNDLE)).body)
    keyless.client.close()
    loop, read = asyncio.get_running_loop(), 0
    silent, slow = [await asks_and_does_not_read(keyless) for _ in range(2)]
    async with asyncio.timeout(20):
        while len(server._addresses) != 1:  # the one who reads nothing is closed, and the one who reads slowly is not
            read += len(await loop.sock_recv(slow, 2_000))
            await asyncio.sleep(0.02)
        while read < whole:
            piece = await loop.sock_recv(slow, 1 << 20)
            assert piece
            read += len(piece)
    for connection in (silent, slow):
        connection.close()
