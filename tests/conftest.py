"""Servers are started once a session; every test runs under blockbuster and asyncio's debug mode."""

import asyncio
import gc
import itertools
import linecache
import os
import random
import signal
import traceback
import warnings
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from celery import Celery

from tests.conformance.matrix import pytest_terminal_summary
from tests.marks import add_marks
from tests.needs import IMPOSSIBLE, IN_CI
from tests.sample import make_app
from tests.servers import Database, Server, free_port, worker
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.up.brokers import private

__all__ = ("pytest_terminal_summary",)  # a hook: found here whatever part of the suite runs

# Whoever runs the suite in the background has Ctrl-C ignored, and each process of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says what else the machine does.
hypothesis.settings.register_profile("suite", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("suite")
hypothesis.settings.register_profile("long", max_examples=10_000)


#: Seconds that files take, those of ten and more. Whoever looks at ``--durations`` and finds another corrects it.
SECONDS = {
    "faults/test_matrix.py": 230,
    "conformance/test_on_kafka.py": 130,
    "service/test_dashboard.py": 130,
    "transports/test_in_a_worker.py": 110,
    "conformance/test_on_activemq.py": 100,
    "service/test_openapi.py": 100,
    "conformance/test_on_rabbitmq.py": 95,
    "transports/test_kafka_in_a_worker.py": 75,
    "transports/test_kafka_server_in_a_worker.py": 60,
    "transports/test_kafka_server.py": 40,
    "conformance/test_on_redis.py": 70,
    "transports/test_kafka_channel.py": 65,
    "up/test_heartbeats.py": 55,
    "service/test_api.py": 50,
    "service/test_keys.py": 50,
    "schedules/test_beats.py": 50,
    "transports/test_activemq_in_a_worker.py": 45,
    "service/test_workflows.py": 40,
    "transports/test_activemq_channel.py": 40,
    "faults/test_broker.py": 35,
    "up/test_projects.py": 35,
    "up/test_up.py": 30,
    "service/test_process.py": 30,
    "service/test_metrics.py": 30,
    "worker/test_stops.py": 25,
    "service/test_schedules.py": 25,
    "service/test_operations.py": 25,
    "ledger/test_submit.py": 25,
    "worker/test_unreadable.py": 25,
    "transports/test_cluster.py": 20,
    "cli/test_doctor.py": 17,
    "up/test_refusals.py": 20,
    "worker/test_ends.py": 20,
    "worker/test_limits.py": 20,
    "worker/test_rolling.py": 20,
    "conformance/test_bridge.py": 20,
    "bridge/test_leaks.py": 20,
    "bridge/test_unreadable.py": 20,
    "ledger/test_states.py": 20,
    "cli/test_jobs.py": 20,
    "service/test_faults.py": 20,
    "service/test_flower.py": 20,
    "transports/test_channel.py": 20,
    "transports/test_sentinel.py": 20,
    "service/test_store.py": 15,
    "service/test_tracing.py": 15,
    "service/test_turns.py": 15,
    "up/test_supervisor.py": 15,
}
#: The rooms whose tests wait: for workers, brokers, and faults to pass. Those of the others compute.
WAITING = ("conformance", "faults", "schedules", "transports", "up", "worker")

#: How many databases the shared server has, and the first that is handed out: those below are the shared workers'.
DATABASES, FIRST = 128, 16

#: How many frames asyncio's debug mode keeps of a stack.
FRAMES = 8

# asyncio's debug mode keeps the stack of each future and handle, with the text of each line of some sixty frames, and
# looks for each whether its file has changed: a tenth of the time of a test that makes requests, or more. On a loop the
# inner frames are kept, and their lines are read when they are shown.
linecache.checkcache = lambda filename=None: None
_extract = traceback.StackSummary.extract


def _extract_few(frames: Any, *, limit: int | None = None, **options: Any) -> traceback.StackSummary:
    if limit is None and asyncio._get_running_loop() is not None:
        limit, options = FRAMES, {**options, "lookup_lines": False}
    return _extract(frames, limit=limit, **options)


private.free_port = free_port  # the product's own choice could be taken by another process of tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark the tests, and have the files that take longest first: each file is one process's.

    Files that wait and files that compute take turns, so that the machine has both at any time.
    """
    places = dict.fromkeys((file_of(item) for item in items), 1.0)
    for waits in (True, False):
        files = sorted((each for each in places if is_waiting(each) == waits), key=lambda each: -SECONDS.get(each, 1))
        before = itertools.accumulate((SECONDS.get(each, 1) for each in files), initial=0)
        whole = sum(SECONDS.get(each, 1) for each in files)
        places |= {each: seconds / whole for each, seconds in zip(files, before, strict=False)}
    items.sort(key=lambda item: places[file_of(item)])
    for item in items:
        if isinstance(item, pytest.Function):
            add_marks(item)


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0].removeprefix("tests/")


def is_waiting(file: str) -> bool:
    return file.partition("/")[0] in WAITING


def pytest_collection_finish() -> None:
    """Have the collector leave alone what is there for good: one that a test asks for looks at what is new."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw what hypothesis draws from, so that it is known what a run that fails began with."""
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = random.SystemRandom().randrange(2**32)


def pytest_report_header(config: pytest.Config) -> str:
    return f"to draw the same again: --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, what is skipped has failed, unless it is impossible."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(IMPOSSIBLE):
            report.outcome, report.longrepr = "failed", f"in CI nothing is skipped: {reason}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    Server.is_allowed = item.get_closest_marker("server") is not None


@pytest.fixture(autouse=True)
def blockbuster(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """Raise from any blocking call on a running event loop."""
    with blockbuster_ctx() as active:
        yield active


@pytest.fixture
def collected() -> Iterator[None]:
    """
    Collect now what would be in the way of a later test.

    Celery's own results unsubscribe as they are collected, which blocks; it must not be the next test's loop. And
    kombu's Redis transport leaves a connection open where it put back messages as it was closed.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis-compatible server that nothing bad happens to."""
    made = Server(tmp_path_factory.mktemp("redis"), "--databases", str(DATABASES)).start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def databases(server: Server) -> Iterator[Database]:
    """
    The shared server's databases, one after the other, each empty.

    They come round again: what a test left running has ended by then. Redis looks for expired keys in 16 databases at
    a time, so many more would keep such keys for seconds.
    """
    return map(emptied, (Database(server, number) for number in itertools.cycle(range(FIRST, DATABASES))))


def emptied(database: Database) -> Database:
    with database.client() as client:
        client.flushdb()
    return database


@pytest.fixture
def database(databases: Iterator[Database]) -> Database:
    """An empty Redis database that only this test uses."""
    return next(databases)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for this test alone, which may be killed, frozen and filled."""
    made = Server(tmp_path / "own-redis").start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def sample_worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stock worker for the sample app; the value is the server's URL."""
    environment = {"SAMPLE_BROKER": server.url, "SAMPLE_BACKEND": server.url}
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with worker("tests.sample", environment, log, "--concurrency", "4", "--without-gossip", "--without-mingle"):
        yield server.url


@pytest.fixture
def app(sample_worker: str) -> Iterator[Celery]:
    made = make_app(sample_worker, sample_worker)
    yield made
    made.close()


@pytest.fixture
async def bridge(app: Celery) -> AsyncIterator[Bridge]:
    async with Bridge(app) as made:
        yield made
