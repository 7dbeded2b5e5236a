"""
Attackers beside valid traffic: a process of its own, so that what they cost is not taken for the service's.

``python -m tests.service.hostile PORT SECONDS STREAMS`` attacks a service by the keys in ``HOSTILE_KEYS`` (JSON, by
name), and then writes what it has done, as JSON.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from tornado_celery_bridge.service.http.server import raise_descriptors

#: Schedules that are asked for, of which an owner may have a hundred; and half-sent requests that are held.
SCHEDULES, HALF_SENT = 300, 300
#: What is counted of them.
CLOSED = "half-sent requests that were closed"
#: A body of a thousand jobs, all of them misspelt.
RUBBISH = json.dumps(
    {"jobs": [{"task": "s.add", "input": [1], "options": {f"priority{n}": 1 for n in range(61)}}] * 1000},
    separators=(",", ":"),
)


class Attack:
    """All attackers of one process, and what they were answered."""

    def __init__(self, port: int, seconds: float, streams: int, keys: dict[str, str]) -> None:
        self._port, self._streams, self._keys = port, streams, keys
        self._until = time.monotonic() + seconds
        self.answers: Counter[str] = Counter()

    async def run(self) -> None:
        """Attack until the time is over."""
        attackers = [self._batches(), self._floods("viewer"), self._floods("nobody"), self._schedules()]
        attackers += [self._half_sent() for _ in range(HALF_SENT)]
        attackers += [self._stream(number) for number in range(self._streams)]
        left = self._until - time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await asyncio.gather(*attackers)

    async def _again(self, attack: Callable[[], Awaitable[None]], pause: float) -> None:
        """Do it again and again, whatever the service does to the connection."""
        while time.monotonic() < self._until:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError, IndexError):
                await attack()
            await asyncio.sleep(pause)

    async def _request(
        self, streams: Any, key: str, method: str, path: str, body: str = "", kind: str = ""
    ) -> tuple[int, bytes]:
        """Send a request on an open connection, and return its status and its body."""
        reader, writer = streams
        authorization = f"Authorization: Bearer {self._keys[key]}\r\n" if key in self._keys else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
        writer.write(f"{head}{body}".encode())
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        fields = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        content = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        self.answers[f"{kind or path} {status}"] += 1
        return status, content

    async def _batches(self) -> None:
        async def attack() -> None:
            streams = await self._connect()
            with contextlib.closing(streams[1]):
                while time.monotonic() < self._until:
                    await self._request(streams, "mallory", "POST", "/v1/batches", RUBBISH)
                    await asyncio.sleep(0.5)

        await self._again(attack, 0.1)

    async def _floods(self, key: str) -> None:
        async def attack() -> None:
            streams = await self._connect()
            with contextlib.closing(streams[1]):
                while time.monotonic() < self._until:
                    await self._request(streams, key, "POST", "/v1/tasks/s.add/jobs", '{"input": [1]}', f"flood {key}")
                    await asyncio.sleep(0.005)

        await self._again(attack, 0.1)

    async def _schedules(self) -> None:
        async def attack() -> None:
            streams = await self._connect()
            with contextlib.closing(streams[1]):
                for number in range(SCHEDULES):
                    body = {"name": f"every-second-{number}", "task": "s.add", "input": [number], "interval": 1}
                    await self._request(streams, "mallory", "POST", "/v1/schedules", json.dumps(body))

        await attack()

    async def _half_sent(self) -> None:
        async def attack() -> None:
            reader, writer = await self._connect()
            with contextlib.closing(writer):
                writer.write(b"POST /v1/tasks/s.add/jobs HTTP/1.1\r\nHost: local")
                await reader.read()  # until the service has had enough
                self.answers[CLOSED] += 1

        await self._again(attack, 0.5)

    async def _stream(self, number: int) -> None:
        """Follow a job that never begins, as one of very many do."""

        async def attack() -> None:
            streams = await self._connect()
            with contextlib.closing(streams[1]):
                path = f"/v1/jobs/{self._keys['job']}/events"
                reader, writer = streams
                head = (
                    f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._keys['mallory']}\r\n\r\n"
                )
                writer.write(head.encode())
                status = int((await reader.readline()).split()[1])
                self.answers[f"stream {status}"] += 1
                while status == 200 and await reader.read(1000):
                    pass

        await asyncio.sleep(number / 200)  # so many begin in a second
        await self._again(attack, 20.0)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)


def main() -> None:
    """Attack, as the command line says."""
    port, seconds, streams = (int(word) for word in sys.argv[1:])
    raise_descriptors()
    os.nice(10)  # attackers have machines of their own
    attack = Attack(port, seconds, streams, json.loads(os.environ["HOSTILE_KEYS"]))
    asyncio.run(attack.run())
    print(json.dumps(attack.answers))


if __name__ == "__main__":
    main()
