"""A real worker for an app whose tasks end in every way."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.servers import Server, worker
from tests.worker.processes import ASYNCIO, ENVIRONMENT, OPTIONS
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge


@pytest.fixture(scope="session")
def ends_worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a worker for the sample app. Its file of revoked tasks is another Python's."""
    url = f"redis://127.0.0.1:{server.port}/12"
    folder = tmp_path_factory.mktemp("ends-worker")
    log, state = folder / "worker.log", folder / "state"
    state.write_bytes(b"\0nothing that a database of this Python writes\0" * 100)
    environment = {"SAMPLE_URL": url, **ENVIRONMENT}
    with worker("tests.worker.sample", environment, log, f"--statedb={state}", *OPTIONS) as process:
        assert f"{state} can't be read" in log.read_text()
        assert (folder / "state.unreadable").exists()
        yield url
        assert process.poll() is None, log.read_text()[-5_000:]


@pytest.fixture
async def ends(ends_worker: str) -> AsyncIterator[Bridge]:
    app = make_app(ends_worker)
    async with Bridge(app) as made:
        yield made
    app.close()


@pytest.fixture(scope="package")
def asyncio_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("asyncio") / "worker.log"


@pytest.fixture(scope="package")
def asyncio_worker(server: Server, asyncio_log: Path) -> Iterator[str]:
    """The URL of a server with a worker for the sample app that has the asyncio pool."""
    yield from worker_of(server, 9, asyncio_log, *ASYNCIO, heartbeat=str(asyncio_log.with_name("heartbeat")))


@pytest.fixture(scope="package", params=["prefork", "threads", "solo", "asyncio"])
def pool_worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server
) -> Iterator[str]:
    """The URL of a server with a worker for the sample app that has the pool."""
    match request.param:
        case "prefork":
            yield request.getfixturevalue("ends_worker")
        case "asyncio":
            yield request.getfixturevalue("asyncio_worker")
        case "threads" | "solo" as pool:
            number = 10 if pool == "threads" else 11
            yield from worker_of(server, number, tmp_path_factory.mktemp(pool) / "worker.log", *OPTIONS, "--pool", pool)


def worker_of(server: Server, database: int, log: Path, *options: str, heartbeat: str = "") -> Iterator[str]:
    url = f"redis://127.0.0.1:{server.port}/{database}"
    settings = {"SAMPLE_URL": url, "HEARTBEAT_FILE": heartbeat, **ENVIRONMENT}
    with worker("tests.worker.sample", settings, log, *options) as process:
        yield url
        assert process.poll() is None, log.read_text()[-5_000:]


@pytest.fixture
async def pools(pool_worker: str) -> AsyncIterator[Bridge]:
    app = make_app(pool_worker)
    async with Bridge(app) as made:
        yield made
    app.close()


@pytest.fixture
async def on_loop(asyncio_worker: str) -> AsyncIterator[Bridge]:
    """A bridge whose worker has the asyncio pool."""
    app = make_app(asyncio_worker)
    async with Bridge(app) as made:
        yield made
    app.close()
