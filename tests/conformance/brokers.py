"""The brokers that hold the contract, each a private server: to add one is to add an entry, and a file of tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.faults.harness import Broker
from tests.needs import missing
from tests.servers import Server
from tornado_celery_bridge.up.brokers.activemq import ActiveMQ
from tornado_celery_bridge.up.brokers.artemis import Artemis
from tornado_celery_bridge.up.brokers.kafka import Kafka
from tornado_celery_bridge.up.brokers.rabbitmq import RabbitMQ


class Redis(Server):
    """A Redis that wants a password."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--appendfsync", "always", "--requirepass", "secret")

    @property
    def url(self) -> str:
        return f"redis://:secret@127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password="secret", socket_timeout=5)


@dataclass(frozen=True)
class Kind:
    """
    One kind of broker.

    Args:
        make: Makes one, to be started, that keeps its data in a folder.
        is_available: Returns whether it can be had here.
        cannot: What it can't do and no transport can make up for, by the check's name, and why.
        apart: What to do to a broker and its URL for a second app to have nothing to do with the first.
    """

    make: Callable[[Path], Broker]
    is_available: Callable[[], bool] = lambda: True
    cannot: Mapping[str, str] = field(default_factory=dict)
    apart: Callable[[Broker], str] | None = None

    def require(self) -> None:
        """Skip where the server can't be had; in CI, where it has to be, fail."""
        if not self.is_available():
            missing("its server")


def _vhost(broker: Broker) -> str:
    assert isinstance(broker, RabbitMQ)
    broker.control("add_vhost", "second")
    broker.control("set_permissions", "-p", "second", "guest", ".*", ".*", ".*")
    return broker.url.removesuffix("/") + "second"


REDIS = Kind(Redis, apart=lambda broker: broker.url.removesuffix("0") + "1")
RABBITMQ = Kind(RabbitMQ, RabbitMQ.available, apart=_vhost)

KAFKA = Kind(
    Kafka,
    Kafka.available,
    cannot={"wrong_password": "the server that stands in for Apache Kafka knows no passwords"},
    apart=lambda broker: f"{broker.url}?topic_prefix=second.&group_id=second",
)
ACTIVEMQ = Kind(
    lambda folder: ActiveMQ(folder, login=("celery", "secret")),
    ActiveMQ.available,
    apart=lambda broker: broker.url + "second",
)
ARTEMIS = Kind(
    lambda folder: Artemis(folder, login=("celery", "secret")),
    Artemis.available,
    apart=lambda broker: broker.url + "second",
)
KINDS = {"redis": REDIS, "rabbitmq": RABBITMQ, "kafka": KAFKA, "activemq": ACTIVEMQ, "artemis": ARTEMIS}
