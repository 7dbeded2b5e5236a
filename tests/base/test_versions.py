"""What a version lacks is said, and what stands for it works. The versions themselves: ``.ci/versions``."""

import ast
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Producer
from kombu.asynchronous import Hub

from tornado_celery_bridge.base import versions
from tornado_celery_bridge.ledger.checks import check

ROOT = Path(__file__).parent.parent.parent


def told(broker: str) -> str | None:
    """Return what `tcb check` says of the versions, for an app with this broker."""
    app = Celery(broker=broker, backend="redis://127.0.0.1:1/0", set_as_current=False)
    found = {finding.name: str(finding) for finding in check(app, servers=False, environment={})}
    return found.get("old-versions")


def test_the_newest_versions_lack_nothing() -> None:
    if versions.CELERY >= (5, 7) and versions.HAS_BATCHES:
        assert told("redis://127.0.0.1:1/0") is None
        assert told("amqp://127.0.0.1:1") is None


def test_what_older_ones_lack_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"kombu": "5.6.2", "celery": "5.7.0"}
    monkeypatch.setattr(versions, "version", installed.get)
    by_redis = told("redis://127.0.0.1:1/0")
    assert by_redis is not None
    assert "with kombu 5.6.2, each message waits for its own answer of the broker" in by_redis
    assert "Remedy: pip install 'kombu>=5.7'; or live with it: no job is lost by it" in by_redis
    assert "celery 5" not in by_redis
    installed["celery"] = "5.5.0rc1"
    by_rabbitmq = told("amqp://127.0.0.1:1")
    assert by_rabbitmq is not None
    assert "with celery 5.5.0rc1, what a task with pydantic models returns" in by_rabbitmq
    assert not re.search("RabbitMQ|redis-py|soft shutdown", by_rabbitmq)
    installed["celery"] = "5.7rc1"
    assert "celery 5" not in (told("amqp://127.0.0.1:1") or "")
    installed["celery"] = "5.4.0"
    assert "with celery 5.4.0, RabbitMQ does not hold tasks with an ETA" in (told("amqp://127.0.0.1:1") or "")
    assert "pip install 'celery>=5.7' 'kombu>=5.7';" in (told("amqp://127.0.0.1:1") or "")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("5.7.0", (5, 7, 0)),
        ("5.7rc1", (5, 7)),
        ("5.8.dev3+g1", (5, 8)),
        ("8b1", (8,)),
        ("5.7.0.post1", (5, 7, 0)),
        ("?", ()),
    ],
)
def test_the_numbers_of_a_version(text: str, numbers: tuple[int, ...]) -> None:
    assert versions.numbers(text) == numbers


def test_without_batches_each_message_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "HAS_BATCHES", False)
    with Connection("memory://") as connection, connection.channel() as channel:
        producer = Producer(channel)
        assert not versions.is_batched(producer)
        queue = connection.SimpleQueue("q")
        with versions.publish_batch(producer, 10):
            producer.publish("m", routing_key="q")
            assert queue.get(timeout=1).payload == "m"


def test_a_workers_loop_does_at_once_what_a_thread_asks_for() -> None:
    """By kombu itself from 5.7 on; also after the loop was closed, as it is when the broker was away."""
    hub: Any = Hub()
    ends = socket.socketpair()
    sleeps, done = [0.0], [0.0]
    hub.fire_timers = lambda **_: sleeps[-1]
    hub.timer.call_after(60, lambda: None)

    def do() -> None:
        done.append(time.monotonic())
        sleeps.append(0)

    for times in (2, 3):
        hub.add_reader(ends[0], lambda: None)  # as of a broker; without one it does not wait for anything
        versions.wake_for_threads(hub)
        loop, begun = hub.create_loop(), time.monotonic()
        sleeps.append(60)
        thread = threading.Timer(0.2, hub.call_soon, [do])
        thread.start()
        while len(done) < times:
            next(loop)
        thread.join()
        assert done[-1] - begun < 30
        hub.reset()
    hub.close()
    for end in (*ends, *((hub.waker, hub.wakes) if "waker" in vars(hub) else ())):
        end.close()


def test_a_worker_without_an_event_loop_acknowledges_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else; the tests of Kafka (.ci/versions) have it in a worker."""
    monkeypatch.setattr(versions, "CELERY", (5, 6))
    later: list[Any] = []

    class Consumer:  # as Celery's, below 5.7
        def call_soon(self, call: Any) -> None:
            later.append(call)

        def create_task_handler(self) -> Any:
            call_soon = self.call_soon
            return lambda message: call_soon(message.acknowledge)

    class Message:
        times = 0

        def acknowledge(self) -> None:
            self.times += 1
            if self.times > 1:
                raise OSError("gone")

    consumer, message = Consumer(), Message()
    versions.acknowledge_at_once(consumer)
    handle = consumer.create_task_handler()
    handle(message)
    assert (message.times, later) == (1, [])
    handle(message)  # it raises nothing
    consumer.call_soon(message)
    assert (message.times, later) == (2, [message])


def test_no_other_module_asks_for_a_version() -> None:
    asks = re.compile(r"celery\.VERSION|celery\.__version__|kombu\.VERSION|redis\.__version__|tornado\.version_info")
    found = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "tornado_celery_bridge").rglob("*.py")
        if asks.search(file.read_text()) and file.name != "versions.py"
    ]
    assert found == []


def test_celerys_classes_have_brackets_in_quotes_alone() -> None:
    """Below 5.7 they take none at run time."""
    found = []
    files = [file for place in ("tornado_celery_bridge", "tasks", "tests") for file in (ROOT / place).rglob("*.py")]
    for file in files:
        tree = ast.parse(file.read_text())
        celerys = {
            alias.asname or alias.name
            for each in ast.walk(tree)
            if isinstance(each, ast.ImportFrom) and each.module in ("celery", "celery.result")
            for alias in each.names
        } & {"Task", "AsyncResult"}
        found += [
            f"{file.relative_to(ROOT)}:{each.lineno}"
            for each in ast.walk(tree)
            if isinstance(each, ast.Subscript) and isinstance(each.value, ast.Name) and each.value.id in celerys
        ]
    assert found == []
