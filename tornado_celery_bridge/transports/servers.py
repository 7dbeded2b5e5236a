"""
What is known of the servers that brokers are: the name, the version, and what each can do. No other module knows it.

:func:`server_of` asks an open connection. Nothing is assumed of a version: what a server may lack, a server of an
unknown version lacks here. An ability is a short phrase for people; one that begins with "no" says that there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery

from tornado_celery_bridge.base import versions

#: What is said of every server, in the order of the docs' table.
ABILITIES = ("priority", "delay", "queue length", "broadcast", "durability")


@dataclass(frozen=True)
class Server:
    """
    A broker's server, as it is connected.

    .. versionadded:: 0.1.0
    """

    #: As it calls itself; empty if it does not say.
    name: str = ""
    #: As it says it; empty if it does not.
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name or 'it does not say what it is'} {self.version}".strip()

    @property
    def abilities(self) -> Mapping[str, str]:
        """What it can do, for people, by the names of `ABILITIES`; empty for a server that is not known here."""
        return {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers that the version begins with, as (4, 0, 5); empty if it is not known."""
        return versions.numbers(self.version)


class Redis(Server):
    """Redis or Valkey."""

    @property
    def abilities(self) -> Mapping[str, str]:
        return {
            "priority": "0 to 9, in four steps",
            "delay": "held by a worker until it is due",
            "queue length": "counted by the server, without what workers hold",
            "broadcast": "by publish and subscribe, to those who listen",
            "durability": "as the server's append-only file is written",
        }

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Redis":
        """Return the server of what ``INFO server`` says."""
        if "valkey_version" in info:
            return cls("Valkey", str(info["valkey_version"]))
        return cls("Redis", str(info.get("redis_version", "")))


class RabbitMQ(Server):
    """RabbitMQ, or another server that speaks AMQP 0.9.1: of that one nothing is assumed."""

    @property
    def is_rabbitmq(self) -> bool:
        """Whether it says that it is RabbitMQ."""
        return self.name == "RabbitMQ"

    @property
    def has_quorum_priorities(self) -> bool:
        """
        Whether quorum queues have priorities that are kept: 32 levels, strictly, from 4.3 on.

        Those of 4.0 to 4.2 have two levels, of which the higher one is merely taken twice as often.
        """
        return self.is_rabbitmq and self.numbers >= (4, 3)

    @property
    def has_consumer_timeout(self) -> bool:
        """Whether a consumer may say for how long it may have a message. Else the server's consumer_timeout holds."""
        return self.is_rabbitmq and self.numbers >= (4, 3)

    @property
    def has_queue_timeout(self) -> bool:
        """Whether a queue may say so, by ``x-consumer-timeout``."""
        return self.is_rabbitmq and self.numbers >= (4, 0)

    def has_priorities(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether messages have priorities in a queue that was declared with *arguments*."""
        if arguments.get("x-queue-type") == "quorum":
            return self.has_quorum_priorities
        return "x-max-priority" in arguments

    @property
    def abilities(self) -> Mapping[str, str]:
        quorum = "0 to 9 on quorum queues" if self.has_quorum_priorities else "none on quorum queues (RabbitMQ 4.3 has)"
        return {
            "priority": f"{quorum}; 0 to 9 on a classic queue with x-max-priority",
            "delay": "held by the server, to the second",
            "queue length": "counted by the server, without what workers hold",
            "broadcast": "by the server's exchanges",
            "durability": "each message on disk, and on most nodes of a cluster, before it counts as published",
        }

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> "RabbitMQ":
        """Return the server of the properties by which it opens a connection."""
        return cls(str(properties.get("product", "AMQP server")), str(properties.get("version", "")))


class Kafka(Server):
    """Apache Kafka, or a server that speaks its protocol."""

    @property
    def abilities(self) -> Mapping[str, str]:
        return {
            "priority": "none, unless priority_steps makes a topic for each step",
            "delay": "in Redis until due (later_url), else held by the worker",
            "queue length": "lag of the consumer group, less what is done above it",
            "broadcast": "one topic that every process follows",
            "durability": "acks=all, idempotent; as many copies as the topic has",
        }


class ActiveMQ(Server):
    """ActiveMQ, the older of the two: "Classic"."""

    @property
    def abilities(self) -> Mapping[str, str]:
        return {
            "priority": "0 to 9, 9 the most urgent, in queues with prioritizedMessages",
            "delay": "by the broker with schedulerSupport, else by the worker",
            "queue length": "counted by a browser, up to the broker's maxBrowsePageSize (400)",
            "broadcast": "topics",
            "durability": "on the broker's disk before a publish returns",
        }


class Artemis(ActiveMQ):
    """ActiveMQ Artemis, the newer of the two, which has other words for nearly everything."""

    @property
    def abilities(self) -> Mapping[str, str]:
        return {
            **super().abilities,
            "priority": "0 to 9, 9 the most urgent",
            "delay": "by the broker",
            "queue length": "counted by the broker, without what is for later",
        }


def server_of_stomp(said: str) -> ActiveMQ | None:
    """Return the server of the header ``server`` by which it opens a STOMP connection; None for neither ActiveMQ."""
    name, _, version = said.partition(" ")[0].partition("/")
    kinds = {"ActiveMQ": ActiveMQ("ActiveMQ", version), "ActiveMQ-Artemis": Artemis("ActiveMQ Artemis", version)}
    return kinds.get(name)


#: The kind of server that each of kombu's drivers is for.
KINDS: Mapping[str, type[Server]] = {"redis": Redis, "amqp": RabbitMQ, "kafka": Kafka, "activemq": ActiveMQ}

#: The server of each app's latest connection, where it tells what it is as it opens one.
_met: WeakKeyDictionary[Celery, Server] = WeakKeyDictionary()


def meet(app: Celery, connection: Any) -> None:
    """Remember what the server of an open connection is, if no question is needed to know it: RabbitMQ."""
    if connection.transport.driver_type == "amqp":
        _met[app] = server_of(connection)


def met(app: Celery, driver: str) -> Server:
    """Return what is known of *app*'s server without asking it: at least its kind, by kombu's driver."""
    return _met.get(app) or KINDS.get(driver, Server)()


def server_of(connection: Any) -> Server:
    """
    Return what the server of an open kombu *connection* says that it is. Blocks; raises the connection's errors.

    It knows kombu's own transports as well. Of a broker of another kind nothing is known.
    """
    transport = connection.transport
    match transport.driver_type:
        case "redis":
            return Redis.of(connection.default_channel.client.info("server"))
        case "amqp":
            return RabbitMQ.of(connection.connection.server_properties)
        case _ if ask := getattr(transport, "server", None):  # one of ours
            found: Server = ask(connection)
            return found
        case _:
            return Server()
