"""A worker that is stopped in order gives back what it runs: that costs a job nothing but time."""

import asyncio
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, wait_for, worker
from tests.worker.processes import OPTIONS, ROOT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.ledger import Job, Monitor


@pytest.fixture
def three(databases: Iterator[Database]) -> list[Database]:
    """A database for each way to stop: they are tried side by side."""
    return list(itertools.islice(databases, 3))


async def test_stopped_three_times_under_one_job(three: list[Database], tmp_path: Path) -> None:
    hows = ("QUIT", "TERM to the group", "three INT")
    async with asyncio.TaskGroup() as ways:
        for how, database in zip(hows, three, strict=True):
            ways.create_task(stopped_three_times(how, database, tmp_path))


async def stopped_three_times(how: str, database: Database, folder: Path) -> None:
    app = make_app(database.url)
    async with Bridge(app) as bridge:
        result = await bridge.submit(app.tasks["e.stays"].s(str(folder / f"{how}.marks")))
        await asyncio.to_thread(stop_three_times, database, folder, how)
        assert await bridge.get(result, timeout=10) == "done", how
        job = await bridge.ledger.jobs.get(result.id)
        assert isinstance(job, Job)
        assert (job.state, job.attempt) == ("SUCCESS", 4), how
        (counts,) = (await Monitor(bridge.ledger).counts()).values()
        assert (counts.lost, counts.republished) == (0, 0), how
    app.close()


async def test_stopped_before_the_worker_has_heard_that_a_task_has_begun(database: Database, tmp_path: Path) -> None:
    """Celery ends only what it has heard of, and waits for the rest, until a supervisor kills it."""
    taken = tmp_path / "taken"
    await costs_nothing(database, tmp_path, "e.waits", 60.0, told=taken, SAMPLE_SAYS_LATE=str(taken))


async def test_stopped_as_a_process_says_half_a_word(database: Database, tmp_path: Path) -> None:
    """Celery waits for the other half, which never comes."""
    await costs_nothing(database, tmp_path, "e.dies_as_it_speaks", told=tmp_path / "marks")


async def costs_nothing(
    database: Database, folder: Path, task: str, *arguments: Any, told: Path, **settings: str
) -> None:
    """Stop a worker by QUIT once a file tells of its task: the worker ends, and the job waits."""
    app, settings = make_app(database.url), settings | {"SAMPLE_URL": database.url, "PYTHONPATH": str(ROOT)}

    def stop() -> None:
        with worker("tests.worker.sample", settings, folder / "log", *OPTIONS) as process:
            wait_for(told.exists)
            process.send_signal(signal.SIGQUIT)
            process.wait(40)

    async with Bridge(app) as bridge:
        result = await bridge.submit(app.tasks[task].s(str(folder / "marks"), *arguments))
        await asyncio.to_thread(stop)
        job = await bridge.ledger.jobs.get(result.id)
        assert isinstance(job, Job)
        assert job.state == "PENDING"
        (counts,) = (await Monitor(bridge.ledger).counts()).values()
        assert counts.lost == 0
    app.close()


def stop_three_times(database: Database, folder: Path, how: str) -> None:
    path, log = folder / f"{how}.marks", folder / f"{how}.log"
    settings = {"SAMPLE_URL": database.url, "PYTHONPATH": str(ROOT)}

    def start() -> Any:
        return worker("tests.worker.sample", settings, log, *OPTIONS)

    def has_begun(times: int) -> Callable[[], bool]:
        return lambda: path.exists() and len(path.read_text()) == times

    def is_held() -> bool:
        """Whether the worker's main process says that it runs the job."""
        with database.client() as client:
            return any(client.hget(key, "jobs") for key in client.keys("*worker:*"))

    def has_said(words: bytes) -> Callable[[], bool]:
        return lambda: words in log.read_bytes()

    for number in range(1, 4):
        with start() as process:
            wait_for(has_begun(number))
            wait_for(is_held)
            if how == "QUIT":
                process.send_signal(signal.SIGQUIT)
            elif how == "TERM to the group":
                os.killpg(process.pid, signal.SIGTERM)
            else:
                for words in (b"again will initiate cold", b"again will terminate", b""):
                    os.killpg(process.pid, signal.SIGINT)
                    wait_for(has_said(words))
            process.wait(30)
    with start():
        wait_for(has_begun(4))
        path.with_name(f"{path.name}.end").touch()
        wait_for(has_said(b" succeeded in "))
