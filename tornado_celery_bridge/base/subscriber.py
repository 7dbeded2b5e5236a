"""
Channels of Redis pub/sub, any number of them, over one connection.

Theory of operation. A message may be missed: before the subscription is in place, while the connection is away, when
it is half-open. So *every* confirmation of a subscription is told to the owner, who reads what there is; a new
connection subscribes to all again, which brings all the confirmations; and a server that does not answer a PING loses
its connection. (redis-py's own PubSub connects again without a word.)

The *writer* subscribes what was asked for since it last wrote, many to a command. The *reader* takes messages and
confirmations. Unsubscribing is put off to the next beat: a channel that nobody wants costs nothing but a discarded
message.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from typing import Any

from redis.exceptions import RedisError

from tornado_celery_bridge.base.redis import ConnectionPool

__all__ = ("CONNECTION_ERRORS", "Subscriber", "cancelled", "chunks")

log = logging.getLogger(__name__)

#: Seconds between two looks at the connection; a PING not answered by the next look ends it.
BEAT = 1.0
#: Names to a command: bounds the time that one command holds the server and one answer holds the loop.
CHUNK = 500
#: Seconds between attempts to connect, at the most.
MAX_DELAY = 1.0

CONNECTION_ERRORS = (RedisError, OSError, asyncio.IncompleteReadError)


class Subscriber:
    """
    Subscribes to what it is asked for, for as long as it is open.

    Args:
        pool: Makes the one connection.
        on_subscribed: Called for each confirmation, the first one and all later ones.
        on_message: Awaited for each message, in order.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        on_subscribed: Callable[[bytes], None],
        on_message: Callable[[bytes, bytes], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._on_subscribed = on_subscribed
        self._on_message = on_message
        self._channels: set[bytes] = set()
        self._to_subscribe: set[bytes] = set()
        self._to_unsubscribe: set[bytes] = set()
        self._write_wanted = asyncio.Event()
        self._heard = False
        self._task: asyncio.Task[None] | None = None
        #: Whether the server answered, the last time that it was asked or spoke.
        self.connected = False

    def start(self) -> None:
        """Begin to listen; connects, and connects again, by itself."""
        nobodys = Context()  # it outlives whoever asks first
        self._task = asyncio.create_task(self._listen(), name="tornado_celery_bridge subscriber", context=nobodys)

    async def close(self) -> None:
        """End, and let go of the connections."""
        if self._task is not None:
            await cancelled(self._task)
            self._task = None
        await self._pool.disconnect()

    def subscribe(self, channel: bytes) -> None:
        """Hear of *channel*; asked for again, its confirmation comes again."""
        self._channels.add(channel)
        self._to_unsubscribe.discard(channel)
        self._to_subscribe.add(channel)
        self._write_wanted.set()

    def unsubscribe(self, channel: bytes) -> None:
        """Hear no more of *channel*."""
        self._channels.discard(channel)
        self._to_subscribe.discard(channel)
        self._to_unsubscribe.add(channel)

    async def _listen(self) -> None:
        delay = 0.0
        while True:
            connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                async with asyncio.timeout(2 * BEAT):
                    await connection.connect()
                delay = 0.0
                await self._follow(connection)
            except (*CONNECTION_ERRORS, ExceptionGroup) as exc:
                if self.connected or not delay:
                    log.warning("Redis is not reachable: %s", _first(exc))
                self.connected = False
            finally:
                with contextlib.suppress(*CONNECTION_ERRORS):
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(delay)
            delay = min(MAX_DELAY, delay * 2 or 0.05)

    async def _follow(self, connection: Any) -> None:
        """Subscribe to all channels, and read until the connection fails."""
        self.connected = True
        self._to_unsubscribe.clear()
        self._to_subscribe = set(self._channels)
        self._write_wanted.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(connection))
            group.create_task(self._beat(connection))
            group.create_task(self._read(connection))

    async def _write(self, connection: Any) -> None:
        while True:
            await self._write_wanted.wait()
            self._write_wanted.clear()
            keys, self._to_subscribe = self._to_subscribe, set()
            for chunk in chunks(list(keys)):
                await _send(connection, "SUBSCRIBE", *chunk)

    async def _beat(self, connection: Any) -> None:
        while True:
            self._heard = False
            keys, self._to_unsubscribe = self._to_unsubscribe, set()
            for chunk in chunks(list(keys)):
                await _send(connection, "UNSUBSCRIBE", *chunk)
            await _send(connection, "PING")
            await asyncio.sleep(BEAT)
            if not self._heard:
                await connection.disconnect(nowait=True)  # ends the reader, which may not heed a cancellation
                raise ConnectionError(f"no answer to a PING in {BEAT} s")

    async def _read(self, connection: Any) -> None:
        while True:
            response = await connection.read_response(disconnect_on_error=False)
            self._heard = True
            kind = response[0]
            if kind == b"message":
                await self._on_message(response[1], response[2])
            elif kind == b"subscribe":
                self._on_subscribed(response[1])


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel *task* and wait for its end; again, as redis-py at times takes a cancellation for a lost connection."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


async def _send(connection: Any, *command: Any) -> None:
    await connection.send_packed_command(connection.pack_command(*command), check_health=False)


def chunks(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Yield *keys*, at most ``CHUNK`` at a time."""
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]


def _first(exc: BaseException) -> BaseException:
    return _first(exc.exceptions[0]) if isinstance(exc, BaseExceptionGroup) else exc
