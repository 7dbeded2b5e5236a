"""
Follows the broadcast topic: commands to workers, their replies, events.

Every connection that has a transient queue reads all of it, from the moment at which it declared the first one, and
keeps what goes to an exchange that one of its queues is bound to. Nothing is acknowledged, and nothing comes again.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from tornado_celery_bridge.transports.kafka.errors import BrokerLost, NotSent, error_of
from tornado_celery_bridge.transports.kafka.handles import end, hold
from tornado_celery_bridge.transports.kafka.reader import METADATA_AGE, MISSING, POLL
from tornado_celery_bridge.transports.kafka.settings import Settings
from tornado_celery_bridge.transports.kafka.threads import Repeating

__all__ = ("Tail",)

log = logging.getLogger(__name__)

#: Messages that wait for somebody who does not look; then the oldest are dropped.
MAX_WAITING = 10_000


class Tail(Repeating):
    """
    Reads the broadcast topic in a thread, from now on.

    Args:
        settings: Of the connection.
        changed: The connection's condition, which guards what came.
        concerns: Says by a message's key whether it can be for this connection.
        make_topic: Makes the topic unless it is there; called in the thread.

    Raises:
        NotSent: Where "now" is can't be had.
    """

    name = "kafka-tail"

    def __init__(
        self,
        settings: Settings,
        changed: threading.Condition,
        concerns: Callable[[bytes | None], bool],
        make_topic: Callable[[], None],
    ) -> None:
        super().__init__()
        self._changed = changed
        self._concerns = concerns
        self._make_topic = make_topic
        #: What came and was not looked at yet.
        self.came: deque[KafkaMessage] = deque(maxlen=MAX_WAITING)
        self.failure: BaseException | None = None
        place = TopicPartition(settings.broadcast_topic, 0)
        config = settings.for_consumer(
            **{
                "auto.offset.reset": "latest",
                "fetch.wait.max.ms": 50,
                "topic.metadata.refresh.interval.ms": METADATA_AGE,
            }
        )
        # A group that nobody joins; librdkafka wants a name.
        own = {"group.id": f"{settings.group_id}.broadcast", "enable.auto.commit": False}
        self._consumer = hold(Consumer({**config, **own}))
        try:
            _, place.offset = self._consumer.get_watermark_offsets(place, timeout=settings.connect_timeout)
            self._consumer.assign([place])
        except KafkaException as exc:
            end(self._consumer)
            raise NotSent(f"the broadcast topic can't be read: {error_of(exc).str()}") from exc

    def _step(self) -> None:
        message = self._consumer.poll(POLL)
        if message is None:
            return
        if error := message.error():
            self._on_error(error)
        elif self._concerns(message.key()):
            with self._changed:
                self.came.append(message)
                self._changed.notify_all()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            raise BrokerLost(error.str())
        log.warning("following broadcasts: %s", error.str())
        if error.code() in MISSING:
            self._make_topic()

    def _fail(self, exc: BaseException) -> None:
        with self._changed:
            self.failure = exc
            self._changed.notify_all()

    def _end(self) -> None:
        try:
            end(self._consumer)
        except (KafkaException, RuntimeError) as exc:
            log.debug("while ending to follow broadcasts: %s", exc)
