"""A consumer that is polled all the time, in a thread of its own."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError
from confluent_kafka import Message as KafkaMessage

from tornado_celery_bridge.base.repeating import Repeating
from tornado_celery_bridge.transports.core import SetupRefused
from tornado_celery_bridge.transports.kafka.errors import BrokerLost, refusal
from tornado_celery_bridge.transports.kafka.handles import end, make
from tornado_celery_bridge.transports.kafka.settings import Settings

log = logging.getLogger(__name__)

#: Seconds for which `poll` waits: an acknowledgement is told to Kafka after so long at most.
POLL = 0.05
#: Seconds for a consumer to leave its group.
PATIENCE = 5.0

#: Unless the connection's settings say otherwise.
DEFAULTS: Mapping[str, Any] = {
    # Topics that come, or come back after their broker lost them, are seen after so long: librdkafka's own is 5 min.
    "topic.metadata.refresh.interval.ms": 5_000,
    # Some brokers wait as long as this though there is something.
    "fetch.wait.max.ms": 50,
}
#: In a group of Kafka's own protocol, unless the connection's settings say otherwise. In one of the new protocol
#: (KIP-848, ``group.protocol=consumer``) the server says how long these times are, and librdkafka refuses them.
CLASSIC: Mapping[str, Any] = {
    "partition.assignment.strategy": "cooperative-sticky",
    # A killed worker is noticed after so long; a thread of librdkafka's sends heart-beats.
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 1_000,
}
#: In one of the new protocol the server assigns, and "range" gives each worker a share of each queue. The server's own
#: default may give one worker all of a queue.
NEW: Mapping[str, Any] = {"group.remote.assignor": "range"}

#: A consumer's errors of a broker that has lost topics. To leave the group then, and come back, would have all others
#: begin again as well; and Tansu goes on waiting for a leader that left while they joined.
MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})


def consumer_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return librdkafka's settings of a consumer of a connection."""
    return settings.for_consumer(**(NEW if is_of_the_new_protocol(settings) else CLASSIC), **more)


def is_of_the_new_protocol(settings: Settings) -> bool:
    """Return whether a connection's group is of KIP-848."""
    return settings.config.get("group.protocol") == "consumer"


class ConsumerThread(Repeating, ABC):
    """
    Polls a consumer, and stops at the first failure: whoever uses it connects again.

    Args:
        name: The thread's.
        settings: Of the connection.
        changed: The connection's condition, which guards what the thread and others share.
        make_topics: Makes those of these topics that are missing; called in the thread.
        defaults: librdkafka's settings that the connection's may replace.
        fixed: Those that it may not.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        changed: threading.Condition,
        make_topics: Callable[[Collection[str]], None],
        defaults: Mapping[str, Any],
        fixed: Mapping[str, Any],
    ) -> None:
        super().__init__(name, self._poll, failed=self._fail, ended=self._end)
        self._settings = settings
        self._changed = changed
        self._make_topics = make_topics
        #: The topics that it consumes.
        self._topics: frozenset[str] = frozenset()
        self._consumer = make(Consumer, {**consumer_config(settings, **DEFAULTS, **defaults), **fixed})
        #: Why nothing will come any more.
        self.failure: BaseException | None = None

    def stop(self, timeout: float = 0.0) -> None:
        """Have the thread end, also one that waits for a change; see `Repeating.stop`."""
        if self.is_mine:
            super().stop()
            with self._changed:
                self._changed.notify_all()
            super().stop(timeout)

    @property
    @abstractmethod
    def _permission(self) -> str:
        """What the user needs for this, for a message."""

    @abstractmethod
    def _came(self, message: KafkaMessage) -> None:
        """Take in what came."""

    def _poll(self) -> None:
        message = self._consumer.poll(POLL)
        if message is None:
            return
        if error := message.error():
            if error.fatal() or error.code() == KafkaError._FATAL:
                raise self._lost(error)
            if refused := refusal(f"{self.name} can't go on", error, self._permission):
                raise refused
            log.warning("%s: %s", self.name, error.str())
            if error.code() in MISSING:
                self._make_topics(self._topics)
        else:
            self._came(message)

    def _lost(self, error: KafkaError) -> Exception:
        """Return what to raise of an error that ends the consumer."""
        if is_of_the_new_protocol(self._settings) and "not supported" in error.str():
            return SetupRefused(
                "group.protocol=consumer: the brokers do not have it (Kafka 4 does, with the feature group.version=1);"
                " leave it out"
            )
        return BrokerLost(error.str())

    def _fail(self, exc: BaseException) -> None:
        with self._changed:
            self.failure = exc
        self.stop()

    def _end(self) -> None:
        end(self._consumer, PATIENCE)
