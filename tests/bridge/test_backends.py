"""Every kind of result backend, and every way to reach Redis that Celery's settings know."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.sample import make_app
from tests.servers import Server, TlsProxy, worker
from tornado_celery_bridge import Bridge, BridgeConfig, TaskFailed
from tornado_celery_bridge.bridge.polling import PollingListener, RpcListener
from tornado_celery_bridge.bridge.pubsub import RedisListener

ROOT = str(Path(__file__).parent.parent.parent)


async def exercise(bridge: Bridge) -> None:
    tasks = bridge.app.tasks
    result = await bridge.dispatch(tasks["sample.add"].s(1, 2), dispatch_timeout=10)
    assert await bridge.get(result, timeout=20) == 3
    failing = await bridge.dispatch(tasks["sample.fail"].s(), dispatch_timeout=10)
    with pytest.raises(TaskFailed, match="as asked") as caught:
        await bridge.get(failing, timeout=20)
    assert isinstance(caught.value.__cause__, ValueError)
    chained = await bridge.dispatch(tasks["sample.add"].s(1, 2) | tasks["sample.add"].s(3), dispatch_timeout=10)
    assert await bridge.get(chained, timeout=20) == 6
    counting = await bridge.dispatch(tasks["sample.count"].s(3, 0.3), dispatch_timeout=10)
    states = [state async for state in bridge.stream(counting, timeout=20)]
    assert any(state.progress for state in states)
    assert states[-1].result == 3
    assert (await bridge.state(result)).result == 3


@pytest.mark.parametrize(
    ("backend", "listener"),
    [
        ("db+sqlite:///{folder}/results.sqlite", PollingListener),
        ("file://{folder}", PollingListener),
        ("rpc://", RpcListener),
    ],
    ids=["sqlalchemy", "filesystem", "rpc"],
)
async def test_other_backends(server: Server, tmp_path: Path, backend: str, listener: type, launch: Any) -> None:
    url = backend.format(folder=tmp_path)
    queue = {"task_default_queue": f"sample-{listener.__name__}-{tmp_path.name}"}
    await launch(server.url, url, queue["task_default_queue"])
    async with Bridge(make_app(server.url, url, **queue), BridgeConfig(poll_interval=0.05)) as bridge:
        assert isinstance(bridge._parts.listener, listener)
        await exercise(bridge)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Any]:
    """Start workers for one test, off the loop."""
    with contextlib.ExitStack() as stack:

        async def start(broker: str, backend: str, queue: str = "sample") -> None:
            settings = {"SAMPLE_BROKER": broker, "SAMPLE_BACKEND": backend, "PYTHONPATH": ROOT, "SAMPLE_QUEUE": queue}
            options = ("--concurrency", "2", "--without-gossip", "--without-mingle")
            running = worker("tests.sample", settings, tmp_path / "worker.log", *options)
            await asyncio.to_thread(stack.enter_context, running)

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(str(folder / "cert.pem"), append=number > 0)
    return folder


@pytest.fixture
def guarded(tmp_path: Path, certificates: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server behind a password, on TCP, TLS and a Unix socket, and the URLs of the three."""
    path = tmp_path / "s.sock"
    made = Server(tmp_path / "redis", "--unixsocket", str(path)).start()
    with made.client() as client:
        client.config_set("requirepass", "p@ss/word")
    password = "p%40ss%2Fword"
    proxy = TlsProxy(made.port, certificates / "cert.pem", certificates / "key.pem")
    urls = {
        "password": f"redis://:{password}@127.0.0.1:{made.port}/0",
        "tls": f"rediss://:{password}@127.0.0.1:{proxy.port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificates}/ca.pem",
        "unix": f"redis+socket://:{password}@{path}?virtual_host=0",
    }
    yield made, urls
    proxy.close()
    made.stop()


@pytest.mark.parametrize("kind", ["password", "tls", "unix"])
async def test_ways_to_redis(guarded: tuple[Server, dict[str, str]], kind: str, launch: Any) -> None:
    url = guarded[1][kind]
    await launch(url, url)
    async with Bridge(make_app(url, url), BridgeConfig(dispatch_timeout=10)) as bridge:
        assert isinstance(bridge._parts.listener, RedisListener)
        await exercise(bridge)


async def test_key_prefix(sample_worker: str, server: Server) -> None:
    prefix = {"global_keyprefix": "mine_"}
    app = make_app(sample_worker, sample_worker, result_backend_transport_options=prefix)
    async with Bridge(app) as bridge:
        assert bridge._parts.listener._key("id").startswith(b"mine_")  # type: ignore[attr-defined]
