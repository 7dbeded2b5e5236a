"""Clients of a result backend's Redis."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio
from celery import Celery
from redis.exceptions import ConnectionError as RedisConnectionError

from tornado_celery_bridge.base.redis import blocking_client, connection_pool


class Sentinel:
    """One that hangs up on whoever asks, and counts them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.asked = 0
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.asked += 1  # before the client is told, who looks at this
                client.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def sentinel() -> Iterator[Sentinel]:
    made = Sentinel()
    yield made
    made.close()


def backend(port: int) -> Any:
    app = Celery(backend=f"sentinel://127.0.0.1:{port}/0", set_as_current=False)
    app.conf.result_backend_transport_options = {"master_name": "first"}
    return app.backend


def test_a_sentinel_is_asked_once(sentinel: Sentinel) -> None:
    with blocking_client(backend(sentinel.port)) as client, pytest.raises(RedisConnectionError):
        client.ping()
    assert sentinel.asked == 1


async def test_a_sentinel_is_asked_once_by_the_loop(sentinel: Sentinel) -> None:
    pool = connection_pool(await asyncio.to_thread(backend, sentinel.port))
    async with redis.asyncio.Redis(connection_pool=pool) as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()
    await pool.aclose()
    assert sentinel.asked == 1
