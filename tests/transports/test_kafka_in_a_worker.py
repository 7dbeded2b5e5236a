"""Real workers over a real server that speaks Kafka's protocol: what Celery does with a broker it does with this."""

import asyncio
import collections
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import redis
from celery import Celery, chord, group
from celery.exceptions import TaskRevokedError
from kombu.exceptions import OperationalError

from tests.servers import Server, wait_for, worker
from tests.transports.brokers import events_of_a_task
from tests.transports.kafka_client import accept
from tests.transports.kafka_sample import make_app
from tornado_celery_bridge import Bridge, BridgeConfig
from tornado_celery_bridge.exceptions import DispatchError
from tornado_celery_bridge.up.brokers.tansu import Tansu
from tornado_celery_bridge.worker.processes import children

Launch = Callable[..., AbstractContextManager["subprocess.Popen[bytes]"]]

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")

#: How many share a queue: KAFKA_WORKERS=4 has more of them.
WORKERS = "abcdefgh"[: int(os.environ.get("KAFKA_WORKERS", "2"))]

#: Every Unicode plane that has characters, and what JSON escapes.
PLANES = "".join(map(chr, (0x41, 0xE9, 0x4E2D, 0x1F600, 0x20000, 0x30000, 0xE0101, 0xF0000, 0x10FFFD))) + '\x00\n"\\'


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tansu]:
    made = Tansu(tmp_path_factory.mktemp("kafka")).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def launch(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    folder = tmp_path_factory.mktemp("logs")
    numbers = iter(range(1000))

    def start(
        broker: Tansu | str, *options: str, **environment: str
    ) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        url = broker if isinstance(broker, str) else broker.url
        settings = {"SAMPLE_BROKER": url, "SAMPLE_BACKEND": server.url, "SAMPLE_MARKS": server.url}
        log = folder / f"{next(numbers)}.log"
        return worker("tests.transports.kafka_sample", {**settings, **environment}, log, *(options or ("-c", "2")))

    return start


@pytest.fixture
def app(broker: Tansu, server: Server) -> Iterator[Celery]:
    made = make_app(broker.url, server.url)
    yield made
    made.close()


@pytest.fixture
def marks(server: Server) -> Iterator[redis.Redis]:
    with server.client() as made:
        made.delete("marks")
        yield made


@pytest.fixture(scope="module")
def running(broker: Tansu, launch: Launch) -> Iterator[None]:
    """A worker for all tests that leave it as it was."""
    with launch(broker, "-c", "2", "-n", "w@x", "-E", "-Q", "plain,other"):
        yield


def numbers(marks: redis.Redis) -> list[int]:
    return [int(mark.split()[0]) for mark in marks.lrange("marks", 0, -1)]


# One worker.


@pytest.mark.usefixtures("running")
def test_tasks(app: Celery) -> None:
    add, began = app.tasks["add"], time.monotonic()
    assert [result.get(timeout=20) for result in [add.delay(number, 1) for number in range(200)]] == [*range(1, 201)]
    assert time.monotonic() - began < 100  # 200 s if they are acknowledged at the worker's next look (versions.py)
    assert app.tasks["again"].delay().get(timeout=20) is True  # rejected, requeued, redelivered
    assert app.tasks["retried"].delay(2).get(timeout=20) == 2
    assert add.apply_async((1, 1), countdown=0.5).get(timeout=20) == 2
    assert add.apply_async((1, 1), queue="other").get(timeout=20) == 2


@pytest.mark.usefixtures("running")
def test_canvases(app: Celery) -> None:
    add = app.tasks["add"]
    assert group(add.s(number, number) for number in range(5)).apply_async().get(timeout=20) == [0, 2, 4, 6, 8]
    assert chord([add.s(1, 1), add.s(2, 2)], add.si(5, 5), app=app).apply_async().get(timeout=20) == 10
    assert (add.s(1, 1) | add.s(2) | add.s(3)).apply_async().get(timeout=20) == 7


@pytest.mark.usefixtures("running")
def test_a_message_of_a_megabyte_and_every_plane(app: Celery) -> None:
    value = PLANES * (1_000_000 // len(PLANES.encode()))
    assert app.tasks["echo"].delay(value).get(timeout=30) == value


@pytest.mark.usefixtures("running")
def test_an_eta_waits_in_redis(app: Celery, server: Server) -> None:
    begun = time.time()
    result = app.tasks["add"].apply_async((1, 1), countdown=6)
    with server.client() as client:
        assert client.zcard("kafka-later:plain") == 1
        assert app.tasks["add"].delay(1, 1).get(timeout=10) == 2  # nothing is held up
        assert result.get(timeout=20) == 2
        assert 6 <= time.time() - begun < 12
        assert client.zcard("kafka-later:plain") == 0


@pytest.mark.usefixtures("running")
def test_control(app: Celery) -> None:
    assert app.control.ping(timeout=2) == [{"w@x": {"ok": "pong"}}]
    assert list(app.control.inspect(timeout=2).active_queues() or ()) == ["w@x"]
    busy = app.tasks["nap"].delay(60), app.tasks["nap"].delay(60)  # all that there is room for
    wait_for(lambda: all(result.state == "STARTED" for result in busy))
    waiting = app.tasks["add"].delay(1, 1)
    assert app.control.ping(timeout=2)
    for result in busy:
        result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=20)
    assert waiting.get(timeout=20) == 2
    app.control.add_consumer("late", reply=True)
    assert app.tasks["add"].apply_async((3, 3), queue="late").get(timeout=30) == 6
    app.control.cancel_consumer("late", reply=True)


@pytest.mark.usefixtures("running")
def test_events(app: Celery) -> None:
    assert {"task-started", "task-succeeded"} <= {*events_of_a_task(app)}


async def test_the_bridge(running: None, app: Celery) -> None:
    async with Bridge(app, BridgeConfig(dispatch_timeout=5)) as bridge:
        add = app.tasks["add"]
        results = await asyncio.gather(*(bridge.dispatch(add.s(number, 1)) for number in range(50)))
        assert await asyncio.gather(*results) == [*range(1, 51)]
        chained = await bridge.dispatch(add.s(1, 1) | add.s(2))
        assert await chained == 4


async def test_the_bridge_and_a_broker_that_freezes(server: Server, tmp_path: Path) -> None:
    broker = await asyncio.to_thread(Tansu(tmp_path).start)
    app = make_app(broker.url, server.url)
    try:
        async with Bridge(app) as bridge:
            await bridge.dispatch("add", (1, 1))
            broker.freeze()
            with pytest.raises(DispatchError):
                for _ in range(100):  # until it stands still
                    begun = time.monotonic()
                    await bridge.dispatch("add", (1, 1))
            assert time.monotonic() - begun < 4
    finally:
        app.close()
        await asyncio.to_thread(broker.stop)


# Several workers, and what happens to them.


def test_workers_share_a_queue(broker: Tansu, launch: Launch, app: Celery, marks: redis.Redis) -> None:
    with ExitStack() as stack:
        for name in WORKERS:
            options = ("-P", "solo", "-n", f"{name}@x", "-Q", "shared", *QUIET)
            stack.enter_context(launch(broker, *options, SAMPLE_NAME=name))
        share_out(app, "shared", len(WORKERS), marks)
        for number in range(120):
            app.tasks["mark"].apply_async((number, 0.02), queue="shared")
        wait_for(lambda: len(numbers(marks)) == 120, timeout=60)
    assert sorted(numbers(marks)) == [*range(120)]  # each one once
    shares = collections.Counter(mark.decode().split()[1] for mark in marks.lrange("marks", 0, -1))
    assert min(shares[name] for name in WORKERS) >= 60 / len(WORKERS)  # half of what it would be


def share_out(app: Celery, queue: str, workers: int, marks: redis.Redis) -> None:
    """Send tasks to *queue* until each of its workers has had one: then each one has a part of it."""

    def all_had_one() -> bool:
        app.tasks["mark"].apply_async((0,), queue=queue)
        time.sleep(0.05)
        return len({mark.split()[1] for mark in marks.lrange("marks", 0, -1)}) == workers

    wait_for(all_had_one, timeout=60)
    wait_for(lambda: size(app, queue) == 0)
    marks.delete("marks")


def size(app: Celery, queue: str) -> int:
    with app.connection_for_read() as connection, connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


def test_a_warm_stop_runs_nothing_twice(broker: Tansu, launch: Launch, app: Celery, marks: redis.Redis) -> None:
    for number in range(12):
        app.tasks["mark"].apply_async((number, 0.4), queue="warm")
    with launch(broker, "-c", "2", "-Q", "warm", SAMPLE_PREFETCH="2") as process:
        # A group that still forms takes no commits, and what was done meanwhile is done again.
        wait_for(lambda: len(numbers(marks)) >= 2 and size(app, "warm") < 12)
        process.terminate()
        process.wait(30)
    done = len(numbers(marks))
    assert size(app, "warm") == 12 - done
    with launch(broker, "-c", "4", "-Q", "warm"):
        wait_for(lambda: len(numbers(marks)) >= 12, timeout=60)
        wait_for(lambda: size(app, "warm") == 0)
    assert sorted(numbers(marks)) == [*range(12)]


@pytest.mark.parametrize("forks", [16, pytest.param(1000, marks=[pytest.mark.nightly, pytest.mark.timeout(1000)])])
def test_pool_processes_come_and_go(broker: Tansu, launch: Launch, app: Celery, forks: int) -> None:
    """A child inherits its parent's handles, and must not end them."""
    with launch(broker, "-c", "8", "-Q", "forks", SAMPLE_CHILD="1") as process:
        retried = app.tasks["retried"]  # which publishes from the child, too
        results = [retried.apply_async((number % 2,), queue="forks") for number in range(forks)]
        assert [result.get(timeout=max(forks, 60)) for result in results] == [number % 2 for number in range(forks)]
        assert process.poll() is None


@pytest.mark.nightly
def test_workers_come_and_go(broker: Tansu, launch: Launch, app: Celery, marks: redis.Redis) -> None:
    """Every five seconds one joins or leaves, by TERM or by kill -9, under load."""
    options = ("-c", "2", "-Q", "storm", *QUIET)
    deadline, sent = time.monotonic() + 120, itertools.count()
    kills = 0

    def load(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            app.tasks["mark"].apply_async((next(sent), 0.005), queue="storm")
            time.sleep(0.01)

    with launch(broker, "-n", "first@x", *options):
        for turn in itertools.count():
            with launch(broker, "-n", f"guest-{turn}@x", *options) as guest:
                load(5)
                if turn % 2:
                    kills += 1
                    os.killpg(guest.pid, signal.SIGKILL)
                else:
                    guest.terminate()
                    guest.wait(30)
            load(5)
            if time.monotonic() > deadline and kills:
                break
        total = next(sent)
        wait_for(lambda: {*numbers(marks)} == {*range(total)}, timeout=60)
        wait_for(lambda: size(app, "storm") == 0)
    twice = len(numbers(marks)) - total
    print(f"{total} tasks, {turn + 1} joined and left, {kills} of them killed, {twice} ran twice")
    assert twice <= 30 * kills  # of each that was killed: in its hands, or done and not said yet


# The broker.


def test_a_broker_killed_with_jobs_in_it(launch: Launch, server: Server, tmp_path: Path, marks: redis.Redis) -> None:
    """This one forgets everything then; the workers connect again, and the ledger has the jobs published again."""
    broker = Tansu(tmp_path / "kafka").start()
    app = make_app(broker.url, server.url)
    try:
        with launch(broker, "-c", "2", SAMPLE_LEDGER="1") as process:
            jobs = [
                app.tasks["mark"].s(number, 0.2).set(task_id=f"{tmp_path.name}-{number}", ignore_result=False)  # type: ignore[call-arg]
                for number in range(40)
            ]
            asyncio.run(accept(app, jobs))
            for each in jobs:
                each.apply_async()
            wait_for(lambda: len(numbers(marks)) > 5)
            broker.kill()
            with pytest.raises(OperationalError):
                app.tasks["add"].delay(1, 1)
            broker.start()
            wait_for(lambda: {*numbers(marks)} == {*range(40)}, timeout=90)
            assert process.poll() is None
    finally:
        app.close()
        broker.stop()


def test_killed_processes_leave_no_lock(broker: Tansu, launch: Launch, app: Celery) -> None:
    """One of a pool's idle processes reads from the pipe that all share, with its lock in hand."""
    with launch(broker, "-c", "2", "-n", "k@x", "-Q", "plain", *QUIET, SAMPLE_LEDGER="1") as process:
        assert app.send_task("add", (1, 2)).get(timeout=30) == 3
        idle = children(process.pid)
        for pid in idle:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(set(children(process.pid)) - set(idle)) == 2)
        assert app.send_task("add", (1, 2)).get(timeout=30) == 3
