"""A real HTTP server in the test's own loop, before a real Redis and a real worker."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from tests.servers import Database, Server, worker
from tests.service.browser import Tab, find_chromium, open_tab
from tests.service.keys import KEYS, Guarded, guarded, made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, Service, running
from tornado_celery_bridge import BridgeConfig


@pytest.fixture(scope="session")
def web_url(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a worker for the sample app."""
    url = f"redis://127.0.0.1:{server.port}/3"
    log = tmp_path_factory.mktemp("web-worker") / "worker.log"
    environment = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
    options = ("--concurrency", "3", "--queues", "websample", "--without-gossip", "--without-mingle")
    with worker("tests.service.sample", environment, log, *options):
        yield url


@pytest.fixture(scope="session")
def chromium() -> str:
    return find_chromium()


@pytest.fixture
async def tab(chromium: str, blockbuster: BlockBuster) -> AsyncIterator[Tab]:
    """An empty page in a real browser. Playwright's client, which shares the loop here, looks for its own files."""
    for name in ("os.stat", "io.BufferedReader.read"):
        blockbuster.functions[name].can_block_in("playwright/_impl/_driver.py", "compute_driver_executable")
    async with open_tab(chromium) as opened:
        yield opened


@pytest.fixture
async def service(web_url: str) -> AsyncIterator[Service]:
    app = make_celery(web_url)
    async with running(app) as made:
        yield made
    app.close()


@pytest.fixture
async def patient_service(web_url: str) -> AsyncIterator[Service]:
    """
    A service that gives the broker more time than the product does.

    A thousand messages at once take a busy machine over 2 s. What is late is accepted as well; a worker publishes it.
    """
    app = make_celery(web_url)
    async with running(app, config=BridgeConfig(dispatch_timeout=30)) as made:
        yield made
    app.close()


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file with the keys above, and the keys."""
    all_made = {name: made(**fields) for name, fields in KEYS.items()}
    path = write(tmp_path / "keys.json", *(entry for _, entry in all_made.values()))
    return path, {name: key for name, (key, _) in all_made.items()}


@pytest.fixture
async def site(web_url: str, keys: tuple[Path, dict[str, str]]) -> AsyncIterator[Guarded]:
    async with guarded(web_url, keys) as made:
        yield made


@pytest.fixture
def url_of_ours(database: Database, tmp_path: Path) -> Iterator[str]:
    """A database with nobody else's jobs, and a worker that takes from one of its two queues."""
    url = database.url
    options: tuple[str, ...] = ("--concurrency", "2", "--queues", "websample", "--without-gossip", "--without-mingle")
    options += ("--hostname", "ours@%h")
    with worker("tests.service.sample", {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}, tmp_path / "log", *options):
        yield url


@pytest.fixture
async def ours(url_of_ours: str) -> AsyncIterator[Service]:
    app = make_celery(url_of_ours)
    async with running(app) as made:
        yield made
    app.close()
