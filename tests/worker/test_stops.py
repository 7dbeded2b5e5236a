"""A worker that is stopped in order gives back what it runs: that costs a job nothing but time."""

import asyncio
import itertools
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from signal import SIGINT as INT
from signal import SIGQUIT as QUIT
from signal import SIGTERM as TERM
from signal import Signals
from typing import Any, NamedTuple

import pytest

from tests.servers import Database, wait_for, worker
from tests.worker.processes import ENVIRONMENT, OPTIONS, ROOT, supervised
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.base.versions import CELERY
from tornado_celery_bridge.ledger import Job, Monitor


class Way(NamedTuple):
    """A way to stop a worker: the signals that it gets, each after what the worker has said then."""

    signals: Sequence[tuple[bytes, Signals]]
    settings: Mapping[str, str] = {}
    to_group: bool = False
    #: Whether it is one of ``tcb up``, which gets the signals.
    under_supervisor: bool = False

    def start(self, settings: Mapping[str, str], log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a worker."""
        if self.under_supervisor:
            (folder := log.with_suffix(".up")).mkdir()
            return supervised({**settings, **self.settings}, folder, log, *OPTIONS)
        return worker("tests.worker.sample", {**settings, **self.settings}, log, *OPTIONS)

    def stop(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Stop it; return once it has ended."""
        for words, number in self.signals:
            wait_for(has_said(log, words))
            (os.killpg if self.to_group else os.kill)(process.pid, number)
        process.wait(30)


def has_said(log: Path, words: bytes) -> Callable[[], bool]:
    return lambda: words in log.read_bytes()


def is_held(database: Database) -> Callable[[], bool]:
    def held() -> bool:
        """Whether a worker's main process says that it runs a job."""
        with database.client() as client:
            return any(client.hget(key, "jobs") for key in client.keys("*worker:*"))

    return held


#: A stop by QUIT that waits for running tasks, for longer than these tests do.
SOFT, WAITS = {"SAMPLE_SOFT_SHUTDOWN": "100"}, b"running tasks have 100 s to end"
#: Of an environment that stops by TERM alone, such as Kubernetes.
REMAPPED = {"REMAP_SIGTERM": "SIGQUIT"}
needs_soft = pytest.mark.skipif(CELERY < (5, 5), reason="impossible here: Celery below 5.5 has no soft shutdown")

#: By what workers are stopped: each of these three, one after the other, under one job.
STOPS = [
    [
        Way([(b"", QUIT)]),
        Way([(b"", TERM)], to_group=True),
        Way([(b"", INT), (b"again will initiate cold", INT), (b"again will terminate", INT)], to_group=True),
    ],
    [
        Way([(b"", QUIT), (WAITS, QUIT)], SOFT),
        Way([(b"", TERM)], REMAPPED),
        Way([(b"", QUIT)], to_group=True),
    ],
    [
        Way([(b"", TERM), (WAITS, TERM)], SOFT | REMAPPED, to_group=True),
        Way([(b"", INT), (b"once more to hurry", INT), (b"again will terminate", INT)], SOFT, under_supervisor=True),
        Way([(b"", QUIT)]),
    ],
]


@pytest.fixture
def several(databases: Iterator[Database]) -> list[Database]:
    """A database for each job: they are tried side by side."""
    return list(itertools.islice(databases, len(STOPS)))


@needs_soft
async def test_stopped_three_times_under_one_job(several: list[Database], tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for ways, database in zip(STOPS, several, strict=True):
            group.create_task(stopped_by(ways, database, tmp_path / str(database.number)))


async def stopped_by(ways: Sequence[Way], database: Database, folder: Path) -> None:
    app = make_app(database.url)
    async with Bridge(app) as bridge:
        result = await bridge.submit(app.tasks["e.stays"].s(str(folder / "marks")))
        await asyncio.to_thread(stop_by, ways, database, folder)
        assert await bridge.get(result, timeout=10) == "done"
        job = await bridge.ledger.jobs.get(result.id)
        assert isinstance(job, Job)
        assert (job.state, job.attempt) == ("SUCCESS", len(ways) + 1)
        (counts,) = (await Monitor(bridge.ledger).counts()).values()
        assert (counts.lost, counts.republished) == (0, 0)
    app.close()


def stop_by(ways: Sequence[Way], database: Database, folder: Path) -> None:
    folder.mkdir()
    path, settings = folder / "marks", {"SAMPLE_URL": database.url, "PYTHONPATH": str(ROOT)}

    def has_begun(times: int) -> Callable[[], bool]:
        return lambda: path.exists() and len(path.read_text()) == times

    for number, way in enumerate(ways, 1):
        log = folder / f"{number}.log"
        with way.start(settings, log) as process:
            wait_for(has_begun(number))
            wait_for(is_held(database))
            way.stop(process, log)
    log = folder / "last.log"
    with worker("tests.worker.sample", settings, log, *OPTIONS):
        wait_for(has_begun(len(ways) + 1))
        path.with_name(f"{path.name}.end").touch()
        wait_for(has_said(log, b" succeeded in "))


@pytest.fixture
async def own(database: Database) -> AsyncIterator[Bridge]:
    app = make_app(database.url)
    async with Bridge(app) as made:
        yield made
    app.close()


@needs_soft
async def test_while_a_worker_waits_for_its_tasks_all_else_goes_on(
    own: Bridge, database: Database, tmp_path: Path
) -> None:
    """Limits hold, a cancel and a revoke are obeyed, and the worker ends as soon as its tasks have."""
    names = ("stays", "stays too", "exceeds", "exceeds softly", "terminated", "revoked")
    paths, log = {name: tmp_path / name for name in names}, tmp_path / "log"
    task = own.app.tasks["e.terminated"]
    results = [
        await own.submit(own.app.tasks["e.stays"].s(str(paths["stays"]))),
        await own.dispatch(own.app.tasks["e.stays"].s(str(paths["stays too"]))),
        await own.submit(task.s(str(paths["exceeds"])), time_limit=4),
        await own.submit(task.s(str(paths["exceeds softly"])), soft_time_limit=4),
        await own.submit(task.s(str(paths["terminated"]))),
        await own.dispatch("a.cleans_up", (str(paths["revoked"]), "awaits")),
    ]

    def run(call: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(call, loop).result(10)

    def stop() -> None:
        settings = {"SAMPLE_URL": database.url, "PYTHONPATH": str(ROOT), **SOFT, **REMAPPED}
        with worker("tests.worker.sample", settings, log, *OPTIONS, "--concurrency", "6") as process:
            wait_for(lambda: all(path.exists() for path in paths.values()))
            wait_for(is_held(database))
            run(own.revoke(results[-1], terminate=True))
            wait_for(Path(f"{paths['revoked']}.told").exists)  # its process ignores the TERM that this sends
            process.send_signal(TERM)
            wait_for(has_said(log, WAITS))
            run(own.ledger.jobs.cancel(results[-2].id, grace=0.001))
            for name in ("stays", "stays too"):
                Path(f"{paths[name]}.end").touch()
            process.wait(30)

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(stop)
    told = await asyncio.gather(*(own.get(result, timeout=10) for result in results), return_exceptions=True)
    assert told[:2] == ["done", "done"]
    assert [re.sub("^task .* (failed|was)[: ]*", "", str(each)) for each in told[2:]] == [
        "TimeLimitExceeded: TimeLimitExceeded(4,)",
        "SoftTimeLimitExceeded: SoftTimeLimitExceeded()",
        "revoked: terminated",
        "revoked: terminated",
    ]
    assert {path.name: len(await asyncio.to_thread(path.read_text)) for path in paths.values()} == dict.fromkeys(
        names, 1
    )
    counts = (await Monitor(own.ledger).counts()).values()
    assert [(each.lost, each.republished) for each in counts] == [(0, 0)] * len(counts)


async def test_stopped_before_the_worker_has_heard_that_a_task_has_begun(database: Database, tmp_path: Path) -> None:
    """Celery ends only what it has heard of, and waits for the rest, until a supervisor kills it."""
    taken = tmp_path / "taken"
    await costs_nothing(database, tmp_path, "e.waits", 60.0, told=taken, SAMPLE_SAYS_LATE=str(taken))


async def test_stopped_as_a_process_says_half_a_word(database: Database, tmp_path: Path) -> None:
    """Celery waits for the other half, which never comes."""
    await costs_nothing(database, tmp_path, "e.dies_as_it_speaks", told=tmp_path / "marks")


@needs_soft
@pytest.mark.parametrize("pool", ["threads", "solo", "custom"])
async def test_stopped_where_no_task_can_be_ended(database: Database, tmp_path: Path, pool: str) -> None:
    """The worker does not wait for the code either: that ends with it. So does a plain function in asyncio's pool."""
    await costs_nothing(
        database, tmp_path, "e.waits", 60.0, told=tmp_path / "marks", pool=pool, SAMPLE_SOFT_SHUTDOWN="1"
    )


async def costs_nothing(
    database: Database, folder: Path, task: str, *arguments: Any, told: Path, pool: str = "prefork", **settings: str
) -> None:
    """Stop a worker by QUIT once a file tells of its task: the worker ends, and the job waits."""
    app, settings = make_app(database.url), settings | {"SAMPLE_URL": database.url, **ENVIRONMENT}

    def stop() -> None:
        with worker("tests.worker.sample", settings, folder / "log", *OPTIONS, "--pool", pool) as process:
            wait_for(told.exists)
            process.send_signal(QUIT)
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
