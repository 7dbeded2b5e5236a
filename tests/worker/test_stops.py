"""A worker that is stopped in order gives back what it runs: that costs a job nothing but time."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, wait_for, worker
from tests.worker.processes import OPTIONS, ROOT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.ledger import Job, Monitor


@pytest.fixture
def settings(database: Database) -> dict[str, str]:
    return {"SAMPLE_URL": database.url, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def bridge_app(database: Database) -> Iterator[Any]:
    app = make_app(database.url)
    yield app
    app.close()


@pytest.fixture
async def bridge(bridge_app: Any) -> AsyncIterator[Bridge]:
    async with Bridge(bridge_app) as made:
        yield made


@pytest.mark.parametrize("how", ["QUIT", "TERM to the group", "three INT"])
async def test_stopped_three_times_under_one_job(
    bridge: Bridge, database: Database, settings: dict[str, str], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "marks"
    result = await bridge.submit(bridge.app.tasks["e.waits"].s(str(path), 25.0))
    await asyncio.to_thread(stop_three_times, database, settings, tmp_path, how)
    assert await bridge.get(result, timeout=10) == "done"
    job = await bridge.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    assert (job.state, job.attempt) == ("SUCCESS", 4)
    (counts,) = (await Monitor(bridge.ledger).counts()).values()
    assert (counts.lost, counts.republished) == (0, 0)


def worker_of(settings: dict[str, str], tmp_path: Path) -> Any:
    return worker("tests.worker.sample", settings, tmp_path / "worker.log", *OPTIONS)


def stop_three_times(database: Database, settings: dict[str, str], tmp_path: Path, how: str) -> None:
    path, log = tmp_path / "marks", tmp_path / "worker.log"

    def has_begun(times: int) -> Callable[[], bool]:
        return lambda: path.exists() and len(path.read_text()) == times

    def is_held() -> bool:
        """Whether the worker's main process says that it runs the job."""
        with database.client() as client:
            return any(client.hget(key, "jobs") for key in client.keys("*worker:*"))

    def has_said(words: bytes) -> Callable[[], bool]:
        return lambda: words in log.read_bytes()

    for number in range(1, 4):
        with worker_of(settings, tmp_path) as process:
            wait_for(has_begun(number))
            wait_for(is_held)  # Celery does not end a task that its main process has not heard of
            if how == "QUIT":
                process.send_signal(signal.SIGQUIT)
            elif how == "TERM to the group":
                os.killpg(process.pid, signal.SIGTERM)
            else:
                for words in (b"again will initiate cold", b"again will terminate", b""):
                    os.killpg(process.pid, signal.SIGINT)
                    wait_for(has_said(words))
            process.wait(30)
    with worker_of(settings, tmp_path):
        wait_for(has_said(b" succeeded in "))
