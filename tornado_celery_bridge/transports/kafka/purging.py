"""
Deletes from Kafka what is done, as Kafka Streams does with the topics that it keeps messages in on their way.

A queue's topic has no retention: a message stays for as long as it waits, and then only until the next purge. So none
is lost by its age, and none comes again when Kafka forgets the group's offsets (``offsets.retention.minutes``, seven
days after the last worker left): the first message that is there is the first that is not done.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tornado_celery_bridge.base.repeating import Repeating
from tornado_celery_bridge.transports.kafka.errors import FORBIDDEN, error_of

log = logging.getLogger(__name__)

#: Seconds between two purges, as Kafka Streams' own (``repartition.purge.interval.ms``).
PURGE = 30.0
#: Seconds for an answer.
TIMEOUT = 5.0

#: What a broker answers that deletes no records; no real one does.
UNSUPPORTED = frozenset(
    {KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError._NOT_IMPLEMENTED, KafkaError._FAIL}
)

Place = tuple[str, int]


class Purging(Repeating):
    """
    Deletes what is done of the partitions that a worker has, in a thread, from time to time.

    Args:
        done: Returns below which offset all is done, and told to Kafka, of each partition.
        admin: Returns a client for the length of a block.
    """

    def __init__(
        self,
        done: Callable[[], Mapping[Place, int]],
        admin: Callable[[], contextlib.AbstractContextManager[AdminClient]],
    ) -> None:
        super().__init__("kafka-purging", self.purge, pause=PURGE)
        self._done = done
        self._admin = admin
        self._deleted: dict[Place, int] = {}

    def purge(self) -> None:
        """Delete what is done now."""
        done = self._done().items()
        new = {place: offset for place, offset in done if offset > self._deleted.get(place, 0)}
        if not new:
            return
        with self._admin() as admin:
            asked = admin.delete_records([TopicPartition(*place, offset) for place, offset in new.items()])
            for each, deleted in asked.items():
                try:
                    deleted.result(TIMEOUT)
                    self._deleted[each.topic, each.partition] = each.offset
                except KafkaException as exc:
                    self._note(each.topic, error_of(exc))

    def _note(self, topic: str, error: KafkaError) -> None:
        if error.code() in FORBIDDEN:
            log.warning(
                "what is done stays in topic %r: the user lacks the permission Delete on it. Give it to him, or the"
                " topic a retention.ms that is longer than any message waits",
                topic,
            )
            self.stop()
        elif error.code() in UNSUPPORTED:
            self.stop()
        else:
            log.debug("what is done is not deleted yet: %s", error.str())
