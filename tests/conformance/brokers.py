"""The brokers that hold the contract, each a private server: to add one is to add an entry, and a file of tests."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

import redis

from tests.faults.harness import Broker
from tests.needs import missing
from tests.servers import Server
from tests.servers.activemq import ActiveMQ6
from tests.servers.kafka import ApacheKafka, KafkaCluster, need_kafka
from tests.servers.redis_cluster import RedisCluster
from tornado_celery_bridge.up.brokers.activemq import ActiveMQ
from tornado_celery_bridge.up.brokers.artemis import Artemis
from tornado_celery_bridge.up.brokers.rabbitmq import RabbitMQ
from tornado_celery_bridge.up.brokers.tansu import Tansu


class Redis(Server):
    """A Redis that wants a password."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--appendfsync", "always", "--requirepass", "secret")

    @property
    def url(self) -> str:
        return f"redis://:secret@127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password="secret", socket_timeout=5)


class Cluster(RedisCluster):
    """Three masters, which every process knows to be a cluster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, replicas=False, proxied=True)

    def start(self) -> Self:
        os.environ["REDIS_CLUSTER"] = ",".join(self.named)
        return super().start()

    def stop(self) -> None:
        os.environ.pop("REDIS_CLUSTER", None)
        super().stop()


@dataclass(frozen=True)
class Kind:
    """
    One kind of broker.

    Args:
        make: Makes one, to be started, that keeps its data in a folder.
        is_available: Returns whether it can be had here.
        skip: What is done where it can't.
        cannot: What it can't do and no transport can make up for, by the check's name, and why.
        apart: What to do to a broker and its URL for a second app to have nothing to do with the first.
    """

    make: Callable[[Path], Broker]
    is_available: Callable[[], bool] = lambda: True
    skip: Callable[[str], NoReturn] = missing
    cannot: Mapping[str, str] = field(default_factory=dict)
    apart: Callable[[Broker], str] | None = None

    def require(self) -> None:
        """Skip where the server can't be had; in CI, where most have to be, fail."""
        if not self.is_available():
            self.skip("its server")


def _vhost(broker: Broker) -> str:
    assert isinstance(broker, RabbitMQ)
    broker.control("add_vhost", "second")
    broker.control("set_permissions", "-p", "second", "guest", ".*", ".*", ".*")
    return broker.url.removesuffix("/") + "second"


REDIS = Kind(Redis, apart=lambda broker: broker.url.removesuffix("0") + "1")
REDIS_CLUSTER = Kind(
    Cluster,
    cannot={
        "wrong_password": "the cluster of the tests wants no password",
        "two_apps_side_by_side": "a cluster has one database: apps differ in their global_keyprefix",
    },
)
RABBITMQ = Kind(RabbitMQ, RabbitMQ.available, apart=_vhost)


def _second(broker: Broker) -> str:
    return f"{broker.url}?topic_prefix=second.&group_id=second"


KAFKA = Kind(
    lambda folder: ApacheKafka(folder, users={"celery": "secret"}),
    ApacheKafka.available,
    skip=lambda _: need_kafka(),
    apart=_second,
)
KAFKA_CLUSTER = Kind(KafkaCluster, ApacheKafka.available, skip=lambda _: need_kafka(), apart=_second)
TANSU = Kind(
    Tansu,
    Tansu.available,
    cannot={
        "wrong_password": "the server that stands in for Apache Kafka knows no passwords",
        "purged": "the server that stands in for Apache Kafka deletes no records of a group that consumes",
    },
    apart=_second,
)
ACTIVEMQ = Kind(
    lambda folder: ActiveMQ(folder, login=("celery", "secret")),
    ActiveMQ.available,
    apart=lambda broker: broker.url + "second",
)
ACTIVEMQ_6 = Kind(
    lambda folder: ActiveMQ6(folder, login=("celery", "secret")),
    ActiveMQ6.available,
    apart=lambda broker: broker.url + "second",
)
ARTEMIS = Kind(
    lambda folder: Artemis(folder, login=("celery", "secret")),
    Artemis.available,
    apart=lambda broker: broker.url + "second",
)
KINDS = {
    "redis": REDIS,
    "redis-cluster": REDIS_CLUSTER,
    "rabbitmq": RABBITMQ,
    "kafka": KAFKA,
    "kafka-cluster": KAFKA_CLUSTER,
    "tansu": TANSU,
    "activemq": ACTIVEMQ,
    "activemq-6": ACTIVEMQ_6,
    "artemis": ARTEMIS,
}
