"""
Consumes queues, as one member of the group of all workers.

Theory of operation. librdkafka must be polled all the time: `poll` says which partitions come and go, and a member that
does not poll stops the whole group. A worker wants messages only when it has room. So a thread polls, and keeps what
comes in a buffer for each partition; a partition whose buffer is full is paused. Only this thread talks to the
consumer. The others only change data that one condition guards, which tells everybody of each change.

    wanted     topics to be subscribed to; the thread does it
    share      the partitions that are ours, each with its buffer and its `PartitionProgress`
    past       the same of partitions that went to others while some of their messages were in hands here; of no use if
               a partition comes back from a broker that lost its data and counts from the beginning

A partition that goes to another worker waits for the tasks that run from it, so that both workers do not run them; at
most for ``hand_over_timeout``. The other partitions go on meanwhile (the protocol is the cooperative one). What is in
the buffer is dropped: nobody has it in hands.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from tornado_celery_bridge.transports.kafka.consuming import POLL, ConsumerThread
from tornado_celery_bridge.transports.kafka.errors import FORMING, error_of
from tornado_celery_bridge.transports.kafka.progress import PartitionProgress, Ranges
from tornado_celery_bridge.transports.kafka.settings import Settings

log = logging.getLogger(__name__)

#: Seconds for a group that forms, as a worker leaves it: its members hear of that with their heart-beats.
SETTLING = 5.0
#: Messages and bytes in one partition's buffer at which it is paused.
FULL, FULL_BYTES = 200, 4 * 1024 * 1024

Place = tuple[str, int]


class Partition:
    """One partition that is ours, with what was read of it and waits for room."""

    def __init__(self, progress: PartitionProgress) -> None:
        self.progress = progress
        self.buffer: deque[KafkaMessage] = deque()
        self.bytes = 0
        self.paused = False
        #: Whether there is something to commit, and whether a commit of what was done before has no answer yet.
        self.changed = self.asked = False

    def keep(self, message: KafkaMessage) -> bool:
        offset = message.offset() or 0
        if self.progress.is_past(offset):  # the broker lost what it had, and counts from the beginning
            log.warning("%s begins again: its broker lost data", message.topic())
            self.progress, self.bytes = PartitionProgress(), 0
            self.buffer.clear()
        if not self.progress.read(offset, time_of(message)):
            return False
        self.buffer.append(message)
        self.bytes += len(message)
        return True

    def take(self) -> KafkaMessage:
        message = self.buffer.popleft()
        self.bytes -= len(message)
        self.progress.flying[message.offset() or 0] = time_of(message)
        return message

    @property
    def is_full(self) -> bool:
        return len(self.buffer) >= FULL or self.bytes >= FULL_BYTES

    @property
    def has_room(self) -> bool:
        return len(self.buffer) <= FULL // 4 and self.bytes <= FULL_BYTES // 4


class Reader(ConsumerThread):
    """Reads topics in a thread; the rest of the connection takes from it what it has room for."""

    def __init__(
        self, settings: Settings, changed: threading.Condition, make_topics: Callable[[Collection[str]], None]
    ) -> None:
        defaults = {
            "group.id": settings.group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 16_384,
            "on_commit": self._on_commit,
        }
        super().__init__("kafka-reader", settings, changed, make_topics, defaults, {})
        self._wanted: frozenset[str] = frozenset()
        self._share: dict[Place, Partition] = {}
        self._past: dict[Place, PartitionProgress] = {}
        self._turn = 0
        self._committing = False
        #: What `done` returned last, once this has left the group.
        self._left: dict[Place, int] | None = None

    # Any thread's side; under the condition.

    def want(self, topics: Collection[str]) -> None:
        """Read *topics*, and no others, from now on."""
        self._wanted = frozenset(topics)

    def take(self, topic: str) -> KafkaMessage | None:
        """Return a message of *topic*, which is then in the caller's hands; None if there is none yet."""
        places = [place for place, each in self._share.items() if place[0] == topic and each.buffer]
        if not places:
            return None
        self._turn += 1  # partitions take turns
        return self._share[places[self._turn % len(places)]].take()

    def finish(self, place: Place, offset: int, when: int) -> None:
        """Note that the message at *offset*, of that time, need not be delivered again."""
        share = self._share.get(place)
        if share is not None and share.progress.finish(offset, when):
            share.changed = True
        elif (past := self._past.get(place)) is not None:
            past.finish(offset, when)

    def done(self) -> dict[Place, int]:
        """Return below which offset all is done, and told to Kafka, of each partition that is ours."""
        with self._changed:
            if self._left is not None:
                return self._left
            return {place: each.progress.told for place, each in self._share.items() if each.progress.told}

    # The thread's side.

    @property
    def _permission(self) -> str:
        topics = ", ".join(map(repr, sorted(self._topics)))
        return f"Read on group {self._settings.group_id!r} or on the topics {topics}"

    def _poll(self) -> None:
        self._subscribe()
        self._commit()
        self._balance()
        super()._poll()

    def _came(self, message: KafkaMessage) -> None:
        with self._changed:
            share = self._share.get((message.topic() or "", message.partition() or 0))
            if share is not None and share.keep(message):
                self._changed.notify_all()

    def _end(self) -> None:
        """Leave the group, so that others have its share at once."""
        deadline = time.monotonic() + SETTLING
        try:
            while not self._commit_now(self._all_places()) and time.monotonic() < deadline:
                self._consumer.poll(POLL)  # the group forms, and takes no commit until it has
        except RuntimeError as exc:
            log.debug("while leaving the group: %s", exc)
        self._left = self.done()
        super()._end()

    def _subscribe(self) -> None:
        wanted = self._wanted
        if wanted == self._topics:
            return
        self._topics = wanted
        if wanted:
            self._consumer.subscribe(
                sorted(wanted), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        else:
            self._consumer.unsubscribe()

    # Partitions come and go; called in `poll`.

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        try:
            committed = consumer.committed(places, timeout=self._settings.connect_timeout)
        except KafkaException as exc:
            log.warning("what is committed can't be read, so some tasks may run again: %s", error_of(exc).str())
            committed = places
        with self._changed:
            for each in committed:
                place = (each.topic, each.partition)
                known = each.offset >= 0
                base = each.offset if known else None
                done = Ranges.decode(each.offset, each.metadata) if known else Ranges()
                past = self._past.pop(place, None)
                self._share[place] = Partition(_resume(base, done, past))
        consumer.incremental_assign([TopicPartition(each.topic, each.partition, each.offset) for each in committed])
        log.info("consuming %d partitions", len(self._share))

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        mine = [(each.topic, each.partition) for each in places]
        with self._changed:
            for place in mine:
                if share := self._share.get(place):
                    share.buffer.clear()
            self._changed.wait_for(
                lambda: self.stopping or not self._any_flying(mine), self._settings.hand_over_timeout
            )
        self._commit_now(mine)
        self._forget(mine)
        consumer.incremental_unassign(places)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._forget([(each.topic, each.partition) for each in places])
        try:  # before the group begins again: librdkafka 2.16 never looks again for a topic that is missing then
            self._make_topics(self._topics)
        except ConnectionError as exc:
            log.warning("it is not known whether all topics exist: %s", exc)
        consumer.incremental_unassign(places)

    def _any_flying(self, places: Sequence[Place]) -> bool:
        return any(self._share[place].progress.flying for place in places if place in self._share)

    def _forget(self, places: Sequence[Place]) -> None:
        with self._changed:
            for place in places:
                share = self._share.pop(place, None)
                if share is not None and share.progress.flying:
                    self._past[place] = share.progress

    # What is done.

    def _commit(self) -> None:
        """Commit what is done, without waiting for an answer; one commit at a time."""
        if not self._committing and (offsets := self._take_changes(self._all_places())):
            self._committing = True
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as exc:
                self._on_commit(error_of(exc), offsets)

    def _commit_now(self, places: Sequence[Place]) -> bool:
        """
        Commit what is done, and return whether that went well; if not, what was done last is done again.

        A commit whose answer has not come counts for nothing: it may be refused after this consumer has gone.
        """
        offsets = self._take_changes(places, again=True)
        if not offsets:
            return True
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            log.info("what is done can't be committed: %s", error_of(exc).str())
            self._note_changed(offsets)
            return error_of(exc).code() not in FORMING
        self._note_told(offsets)
        return True

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        self._committing = False
        if error is None:
            self._note_told(offsets)
        elif error.code() != KafkaError._NO_OFFSET:
            log.info("what is done can't be committed yet: %s", error.str())
            self._note_changed(offsets)

    def _note_changed(self, offsets: Sequence[TopicPartition]) -> None:
        with self._changed:
            for each in offsets:
                if share := self._share.get((each.topic, each.partition)):
                    share.changed, share.asked = True, False

    def _note_told(self, offsets: Sequence[TopicPartition]) -> None:
        with self._changed:
            for each in offsets:
                if share := self._share.get((each.topic, each.partition)):
                    share.progress.told, share.asked = each.offset, False

    def _take_changes(self, places: Sequence[Place], *, again: bool = False) -> list[TopicPartition]:
        """Return what to commit; *again*: what a commit without an answer says, too."""
        changes = []
        with self._changed:
            for place in places:
                share = self._share.get(place)
                if share is None or not (share.changed or (again and share.asked)):
                    continue
                if told := share.progress.to_commit():
                    share.changed, share.asked = False, True
                    changes.append(TopicPartition(*place, *told))
        return changes

    def _all_places(self) -> list[Place]:
        with self._changed:
            return [*self._share]

    # Room.

    def _balance(self) -> None:
        """Pause partitions whose buffer is full, and resume those that have room."""
        with self._changed:
            full = [place for place, each in self._share.items() if each.is_full and not each.paused]
            free = [place for place, each in self._share.items() if each.has_room and each.paused]
        for places, act, paused in ((full, self._consumer.pause, True), (free, self._consumer.resume, False)):
            if places:
                act([TopicPartition(*place) for place in places])
            for place in places:
                self._share[place].paused = paused


def time_of(message: KafkaMessage) -> int:
    """Return when *message* was made, in milliseconds since 1970, as its producer says; -1 if it does not."""
    return message.timestamp()[1]


def _resume(base: int | None, done: Ranges, past: PartitionProgress | None) -> PartitionProgress:
    """
    Return where to go on. What is still in hands here, from when the partition was ours before, is not given out again.

    A broker that lost what was committed has lost its messages as well: what was done here were other messages.
    """
    if past is None:
        return PartitionProgress(base, done)
    if base is not None and base >= (past.told or 0):
        done.update(past.done)
    return PartitionProgress(base, done, past.flying)
