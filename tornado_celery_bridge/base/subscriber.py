"""
Subscribes to any number of Redis pub/sub channels over one connection.

Theory of operation. A message may be missed: before the subscription is in place, while the connection is away, or when
the connection is half-open. Three rules make up for that. *Every* confirmation of a subscription is reported to the
owner, who then reads what is stored. A new connection subscribes to all channels again, which brings all the
confirmations. A connection whose server does not answer a PING is closed. (redis-py's own PubSub reconnects without
telling anybody.) After any error, also one that the server answers (to a user who may not subscribe, say), there is a
pause before the next connection, and it grows up to a second.

The *writer* sends the subscriptions that were asked for since its last command, many in one command. The *reader* takes
messages and confirmations. Unsubscribing waits for the next beat, because a channel that nobody wants costs only a
discarded message.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from redis.exceptions import RedisError

from tornado_celery_bridge.base.redis import ConnectionPool
from tornado_celery_bridge.base.repeating import RepeatingTask

log = logging.getLogger(__name__)

#: Seconds between two checks of the connection. It is closed if a PING is not answered by the next check.
BEAT = 1.0
#: Channels in one command. This limits how long a command keeps the server busy, and its answer the loop.
CHUNK = 500

CONNECTION_ERRORS = (RedisError, OSError, asyncio.IncompleteReadError)


class Subscriber:
    """
    Keeps the subscriptions that it was asked for, as long as it is open.

    Args:
        pool: Makes the one connection.
        on_subscribed: Called for each confirmation, the first one of a channel and all later ones.
        on_message: Called for each message, in order.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        on_subscribed: Callable[[bytes], None],
        on_message: Callable[[bytes, bytes], None],
    ) -> None:
        self._pool = pool
        self._on_subscribed = on_subscribed
        self._on_message = on_message
        self._channels: set[bytes] = set()
        self._to_subscribe: set[bytes] = set()
        self._to_unsubscribe: set[bytes] = set()
        self._write_wanted = asyncio.Event()
        self._beat_wanted = False
        self._heard = False
        self._task = RepeatingTask("the subscriptions in Redis", self._listen)
        #: Whether the server has answered on this connection, and when it was last asked.
        self.connected = False

    def start(self) -> None:
        """Begin to listen. It connects, and connects again, by itself."""
        self._task.start()

    async def close(self) -> None:
        """Stop listening, and close the connection."""
        await self._task.stop()
        await self._pool.disconnect()

    def subscribe(self, channel: bytes) -> None:
        """Receive the messages of *channel*. If this is called again, the confirmation comes again."""
        self._channels.add(channel)
        self._to_unsubscribe.discard(channel)
        self._to_subscribe.add(channel)
        self._write_wanted.set()

    def unsubscribe(self, channel: bytes) -> None:
        """Receive no more messages of *channel*."""
        self._channels.discard(channel)
        self._to_subscribe.discard(channel)
        self._to_unsubscribe.add(channel)

    async def _listen(self) -> None:
        """Subscribe to all channels over a new connection, and read until it fails."""
        connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(2 * BEAT):
                await connection.connect()
            self._to_unsubscribe.clear()
            self._to_subscribe = set(self._channels)
            self._write_wanted.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(connection))
                group.create_task(self._beat(connection))
                group.create_task(self._read(connection))
        except ExceptionGroup as exc:
            raise _first(exc) from exc
        finally:
            self.connected = False
            with contextlib.suppress(*CONNECTION_ERRORS):
                await connection.disconnect(nowait=True)

    async def _write(self, connection: Any) -> None:
        """Send all commands: they are sent by one task alone, so that none overtakes another."""
        while True:
            await self._write_wanted.wait()
            self._write_wanted.clear()
            keys, self._to_subscribe = self._to_subscribe, set()
            for chunk in chunks(list(keys)):
                await _send(connection, "SUBSCRIBE", *chunk)
            if self._beat_wanted:
                self._beat_wanted = False
                keys, self._to_unsubscribe = self._to_unsubscribe, set()
                for chunk in chunks(list(keys)):
                    # Whoever wants one of them again meanwhile has put it among those to be subscribed to.
                    await _send(connection, "UNSUBSCRIBE", *chunk)
                await _send(connection, "PING")

    async def _beat(self, connection: Any) -> None:
        while True:
            self._heard, self._beat_wanted = False, True
            self._write_wanted.set()
            await asyncio.sleep(BEAT)
            if getattr(connection, "is_elsewhere", False):
                raise ConnectionError("the keys have moved to another server of the cluster")
            if not self._heard:
                await connection.disconnect(nowait=True)  # ends the reader, which may ignore a cancellation
                raise ConnectionError(f"no answer to a PING in {BEAT} s")
            self._task.works()

    async def _read(self, connection: Any) -> None:
        answered: set[bytes] = set()
        while True:
            response = await connection.read_response(disconnect_on_error=False)
            self._heard = self.connected = True
            kind = b"pong" if response == b"PONG" else response[0]
            if len(answered) < 2 and kind in (b"pong", b"subscribe"):
                answered.add(kind)
                if len(answered) == 2 or not self._channels:  # it answers both, and may be lost at any time
                    self._task.progressed()
            try:
                if kind == b"message":
                    self._on_message(response[1], response[2])
                elif kind == b"subscribe":
                    self._on_subscribed(response[1])
            except Exception:  # what one channel brings must not cost the others their connection
                log.exception("a message of the channel %r can't be read", response[1])


async def _send(connection: Any, *command: Any) -> None:
    await connection.send_packed_command(connection.pack_command(*command), check_health=False)


def chunks(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Yield *keys* in lists of at most ``CHUNK``."""
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]


def _first(exc: BaseException) -> BaseException:
    return _first(exc.exceptions[0]) if isinstance(exc, BaseExceptionGroup) else exc
