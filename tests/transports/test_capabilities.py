"""What transports say of themselves, and what is made of it."""

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from tests.conformance import matrix
from tornado_celery_bridge import transports
from tornado_celery_bridge.transports import Priorities, describe, register, servers


def app_of(broker_url: str, **settings: Any) -> Celery:
    app = Celery(broker=broker_url, set_as_current=False)
    app.conf.update(settings)
    return app


def test_the_docs_say_the_same() -> None:
    assert matrix.written("abilities") == matrix.abilities(), "python -m tests.conformance writes it anew"


@pytest.mark.parametrize("scheme", [*transports.TRANSPORTS, "redis+socket", "activemq+ssl"])
def test_each_scheme_has_its_transport(scheme: str) -> None:
    url = f"{scheme}:///run/redis.sock" if scheme == "redis+socket" else f"{scheme}://127.0.0.1"
    register(url)
    app = app_of(url)
    transport = transports.transport_of(app)
    assert transport.__module__.startswith("tornado_celery_bridge.transports.")
    told = servers.met(app, transport.driver_type).abilities
    assert told.keys() == {*servers.ABILITIES}
    assert all(told.values())


def test_of_a_transport_that_is_none_of_ours_nothing_is_said() -> None:
    register("memory://")
    app = app_of("memory://")
    assert describe(app)[1:] == ("it does not say what it is", {}, False)
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
    ("product", "version", "served"),
    [
        ("RabbitMQ", "3.10.8", False),
        ("RabbitMQ", "4.0.5", False),  # two levels, of which the higher one is merely taken twice as often
        ("RabbitMQ", "4.3.6", True),
        ("RabbitMQ", "5.0.0-rc.1", True),
        ("RabbitMQ", "", False),
        ("Another", "9.9", False),
    ],
)
def test_quorum_queues_have_them_by_the_servers_version(product: str, version: str, served: bool) -> None:
    server = servers.RabbitMQ.of({"product": product, "version": version})
    assert server.has_priorities({"x-queue-type": "quorum"}) is served
    assert server.has_priorities({"x-queue-type": "classic", "x-max-priority": 9})
    assert not server.has_priorities({})
    assert ("none" not in server.abilities["priority"]) is served


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("ActiveMQ/5.17.2", "ActiveMQ 5.17.2"),
        ("ActiveMQ-Artemis/2.40.0 ActiveMQ Artemis Messaging Engine", "ActiveMQ Artemis 2.40.0"),
    ],
)
def test_which_activemq_it_is(said: str, name: str) -> None:
    assert str(servers.server_of_stomp(said)) == name
    assert servers.server_of_stomp("RabbitMQ/3.10.8") is None
    assert servers.server_of_stomp("") is None


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
