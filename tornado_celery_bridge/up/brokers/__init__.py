"""Private message brokers for trials and tests. Each is a process of this user, on loopback, with its own folder."""

from tornado_celery_bridge.up.brokers.activemq import ActiveMQ
from tornado_celery_bridge.up.brokers.artemis import Artemis
from tornado_celery_bridge.up.brokers.kafka import Kafka
from tornado_celery_bridge.up.brokers.private import Private
from tornado_celery_bridge.up.brokers.rabbitmq import RabbitMQ

__all__ = ("KINDS",)

#: The class of each kind, by its name in BROKER.
KINDS: dict[str, type[Private]] = {kind.name: kind for kind in (RabbitMQ, Kafka, ActiveMQ, Artemis)}
