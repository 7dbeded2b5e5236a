"""Real workers of both transports, on the same queues: whatever Celery does with kombu's, it does with ours."""

import gc
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis
from celery import Celery, chord

from tests.servers import Server, wait_for, worker
from tests.transports import kills
from tests.transports.brokers import events_of_a_task
from tests.transports.sample import make_app
from tornado_celery_bridge.base.versions import CELERY, RESTORES_AS_TOLD

Launch = Callable[..., AbstractContextManager["subprocess.Popen[bytes]"]]

#: For a worker whose broker dies. Below Celery 5.7 a stock pool may end it as the broker comes back (versions.LACKS);
#: the pool that `install` brings does not, and this shows it.
OUTLIVES = {"SAMPLE_POOL": "tornado_celery_bridge.worker.pool:TaskPool"} if CELERY < (5, 7) else {}

POOLS = {"prefork": ("-c", "2"), "threads": ("-P", "threads", "-c", "2"), "solo": ("-P", "solo")}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("broker")).start()
    yield made
    made.stop()


@pytest.fixture
def client(broker: Server) -> Iterator[redis.Redis]:
    with broker.client() as made:
        made.flushall()
        yield made


@pytest.fixture
def app(broker: Server) -> Iterator[Celery]:
    """Publishes by kombu's own transport."""
    made = make_app(broker.url)
    yield made
    made.close()


@pytest.fixture
def launch(broker: Server, server: Server, tmp_path: Path, client: redis.Redis) -> Launch:
    numbers = iter(range(100))
    with server.client() as marks:
        marks.flushall()

    def start(
        *options: str, transport: str = "ours", **environment: str
    ) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        settings = {"SAMPLE_TRANSPORT": transport, "SAMPLE_BROKER": broker.url, "SAMPLE_MARKS": server.url}
        log = tmp_path / f"{next(numbers)}.log"
        return worker("tests.transports.sample", {**settings, **environment}, log, *(options or POOLS["prefork"]))

    return start


def marks(server: Server) -> list[int]:
    with server.client() as seen:
        return [int(number) for number in seen.lrange("marks", 0, -1)]


def is_empty(client: redis.Redis) -> bool:
    return not client.exists("plain", "unacked", "unacked_index")


@pytest.mark.parametrize("pool", POOLS)
def test_tasks_control_and_events(launch: Launch, app: Celery, client: redis.Redis, pool: str) -> None:
    with launch(*POOLS[pool], "-E", "-n", "w@x"):
        add, again = app.tasks["add"], app.tasks["again"]
        assert [result.get(timeout=10) for result in [add.delay(number, 1) for number in range(50)]] == [*range(1, 51)]
        assert again.delay().get(timeout=10) is True  # rejected, requeued, redelivered
        assert add.apply_async((1, 1), countdown=0.5).get(timeout=10) == 2
        assert chord([add.s(1, 1), add.s(2, 2)], add.si(5, 5), app=app).apply_async().get(timeout=10) == 10

        assert app.control.ping(timeout=2) == [{"w@x": {"ok": "pong"}}]
        assert list(app.control.inspect(timeout=2).active_queues() or ()) == ["w@x"]

        told = {*events_of_a_task(app)}
        loses_some = pool == "threads" and CELERY < (5, 7)  # versions.LACKS
        assert ({"task-received"} if loses_some else {"task-started", "task-succeeded"}) <= told

        eta = add.apply_async((1, 1), countdown=3600)
        wait_for(lambda: client.hlen("unacked") == 1)
        app.control.revoke(eta.id, reply=True)
        app.control.add_consumer("late", reply=True)
        assert add.apply_async((3, 3), queue="late").get(timeout=10) == 6
        app.control.cancel_consumer("late", reply=True)
        add.apply_async((3, 3), queue="late")
        assert add.delay(4, 4).get(timeout=10) == 8
        assert client.llen("late") == 1


@pytest.mark.parametrize("transport", ["ours", "stock"])
def test_mixed_fleet(launch: Launch, app: Celery, client: redis.Redis, server: Server, transport: str) -> None:
    """Workers of both kinds on one queue, and what one of them took when it was killed, the other one does."""
    other = {"ours": "stock", "stock": "ours"}[transport]
    with launch("-c", "1", "-n", "a@x", transport=transport, SAMPLE_VISIBILITY="10") as process:
        app.tasks["mark"].delay(0, 60)
        wait_for(lambda: client.hlen("unacked") == 1)
        with launch("-c", "1", "-n", "b@x", transport=other, SAMPLE_VISIBILITY="10"):
            for number in range(1, 101):
                app.tasks["mark"].delay(number)
            wait_for(lambda: len(marks(server)) == 100)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert client.hlen("unacked") == 1
            # kombu's own looks for what is overdue every 100 s below 5.7. Ours does so as often as it is told.
            longest = 30.0 if RESTORES_AS_TOLD or other == "ours" else 150.0
            wait_for(lambda: not client.llen("plain") and _redelivered(client), longest)
    assert sorted(marks(server)) == [*range(1, 101)]


def _redelivered(client: redis.Redis) -> bool:
    return any(b'"redelivered": true' in note for note in client.hvals("unacked"))


