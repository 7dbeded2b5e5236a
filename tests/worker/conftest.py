"""A real worker for an app whose tasks end in every way."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.servers import Server, worker
from tests.worker.processes import OPTIONS, ROOT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge


@pytest.fixture(scope="session")
def ends_worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a worker for the sample app. Its file of revoked tasks is another Python's."""
    url = f"redis://127.0.0.1:{server.port}/12"
    folder = tmp_path_factory.mktemp("ends-worker")
    log, state = folder / "worker.log", folder / "state"
    state.write_bytes(b"\0nothing that a database of this Python writes\0" * 100)
    environment = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
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


@pytest.fixture(scope="package", params=["prefork", "threads", "solo"])
def pool_worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server
) -> Iterator[str]:
    """The URL of a server with a worker for the sample app that has the pool."""
    if request.param == "prefork":
        yield request.getfixturevalue("ends_worker")
        return
    url = f"redis://127.0.0.1:{server.port}/{10 if request.param == 'threads' else 11}"
    log = tmp_path_factory.mktemp(request.param) / "worker.log"
    environment = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
    with worker("tests.worker.sample", environment, log, *OPTIONS, "--pool", request.param) as process:
        yield url
        assert process.poll() is None, log.read_text()[-5_000:]


@pytest.fixture
async def pools(pool_worker: str) -> AsyncIterator[Bridge]:
    app = make_app(pool_worker)
    async with Bridge(app) as made:
        yield made
    app.close()
