"""Real workers over a real server that speaks Kafka's protocol: what Celery does with a broker, it does with this."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import redis
from celery import Celery, chord, group
from celery.exceptions import TaskRevokedError

from deploy.brokers.kafka import Kafka
from tests.servers import Server, wait_for, worker
from tests.transports.kafka_sample import make_app

Launch = Callable[..., AbstractContextManager["subprocess.Popen[bytes]"]]

pytestmark = [pytest.mark.server, pytest.mark.worker]

#: Every Unicode plane that has characters, and what JSON escapes.
PLANES = "".join(map(chr, (0x41, 0xE9, 0x4E2D, 0x1F600, 0x20000, 0x30000, 0xE0101, 0xF0000, 0x10FFFD))) + '\x00\n"\\'


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    made = Kafka(tmp_path_factory.mktemp("kafka")).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def launch(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    folder = tmp_path_factory.mktemp("logs")
    numbers = iter(range(1000))

    def start(
        broker: Kafka | str, *options: str, **environment: str
    ) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        url = broker if isinstance(broker, str) else broker.url
        settings = {"SAMPLE_BROKER": url, "SAMPLE_BACKEND": server.url, "SAMPLE_MARKS": server.url}
        log = folder / f"{next(numbers)}.log"
        return worker("tests.transports.kafka_sample", {**settings, **environment}, log, *(options or ("-c", "2")))

    return start


@pytest.fixture
def app(broker: Kafka, server: Server) -> Iterator[Celery]:
    made = make_app(broker.url, server.url)
    yield made
    made.close()


@pytest.fixture
def marks(server: Server) -> Iterator[redis.Redis]:
    with server.client() as made:
        made.delete("marks")
        yield made


@pytest.fixture(scope="module")
def running(broker: Kafka, launch: Launch) -> Iterator[None]:
    """A worker for all tests that leave it as it was."""
    with launch(broker, "-c", "2", "-n", "w@x", "-E", "-Q", "plain,other"):
        yield


def numbers(marks: redis.Redis) -> list[int]:
    return [int(mark.split()[0]) for mark in marks.lrange("marks", 0, -1)]


# One worker.


@pytest.mark.usefixtures("running")
def test_tasks(app: Celery) -> None:
    add = app.tasks["add"]
    assert [result.get(timeout=20) for result in [add.delay(number, 1) for number in range(200)]] == [*range(1, 201)]
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
    assert [*app.control.inspect(timeout=2).active_queues()] == ["w@x"]
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
    seen: list[str] = []

    def note(event: dict[str, str]) -> None:
        seen.append(event["type"])
        receiver.should_stop = event["type"] == "task-succeeded"

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        app.tasks["add"].apply_async((1, 1), countdown=1)  # by then the receiver has subscribed
        receiver.capture(limit=None, timeout=20, wakeup=False)
    assert {"task-started", "task-succeeded"} <= {*seen}