def test_priorities_and_fairness(launch: Launch, app: Celery, client: redis.Redis, server: Server) -> None:
    for queue, start in (("plain", 0), ("other", 100)):
        for number in range(10):
            app.tasks["mark"].apply_async((start + number,), queue=queue, priority=0 if number == 9 else 6)
    with launch("-P", "solo", "-Q", "plain,other", SAMPLE_PREFETCH="4"):
        wait_for(lambda: len(marks(server)) == 20)
    seen = marks(server)
    assert sorted(seen[:2]) == [9, 109]
    assert all(
        {a, b} & {*range(10)} and {a, b} & {*range(100, 110)} for a, b in zip(seen[2::2], seen[3::2], strict=True)
    )


def test_prefix(launch: Launch, client: redis.Redis, server: Server, broker: Server) -> None:
    with launch("-c", "1", SAMPLE_PREFIX="p-"):
        app = make_app(broker.url)
        app.conf.broker_transport_options["global_keyprefix"] = "p-"
        for number in range(20):
            app.tasks["mark"].delay(number)
        wait_for(lambda: len(marks(server)) == 20)
        wait_for(lambda: not client.exists("p-unacked"))
        assert app.control.ping(timeout=2)
        app.close()


@pytest.mark.parametrize("way", ["password", "acl", "unix"])
def test_ways_to_redis(launch: Launch, tmp_path: Path, way: str) -> None:
    made = Server(tmp_path / "redis", "--unixsocket", str(tmp_path / "s")).start()
    login, url = ":secret@", f"redis://{{}}127.0.0.1:{made.port}/0"
    with made.client() as client:
        if way == "acl":  # of what is dangerous only what lists, flushes and configures is forbidden to it
            rules = ("on", ">secret", "~*", "&*", "+@all", "-@admin", "-@dangerous")
            client.execute_command("ACL", "SETUSER", "celery", *rules)
            login = "celery:secret@"
        client.config_set("requirepass", "secret" if way != "acl" else "another")
    if way == "unix":
        url = f"redis+socket://{{}}{tmp_path}/s?virtual_host=0"
    url = url.format(login)
    app = make_app(url)
    with launch("-c", "1", SAMPLE_BROKER=url):
        assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
        assert app.tasks["again"].delay().get(timeout=20) is True
        assert app.control.inspect(timeout=20, limit=1).ping()
    app.close()
    gc.collect()  # a result that is collected later asks its backend, and Celery below 5.7 then waits for it
    made.stop()


def test_warm_shutdown_puts_back_what_has_not_begun(
    launch: Launch, app: Celery, client: redis.Redis, server: Server
) -> None:
    for number in range(10):
        app.tasks["mark"].delay(number, 0.5)
    with launch("-c", "1", SAMPLE_PREFETCH="4") as process:
        wait_for(lambda: marks(server) and client.hlen("unacked") == 4)
        process.terminate()
        process.wait(20)
    assert not client.exists("unacked", "unacked_index")
    done = len(marks(server))
    assert done >= 1
    assert client.llen("plain") == 10 - done
    with launch("-c", "4"):
        wait_for(lambda: is_empty(client))
    assert sorted(marks(server)) == [*range(10)]  # each one once


def test_connections_cut_all_the_time(launch: Launch, app: Celery, client: redis.Redis, server: Server) -> None:
    with launch("-c", "2", SAMPLE_VISIBILITY="3") as process:
        for cut in range(10):
            for number in range(20):
                app.tasks["mark"].apply_async((cut * 20 + number,), retry=True)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
            time.sleep(0.3)
        wait_for(lambda: is_empty(client), timeout=40)
        assert process.poll() is None
    assert {*marks(server)} == {*range(200)}


def test_a_broker_killed_and_started_again(
    launch: Launch, app: Celery, client: redis.Redis, server: Server, broker: Server
) -> None:
    """The worker's main process lives, with a late task under way and one on its way: kombu 5.7.0's own would exit."""
    # Its results are elsewhere: a stock worker of Celery below 5.7 ends if it can't note that it cancels a task.
    with launch("-c", "2", SAMPLE_VISIBILITY="3", SAMPLE_BACKEND=server.url, **OUTLIVES) as process:
        for kill in range(3):
            for number in range(40):
                app.tasks["mark"].apply_async((kill * 40 + number, 0.05))
            wait_for(lambda kill=kill: len({*marks(server)}) > kill * 40 + 3)  # type: ignore[misc]
            broker.kill()
            time.sleep(0.5)
            broker.start()
            wait_for(lambda: is_empty(client), timeout=40)
            assert process.poll() is None
    assert {*marks(server)} == {*range(120)}


def test_what_a_worker_holds_while_the_broker_restarts(
    launch: Launch, app: Celery, client: redis.Redis, server: Server, broker: Server
) -> None:
    """Tasks that wait for their eta begin when they are due, and one that was ended begins again at once."""
    # Its visibility timeout is a minute; its results as above.
    with launch("-c", "2", SAMPLE_BACKEND=server.url, **OUTLIVES):
        app.tasks["mark"].delay(0, 3)
        for number in range(1, 11):
            app.tasks["mark"].apply_async((number,), countdown=6)
        wait_for(lambda: client.hlen("unacked") == 11)
        broker.kill()
        time.sleep(0.5)
        broker.start()
        wait_for(lambda: len(marks(server)) == 11, timeout=20)
        assert {*marks(server)} == {*range(11)}
        wait_for(lambda: is_empty(client))


def test_nothing_lost_by_kills(tmp_path: Path) -> None:
    """`python -m tests.transports.kills` has the same with 3,000 tasks and 20 kills, and kombu's own beside it."""
    count = kills.run("ours", tmp_path, tasks=600, kills=4, seed=1)
    assert count.lost == 0
    assert count.recovery < 25
