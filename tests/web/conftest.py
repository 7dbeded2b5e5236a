"""The sample application, with a worker of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server, wait_for, worker
from tests.service.processes import Web
from tests.web.processes import start

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What web and worker read."""
    folder = tmp_path_factory.mktemp("sample")
    server = Server(folder / "redis").start()
    yield {"REDIS_URL": server.url, "DATA_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    server.stop()


@pytest.fixture(scope="module")
def worker_log(settings: dict[str, str]) -> Iterator[Path]:
    """The log of a worker for the sample's tasks."""
    log = Path(settings["DATA_DIR"]) / "worker.log"
    with worker("tasks", settings, log, "--concurrency", "2", "--without-gossip", "--without-mingle"):
        yield log


@pytest.fixture(scope="module")
def site(settings: dict[str, str], worker_log: Path) -> Iterator[Web]:
    """``python -m web``."""
    made = start(Path(settings["DATA_DIR"]) / "web.log", **settings)
    try:
        wait_for(lambda: made.is_ready() or made.process.poll() is not None)
        assert made.process.poll() is None, made.log.read_text()
        yield made
    finally:
        made.process.kill()
        made.process.wait()
