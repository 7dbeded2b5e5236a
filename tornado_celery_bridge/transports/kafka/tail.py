"""
Follows the broadcast topic: commands to workers, their replies, events.

Every connection with a transient queue reads the whole topic, from the moment when it declared its first such queue. It
keeps what goes to an exchange that one of its queues is bound to. Nothing is acknowledged, and nothing comes again.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from tornado_celery_bridge.transports.core import NotSent
from tornado_celery_bridge.transports.kafka.consuming import ConsumerThread
from tornado_celery_bridge.transports.kafka.errors import error_of, refusal
from tornado_celery_bridge.transports.kafka.settings import Settings

#: Messages that wait at most; then the oldest are dropped.
MAX_WAITING = 10_000


class Tail(ConsumerThread):
    """
    Reads the broadcast topic in a thread, from now on.

    Args:
        concerns: Says by a message's key whether it can be for this connection.

    Raises:
        NotSent: The broker does not say where "now" is.
    """

    def __init__(
        self,
        settings: Settings,
        changed: threading.Condition,
        concerns: Callable[[bytes | None], bool],
        make_topics: Callable[[Collection[str]], None],
    ) -> None:
        # A group that nobody joins; librdkafka wants a name.
        fixed = {"group.id": f"{settings.group_id}.broadcast", "enable.auto.commit": False}
        super().__init__("kafka-tail", settings, changed, make_topics, {"auto.offset.reset": "latest"}, fixed)
        self._concerns = concerns
        self._topics = frozenset({settings.broadcast_topic})
        #: What came and was not looked at yet.
        self.came: deque[KafkaMessage] = deque(maxlen=MAX_WAITING)
        place = TopicPartition(settings.broadcast_topic, 0)
        try:
            _, place.offset = self._consumer.get_watermark_offsets(place, timeout=settings.connect_timeout)
            self._consumer.assign([place])
        except KafkaException as exc:
            self._end()
            what, error = "the broadcast topic can't be read", error_of(exc)
            raise refusal(what, error, self._permission) or NotSent(f"{what}: {error.str()}") from exc

    @property
    def _permission(self) -> str:
        return f"Read on topic {self._settings.broadcast_topic!r}"

    def _came(self, message: KafkaMessage) -> None:
        if self._concerns(message.key()):
            with self._changed:
                self.came.append(message)
                self._changed.notify_all()
