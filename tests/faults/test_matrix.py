"""The fault matrix with small numbers; with large ones it is ``make faults``, whose report is docs/reliability.md."""

import random
import signal
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from tests.faults.__main__ import plot
from tests.faults.harness import Figures, System, check, running, under_fire
from tests.faults.rows import ROWS, soak
from tests.faults.sample import QUEUE
from tests.needs import impossible
from tests.servers import wait_for

SEED = 4


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("system")) as made:
        yield made


def judge(figures: Figures) -> None:
    assert figures.wrong() == {}, figures


IN_ONE_SYSTEM = [row.name for row in ROWS.values() if not (row.proxied or row.on_small_disk or row.broker)]


@pytest.mark.parametrize("name", IN_ONE_SYSTEM)
def test_row(system: System, name: str) -> None:
    row = ROWS[name]
    judge(row.run(system, row.count, row.faults, SEED))


@pytest.fixture(scope="module")
def on_loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("on-loop"), on_loop=True) as made:
        yield made


#: Those whose fault is of the worker's process or of Redis.
ON_LOOP = ["control", "F2", "F3", "F4", "F6", "F8", "F9", "F10", "F15", "F16"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ON_LOOP)
def test_row_on_the_asyncio_pool(on_loop: System, name: str) -> None:
    row = ROWS[name]
    judge(row.run(on_loop, row.count, row.faults, SEED))


def test_a_kill_of_redis_on_the_asyncio_pool(on_loop: System) -> None:
    judge(ROWS["F4"].run(on_loop, 60, 1, SEED))


def test_half_open_connections(tmp_path_factory: pytest.TempPathFactory) -> None:
    row = ROWS["F7"]
    with running(tmp_path_factory.mktemp("proxied"), proxied=True) as system:
        judge(row.run(system, row.count, row.faults, SEED))


def test_a_full_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    row = ROWS["F9b"]
    try:
        with running(tmp_path_factory.mktemp("small"), on_small_disk=True) as system:
            judge(row.run(system, row.count, row.faults, SEED))
    except PermissionError as exc:
        impossible(str(exc))


def test_a_soak_of_seconds(system: System) -> None:
    figures, samples = soak(system, 0.25, SEED)
    judge(figures)
    picture = plot([vars(sample) for sample in samples])
    assert ElementTree.fromstring(picture).tag.endswith("svg")


# The checker itself.

JOURNAL = [("start", "a", 1.0), ("end", "a", 2.0), ("start", "b", 1.0), ("start", "b", 5.0), ("end", "b", 6.0)]
STATES = {"a": "SUCCESS", "b": "SUCCESS"}


def test_nothing_is_wrong() -> None:
    figures = check({"a": 0.5, "b": 0.5}, JOURNAL, STATES, [(1.5, 1.5)], allowed=1)
    assert figures.wrong() == {}
    assert (figures.accepted, figures.second_starts, figures.recovery, figures.back) == (2, 1, 4.0, 0.5)
    assert check({"a": 0.5, "b": 0.5}, JOURNAL, STATES, [(2.5, 5.0)]).recovery == 1.5  # a fault's own time is none


def test_what_is_wrong_is_found() -> None:
    accepted = {"a": 0.5, "b": 0.5, "c": 0.5}
    assert check(accepted, JOURNAL, STATES, allowed=1).wrong() == {"lost": ["c"], "unfinished": ["c"]}
    assert check({"a": 0.5}, JOURNAL, STATES, allowed=1).wrong() == {"unexpected": ["b"]}
    accepted.pop("c")
    assert check(accepted, JOURNAL, STATES).wrong() == {"second starts": 1}
    assert check(accepted, JOURNAL[:4], STATES, allowed=1).wrong() == {"lost": ["b"]}  # it says SUCCESS, and is not
    assert check(accepted, JOURNAL, {"a": "SUCCESS", "b": "FAILURE"}, allowed=1).wrong() == {"failed": ["b"]}
    assert check(accepted, JOURNAL, {"a": "SUCCESS", "b": "STARTED"}, allowed=1).wrong() == {"unfinished": ["b"]}
    assert check({"a": -20.0, "b": 0.5}, JOURNAL, STATES, allowed=1).wrong() == {"recovery": 21.0}


@pytest.mark.nightly
def test_stock_celery_loses_what_is_between_queue_and_worker(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The harness finds a loss where there is one: a message popped, and not yet noted as unacknowledged."""
    with running(tmp_path_factory.mktemp("stock"), stock=True) as stock:
        assert _lose_one(stock).wrong().keys() == {"lost", "unfinished"}


def test_the_ledger_does_not(system: System) -> None:
    judge(_lose_one(system))


def _lose_one(system: System) -> Figures:
    def pop(_: random.Random) -> None:
        with system.redis.client() as client:
            for worker in system.workers:
                worker.process.send_signal(signal.SIGSTOP)
            wait_for(lambda: client.llen(f"{QUEUE}\x06\x169"))  # where kombu has what comes last
            client.rpop(f"{QUEUE}\x06\x169")
            for worker in system.workers:
                worker.process.send_signal(signal.SIGCONT)

    return under_fire(system, 100, 1, pop, seed=SEED)
