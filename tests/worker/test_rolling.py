"""A deploy: workers are stopped in order and started again, one by one, under jobs that go on where they were."""

import asyncio
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.servers import Database, worker
from tests.worker.processes import ROOT, supervised
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.ledger import Job, Monitor

WORKERS = 4
OPTIONS = ("--concurrency", "4", "--without-gossip", "--without-mingle")
#: Seconds of one step of a job. A stop costs a job the step that was under way.
STEP = 0.1
#: Seconds for a worker to end: after TERM it first ends its tasks.
GRACE = 120.0


@contextmanager
def signalled(number: signal.Signals, url: str, folder: Path) -> Iterator[Callable[[], object]]:
    """Run a worker, and yield what stops it."""
    settings = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
    name = f"{folder.name}@%h"
    with worker("tests.worker.sample", settings, folder / "worker.log", *OPTIONS, "--hostname", name) as process:

        def stop() -> None:
            process.send_signal(number)
            process.wait(GRACE)

        yield stop


@contextmanager
def by_supervisor(url: str, folder: Path) -> Iterator[Callable[[], object]]:
    """The same under ``tcb up``, which gives a worker ten seconds after TERM, and then sends QUIT."""
    settings = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
    with supervised(settings, folder, folder / "worker.log", *OPTIONS, f"--hostname {folder.name}@%h") as process:

        def stop() -> None:
            process.terminate()
            process.wait(GRACE)

        yield stop


def run(way: str, url: str, folder: Path) -> AbstractContextManager[Callable[[], object]]:
    folder.mkdir()
    return by_supervisor(url, folder) if way == "supervisor" else signalled(signal.Signals[f"SIG{way}"], url, folder)


class Fleet:
    """Workers, each in a thread of ours that stops it when it is told to, and starts it again."""

    def __init__(self, url: str, folder: Path, ways: Iterator[str]) -> None:
        self._url, self._folder, self._ways = url, folder, ways
        self._told = [threading.Event() for _ in range(WORKERS)]
        self._threads = [threading.Thread(target=self._keep, args=(number,)) for number in range(WORKERS)]
        self._ends = False
        #: The workers that run, the one that was started first at the head.
        self._up: list[int] = []
        self.stops = 0
        self.failures: list[Exception] = []

    def _keep(self, number: int) -> None:
        told = self._told[number]
        try:
            for times in itertools.count():
                with run(next(self._ways), self._url, self._folder / f"w{number}-{times}") as stop:
                    self._up.append(number)
                    told.wait()
                    told.clear()
                    if self._ends:
                        return
                    stop()
                    self.stops += 1
        except Exception as exc:
            self.failures.append(exc)

    def roll(self, every: float, most: int, done: threading.Event) -> None:
        """Restart one worker after the other, *most* times at most, until the jobs are done; then end them all."""
        for thread in self._threads:
            thread.start()
        while most and not (done.wait(every) or self.failures):
            if self._up:
                self._told[self._up.pop(0)].set()
                most -= 1
        done.wait()
        self._ends = True
        for told, thread in zip(self._told, self._threads, strict=True):
            while thread.is_alive():
                told.set()
                thread.join(0.1)


def steps_of(database: Database) -> int:
    """Return how many steps the jobs have begun, those that were begun again as well."""
    with database.client() as client:
        return int(client.get("q:steps") or 0)


@pytest.mark.parametrize(
    ("ways", "count", "seconds", "every", "most"),
    [
        pytest.param(["QUIT", "TERM", "supervisor"], 32, 6, 2.5, 3, id="some"),
        *(
            pytest.param([way], 200, 20, 15.0, 1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(1_500)])
            for way in ("QUIT", "TERM", "supervisor")
        ),
    ],
)
async def test_restarts_cost_nothing(
    database: Database, tmp_path: Path, ways: list[str], count: int, seconds: float, every: float, most: int
) -> None:
    app, done, steps = make_app(database.url), threading.Event(), round(seconds / STEP)
    fleet = Fleet(database.url, tmp_path, itertools.cycle(ways))
    rolling = asyncio.ensure_future(asyncio.to_thread(fleet.roll, every, most, done))
    try:
        async with Bridge(app) as bridge:
            results = [await bridge.submit(app.tasks["e.works"].s(steps, STEP)) for _ in range(count)]
            ended = await asyncio.gather(*(bridge.get(result, timeout=1_200) for result in results))
            jobs = [await bridge.ledger.jobs.get(result.id) for result in results]
            (counts,) = (await Monitor(bridge.ledger).counts()).values()
    finally:
        done.set()
        await rolling
        app.close()
    ran = await asyncio.to_thread(steps_of, database)
    attempts = sum(job.attempt for job in jobs if isinstance(job, Job))
    print(f"{fleet.stops} stops, {attempts} attempts of {count} jobs, {ran / steps / count:.4f} of the steps")
    assert fleet.failures == []
    assert fleet.stops >= 3
    assert ended == ["done"] * count
    assert {job.state for job in jobs if isinstance(job, Job)} == {"SUCCESS"}
    assert (counts.lost, counts.succeeded, counts.started) == (0, count, attempts)
    assert ran <= 1.05 * steps * count
