"""Real workers on a real ActiveMQ: whatever Celery does with Redis and RabbitMQ, it does here."""

import asyncio
import collections
import contextlib
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chord, group

from tests.faults.proxy import Proxy
from tests.servers import Server, free_port, wait_for, worker
from tests.transports.activemq_sample import make_app
from tests.transports.brokers import events_of_a_task, need_activemq
from tornado_celery_bridge import Bridge, BrokerUnavailable, DispatchUncertain
from tornado_celery_bridge.up.brokers.activemq import ActiveMQ

Launch = Callable[..., AbstractContextManager["subprocess.Popen[bytes]"]]

POOLS = {"prefork": ("-c", "2"), "threads": ("-P", "threads", "-c", "2"), "solo": ("-P", "solo")}
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")

names = (f"w{number}" for number in itertools.count())


@pytest.fixture
def url(activemq: ActiveMQ) -> str:
    """Of the broker, with a name of this test's own."""
    return activemq.url + next(names)


@pytest.fixture
def make(server: Server) -> Iterator[Callable[[str], Celery]]:
    made: list[Celery] = []

    def make(url: str) -> Celery:
        made.append(make_app(url, server.url))
        made[-1].finalize()
        return made[-1]

    with server.client() as client:
        client.flushall()
    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make: Callable[[str], Celery], url: str) -> Celery:
    return make(url)


@pytest.fixture
def launch(server: Server, url: str, tmp_path: Path) -> Launch:
    numbers = itertools.count()

    def start(
        *options: str, broker: str = url, **environment: str
    ) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        given = {"SAMPLE_BROKER": broker, "SAMPLE_MARKS": server.url, **environment}
        log = tmp_path / f"{next(numbers)}.log"
        return worker("tests.transports.activemq_sample", given, log, *(options or POOLS["prefork"]))

    return start


def marks(server: Server) -> list[str]:
    """Return what ran, in order."""
    with server.client() as seen:
        return [mark.decode().split()[0] for mark in seen.lrange("marks", 0, -1)]


def workers_of(server: Server) -> collections.Counter[str]:
    with server.client() as seen:
        return collections.Counter(mark.decode().split()[1] for mark in seen.lrange("marks", 0, -1))


def depth(app: Celery, queue: str = "plain") -> int:
    with app.connection_for_write() as connection:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


@pytest.mark.parametrize("pool", POOLS)
def test_tasks_control_and_events(launch: Launch, app: Celery, server: Server, pool: str) -> None:
    with launch(*POOLS[pool], "-E", "-n", "w@x"):
        add = app.tasks["add"]
        assert [result.get(timeout=20) for result in [add.delay(number, 1) for number in range(50)]] == [*range(1, 51)]
        assert app.tasks["again"].delay().get(timeout=10) is True  # rejected, requeued, redelivered
        assert app.tasks["retry"].delay().get(timeout=10) == 2
        body = add.si(5, 5)
        assert chord(group(add.s(1, 1), add.s(2, 2), app=app), body, app=app).apply_async().get(timeout=10) == 10

        assert app.control.ping(timeout=5, limit=1) == [{"w@x": {"ok": "pong"}}]
        assert list(app.control.inspect(["w@x"], timeout=5).active_queues() or ()) == ["w@x"]

        assert {"task-started", "task-succeeded"} <= {*events_of_a_task(app)}

        later = app.tasks["mark"].apply_async(("later",), countdown=2)
        app.control.revoke(later.id, destination=["w@x"], reply=True, timeout=5)
        app.control.add_consumer("late", destination=["w@x"], reply=True, timeout=5)
        assert add.apply_async((3, 3), queue="late").get(timeout=10) == 6
        app.control.cancel_consumer("late", destination=["w@x"], reply=True, timeout=5)
        add.apply_async((3, 3), queue="late")
        assert add.delay(4, 4).get(timeout=10) == 8
        assert depth(app, "late") == 1
        wait_for(lambda: depth(app) == 0)
        if pool == "prefork":
            long = app.tasks["nap"].delay(600)
            wait_for(lambda: long.state == "STARTED")
            app.control.revoke(long.id, terminate=True)
            wait_for(lambda: long.state == "REVOKED")  # type: ignore[comparison-overlap]
        wait_for(lambda: app.AsyncResult(later.id).state == "REVOKED")  # type: ignore[comparison-overlap]
        assert marks(server) == []


def test_a_worker_as_celery_starts_it(launch: Launch, app: Celery, make: Any, url: str, server: Server) -> None:
    """Order, dead letters, all of Unicode; and another app beside it."""
    for number in (1, 9, 0, 5):
        app.tasks["mark"].apply_async((number,), priority=number)
    text = "".join(chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000)[: 1 << 20]
    other = make(url + "other")
    with launch("-c", "1", "-n", "one@x"):
        wait_for(lambda: len(marks(server)) == 4)
        assert marks(server) == ["9", "5", "1", "0"]
        assert app.tasks["size"].delay(text).get(timeout=30) == [len(text), text[:20]]
        app.tasks["refuse"].delay()
        app.send_task("no.such.task")
        wait_for(lambda: depth(app) == 0)
        assert app.control.ping(timeout=5, limit=1)
        assert other.control.ping(timeout=1) == []
        other.tasks["mark"].delay("astray")
        app.tasks["mark"].delay("last")
        wait_for(lambda: "last" in marks(server))
        assert depth(other) == 1
        assert "astray" not in marks(server)
    with app.connection_for_write() as connection:
        link = connection.default_channel._link
        with link.listening("/queue/ActiveMQ.DLQ", {"ack": "auto", "browser": "true"}) as listening:
            letters = []
            while (frame := listening.take(5)) and "browser" not in frame.headers:
                letters.append(frame.body.decode())
            listening.keep = True
    for name in ("refuse", "no.such.task"):
        assert any(f'"task": "{name}"' in letter for letter in letters)


