"""What a version lacks is said, and what stands for it works. The versions themselves: ``.ci/versions``."""

import ast
import re
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection, Producer

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
    monkeypatch.setattr(versions, "HAS_BATCHES", False)
    by_redis = told("redis://127.0.0.1:1/0")
    assert by_redis is not None
    assert re.search(r"with kombu 5\.\d+\.\d+, each message waits for its own answer of the broker", by_redis)
    assert "Remedy: pip install 'kombu>=5.7'; or live with it: no job is lost by it" in by_redis
    assert "RabbitMQ" not in by_redis
    monkeypatch.setattr(versions, "native_delayed_delivery", None)
    by_rabbitmq = told("amqp://127.0.0.1:1")
    assert by_rabbitmq is not None
    assert re.search(r"with celery 5\.\d+\.\d+, RabbitMQ does not hold delayed tasks", by_rabbitmq)
    assert "'kombu>=5.7' 'celery>=5.5'" in by_rabbitmq or "'celery>=5.5' 'kombu>=5.7'" in by_rabbitmq


def test_without_batches_each_message_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "HAS_BATCHES", False)
    with Connection("memory://") as connection, connection.channel() as channel:
        producer = Producer(channel)
        assert not versions.is_batched(producer)
        queue = connection.SimpleQueue("q")
        with versions.publish_batch(producer, 10):
            producer.publish("m", routing_key="q")
            assert queue.get(timeout=1).payload == "m"


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
    for file in [*(ROOT / "tornado_celery_bridge").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
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
