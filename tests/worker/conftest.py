"""A real worker for an app whose tasks end in every way."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.servers import Server, worker
from tests.worker.processes import OPTIONS, ROOT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge


@pytest.fixture(scope="session")
def ends_worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a worker for the sample app."""
    url = f"redis://127.0.0.1:{server.port}/12"
    log = tmp_path_factory.mktemp("ends-worker") / "worker.log"
    with worker("tests.worker.sample", {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}, log, *OPTIONS) as process:
        yield url
        assert process.poll() is None, log.read_text()[-5_000:]


@pytest.fixture
async def ends(ends_worker: str) -> AsyncIterator[Bridge]:
    app = make_app(ends_worker)
    async with Bridge(app) as made:
        yield made
    app.close()