def test_workers_share_and_one_that_is_killed_loses_nothing(launch: Launch, app: Celery, server: Server) -> None:
    count = 500
    with launch("-c", "2", "-n", "a@x", *QUIET) as process, launch("-c", "2", "-n", "b@x", *QUIET):
        for number in range(count):
            app.tasks["mark"].delay(number, 0.005)
        wait_for(lambda: len(marks(server)) > count // 2)
        shares = workers_of(server)
        assert len(shares) == 2
        assert min(shares.values()) > max(shares.values()) / 4
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: {*map(int, marks(server))} == {*range(count)})
        wait_for(lambda: depth(app) == 0)
    assert len(marks(server)) <= count + 2  # what the killed one had under way, twice at most


def test_a_warm_stop_finishes_what_it_has_and_leaves_the_rest(launch: Launch, app: Celery, server: Server) -> None:
    for number in range(10):
        app.tasks["mark"].delay(number, 0.5)
    with launch("-c", "2", *QUIET) as process:
        wait_for(lambda: marks(server))
        process.terminate()
        process.wait(20)
    done = len(marks(server))
    assert 1 <= done < 10
    assert depth(app) == 10 - done
    with launch("-c", "4", *QUIET):
        wait_for(lambda: len(marks(server)) == 10)
    assert sorted(map(int, marks(server))) == [*range(10)]  # each one once


def test_a_broker_that_comes_late_is_killed_and_fails_over(
    launch: Launch, make: Any, server: Server, tmp_path: Path
) -> None:
    need_activemq()
    broker, standby = ActiveMQ(tmp_path / "a", free_port()), ActiveMQ(tmp_path / "b", free_port())
    url = f"activemq://127.0.0.1:{broker.port},127.0.0.1:{standby.port}/"
    app, count = make(url), 500
    starting = threading.Timer(3, broker.start)
    starting.start()
    try:
        with launch("-c", "2", *QUIET, broker=url) as process:  # which waits for the broker
            starting.join()
            sent: list[int] = []
            sending = threading.Thread(target=lambda: sent.extend(n for n in range(count) if send(app, n)))
            sending.start()
            wait_for(lambda: len(marks(server)) > 100)
            broker.kill()
            broker.start()
            sending.join()
            assert len(sent) > count // 4
            wait_for(lambda: {*map(int, marks(server))} >= {*sent}, timeout=60)
            wait_for(lambda: depth(app) == 0, timeout=60)
            broker.kill()
            standby.start()
            wait_for(lambda: send(app, count), timeout=60)
            wait_for(lambda: str(count) in marks(server), timeout=60)
            assert process.poll() is None
    finally:
        starting.join()
        broker.stop()
        standby.stop()


def send(app: Celery, number: int) -> bool:
    """Send a task, and return whether the broker said that it has it."""
    with contextlib.suppress(Exception):
        app.tasks["mark"].apply_async((number,), retry=False)
        return True
    return False


def test_a_half_open_connection_costs_seconds(
    launch: Launch, app: Celery, server: Server, activemq: ActiveMQ, url: str
) -> None:
    proxy = Proxy(activemq.port)
    through = url.replace(str(activemq.port), str(proxy.port))
    try:
        with launch("-c", "2", *QUIET, broker=through, SAMPLE_HEARTBEAT="1"):
            app.tasks["mark"].delay(0)
            wait_for(lambda: marks(server))
            proxy.drop()
            begun = time.monotonic()
            for number in range(1, 20):
                app.tasks["mark"].delay(number)
            wait_for(lambda: {*map(int, marks(server))} == {*range(20)})
            assert time.monotonic() - begun < 15
    finally:
        proxy.close()


@pytest.fixture
def running(launch: Launch) -> Iterator[None]:
    with launch("-c", "2", *QUIET):
        yield


@pytest.mark.usefixtures("running")
async def test_a_bridge(app: Celery) -> None:
    """As every test, under blockbuster: nothing of this blocks the loop."""
    add = app.tasks["add"]
    async with Bridge(app) as bridge:
        results = await asyncio.gather(*(bridge.dispatch(add.s(number, 1)) for number in range(200)))
        assert await asyncio.gather(*results) == [*range(1, 201)]
        body = add.si(5, 5)
        assert await (await bridge.dispatch(chord(group(add.s(1, 1), add.s(2, 2), app=app), body, app=app))) == 10
        assert await (await bridge.dispatch(add.s(1, 2), countdown=0.5)) == 3


async def test_a_bridge_that_is_not_let_in(make: Any, tmp_path: Path) -> None:
    await asyncio.to_thread(need_activemq)
    guarded = ActiveMQ(tmp_path, login=("user", "right"))
    await asyncio.to_thread(guarded.start)
    try:
        app = await asyncio.to_thread(make, guarded.url.replace("right", "wrong"))
        async with Bridge(app) as bridge:
            with pytest.raises(BrokerUnavailable):
                await bridge.dispatch(app.tasks["add"].s(1, 1))
    finally:
        await asyncio.to_thread(guarded.stop)


async def test_a_bridge_whose_broker_is_frozen(activemq: ActiveMQ, app: Celery) -> None:
    async with Bridge(app) as bridge:
        await bridge.dispatch(app.tasks["add"].s(1, 1))
        activemq.freeze()
        try:
            begun = time.monotonic()
            with pytest.raises(DispatchUncertain):
                await bridge.dispatch(app.tasks["add"].s(1, 1))
            assert time.monotonic() - begun < 5
        finally:
            activemq.thaw()
