"""What transports say of themselves, and what is made of it."""

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from tests.conformance import matrix
from tornado_celery_bridge import transports
from tornado_celery_bridge.transports import Priorities, capabilities, describe, register


def app_of(broker_url: str, **settings: Any) -> Celery:
    app = Celery(broker=broker_url, set_as_current=False)
    app.conf.update(settings)
    return app


def test_the_docs_say_the_same() -> None:
    assert matrix.written("capabilities") == matrix.capabilities(), "python -m tests.conformance writes it anew"


@pytest.mark.parametrize("scheme", [*transports.TRANSPORTS, "redis+socket", "activemq+ssl"])
def test_each_scheme_has_its_transport(scheme: str) -> None:
    url = f"{scheme}:///run/redis.sock" if scheme == "redis+socket" else f"{scheme}://127.0.0.1"
    register(url)
    told = capabilities(app_of(url))
    assert told.keys() == {*matrix.CAPABILITIES}
    assert all(told.values())


def test_a_transport_that_is_none_of_ours_says_nothing() -> None:
    register("memory://")
    app = app_of("memory://")
    assert capabilities(app) == {}
    assert Priorities(app).are_served("celery")
    assert Priorities(app).to_broker(9) == 9


@pytest.mark.parametrize("url", ["redis://127.0.0.1", "sentinel://127.0.0.1"])
def test_on_redis_0_is_the_most_urgent(url: str) -> None:
    priorities = Priorities(app_of(url))
    assert priorities.are_served("celery")
    assert [priorities.to_broker(each) for each in (9, 0)] == [0, 9]


def test_on_rabbitmq_a_queue_has_to_be_declared_for_it() -> None:
    queues = {
        "quorum": {"queue_arguments": {"x-queue-type": "quorum"}},
        "classic": {},
        "urgent": {"queue_arguments": {"x-max-priority": 9}},
    }
    priorities = Priorities(app_of("amqp://", task_queues=queues))
    assert [name for name in (*queues, "unknown") if priorities.are_served(name)] == ["urgent"]
    assert priorities.to_broker(9) == 9
    assert Priorities(app_of("amqp://", task_queue_max_priority=9)).are_served("celery")


@pytest.mark.parametrize(
    ("url", "options"),
    [("kafka://127.0.0.1:1/?priority_steps=0,5", {}), ("kafka://127.0.0.1:1", {"priority_steps": (0, 5)})],
)
def test_on_kafka_topics_have_to_be_made_for_it(url: str, options: dict[str, Any]) -> None:
    register(url)
    app = app_of(url, broker_transport_options=options)
    priorities = Priorities(app)
    assert priorities.are_served("celery")
    assert priorities.to_broker(9) == 9
    assert describe(app).capabilities["priority"].endswith("(here: in celery)")
    without = app_of("kafka://127.0.0.1:1")
    assert not Priorities(without).are_served("celery")
    assert describe(without).capabilities["priority"].endswith("(here: in no queue)")
    with pytest.raises(ImproperlyConfigured, match="the Kafka transport has no such options: nonsense"):
        Priorities(app_of("kafka://127.0.0.1:1/?nonsense=1"))
