"""Publishes records to Kafka, and says of each whether it is there."""

import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tornado_celery_bridge.transports.core import AccessRefused, NotSent, SentInDoubt
from tornado_celery_bridge.transports.kafka.errors import (
    FORBIDDEN,
    REFUSED,
    TOO_LARGE,
    MessageTooLarge,
    error_of,
    refusal,
)
from tornado_celery_bridge.transports.kafka.handles import end, make
from tornado_celery_bridge.transports.kafka.settings import Settings
from tornado_celery_bridge.transports.servers import Kafka

log = logging.getLogger(__name__)

#: Settings of the topics that are made here. Kafka removes no message of a queue by its age: what is done is deleted by
#: the workers (`purging`). Of broadcasts nobody reads what is older than ten minutes.
QUEUE: Mapping[str, str] = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
BROADCAST: Mapping[str, str] = {"retention.ms": "600000", "cleanup.policy": "delete"}
#: librdkafka's settings of a producer of messages: the broker's leader and its copies have each, once, in order.
CONFIRMED: Mapping[str, Any] = {"acks": "all", "enable.idempotence": True}
#: And of one of events, which may be lost: it never fails for good, and holds none for long.
UNCONFIRMED: Mapping[str, Any] = {"acks": "1", "enable.idempotence": False, "message.timeout.ms": 10_000}
#: Each message for itself, so that partitions fill evenly.
AT_ONCE: Mapping[str, Any] = {"linger.ms": 0, "sticky.partitioning.linger.ms": 0}
#: Seconds that one poll waits, and so how late it may notice a callback that another thread ran.
LOOK = 0.05


class Record(NamedTuple):
    """One message, as Kafka has it."""

    topic: str
    value: bytes
    #: All of the message but its body.
    envelope: bytes
    #: Tells consumers of a broadcast whether it can be for them.
    key: bytes | None = None


class Writer:
    """A producer, and what it knows of topics. Any thread may use it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics: set[str] = set()
        self._lock = threading.Lock()
        self._errors: deque[KafkaError] = deque(maxlen=50)
        #: What has ended the producer.
        self._fatal: list[KafkaError] = []
        self._producer = self._make_producer()
        #: Of events; made at the first one.
        self._events: Producer | None = None

    def _make_producer(self) -> Producer:
        self._errors, self._fatal = deque(maxlen=50), []
        config = {**CONFIRMED, **AT_ONCE, "error_cb": functools.partial(_note, self._errors, self._fatal)}
        return make(Producer, self._settings.for_producer(**config))

    @property
    def producer(self) -> Producer:
        """The producer, which is another one after a failure that it can't get over."""
        with self._lock:
            if self._fatal:
                if self._fatal[0].code() not in FORBIDDEN:  # of that, who publishes is told each time
                    why = self._fatal[0].str()
                    log.warning("the Kafka producer has failed for good, and another takes its place: %s", why)
                end(self._producer)
                self._producer = self._make_producer()
            return self._producer

    def note(self, producer: Producer, error: KafkaError) -> None:
        """Note what became of a message, which may be the first to tell that its producer failed."""
        if producer is self._producer and (error.fatal() or error.code() == KafkaError._FATAL):
            self._fatal.append(error)

    def close(self, timeout: float = 0.0) -> None:
        """End, and wait for that for *timeout* seconds; what nobody waits for is still sent, if that is quick."""
        for producer in filter(None, (self._events, self._producer)):
            with contextlib.suppress(KafkaException, RuntimeError):  # what it says, nobody waits for
                producer.flush(0.2)
            end(producer, timeout)

    # The cluster.

    def connect(self) -> None:
        """
        Reach a broker, and see what topics there are.

        Raises:
            NotSent: No broker can be reached, or none answered within the connect timeout.
            AccessRefused: The user or the password is wrong.
        """
        deadline = time.monotonic() + self._settings.connect_timeout
        while True:
            producer = self.producer
            try:
                self._topics = set(producer.list_topics(timeout=min(0.25, self._settings.connect_timeout)).topics)
                return
            except KafkaException as exc:
                self.note(producer, error_of(exc))
                with contextlib.suppress(KafkaException):  # of one that has failed for good
                    producer.poll(0)
                errors = [*self._errors]
                refused = next((error for error in errors if error.code() == KafkaError._AUTHENTICATION), None)
                if refused is not None:
                    raise AccessRefused(refused.str()) from exc
                are_down = any(error.code() == KafkaError._ALL_BROKERS_DOWN for error in errors)
                if are_down or time.monotonic() > deadline:
                    raise NotSent(f"no Kafka broker is reachable: {_why_not(errors, error_of(exc))}") from exc

    @contextlib.contextmanager
    def admin(self) -> Iterator[AdminClient]:
        """Return a client that makes, deletes and empties topics, for the length of a block."""
        made = make(AdminClient, self._settings.for_producer())
        try:
            yield made
        finally:
            end(made)

    def server(self) -> Kafka:
        """Return what can be said of the cluster."""
        told = self.producer.list_topics(timeout=self._settings.connect_timeout)
        return Kafka(f"Kafka protocol, cluster {told.cluster_id or 'without a name'}, {len(told.brokers)} brokers")

    def has(self, topic: str) -> bool:
        """Return whether there is a topic."""
        if topic not in self._topics:
            self.connect()
        return topic in self._topics

    def forget_topics(self) -> None:
        """Ask again which there are."""
        self._topics.clear()

    def ensure(self, topics: Collection[str]) -> None:
        """
        Make those of *topics* that do not exist.

        Raises:
            NotSent: One does not exist and can't be made now.
            SetupRefused: One never will be, as the broker is set up.
        """
        if self._settings.create_topics:
            for topic in topics:
                if not self.has(topic):
                    self._make(topic)

    def new_topic(self, topic: str) -> NewTopic:
        """Return a topic as it is made here."""
        settings = self._settings
        partitions, config = (1, BROADCAST) if topic == settings.broadcast_topic else (settings.partitions, QUEUE)
        size = {"max.message.bytes": str(settings.config["message.max.bytes"])}
        return NewTopic(topic, partitions, settings.replication, config={**size, **config})

    def _make(self, topic: str) -> None:
        settings = self._settings
        try:
            with self.admin() as admin:
                made = admin.create_topics([self.new_topic(topic)], request_timeout=settings.connect_timeout)
                made[topic].result()
        except KafkaException as exc:
            error = error_of(exc)
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                what = f"topic {topic!r} can't be made"
                raise self.refusal_of_topic(topic, error) or NotSent(f"{what}: {error.str()}") from exc
        deadline = time.monotonic() + settings.connect_timeout
        while not self.has(topic) and time.monotonic() < deadline:
            time.sleep(LOOK)  # brokers hear of it one after the other

    def refusal_of_topic(self, topic: str, error: KafkaError) -> Exception | None:
        """Return what to raise of an error that a topic can't be made with; None for one that may pass."""
        what = f"topic {topic!r} can't be made"
        if error.code() == KafkaError.INVALID_REPLICATION_FACTOR:
            what += f" with replication={self._settings.replication}"
        return refusal(what, error, f"Create on topic {topic!r} (Describe, if it exists)")

    # Messages.

    def send(self, record: Record) -> None:
        """
        Publish *record*, and return once the broker has it.

        Raises:
            NotSent, SentInDoubt, SetupRefused, MessageTooLarge: See there.
        """
        batch = Batch(self)
        batch.add(record)
        batch.wait()

    def send_and_forget(self, record: Record) -> None:
        """Publish *record* soon; nobody is told whether it arrives."""
        try:
            if self._events is None:
                config = {**UNCONFIRMED, **AT_ONCE}
                self._events = make(Producer, {**self._settings.for_producer(**config), **UNCONFIRMED})
            self._events.produce(record.topic, record.value, record.key, headers=[("kombu", record.envelope)])
            self._events.poll(0)
        except (KafkaException, BufferError, NotSent) as exc:
            log.debug("not sent: %s", exc)


class Batch:
    """Records that are published together, and waited for together."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._producer = writer.producer
        self._timeout = writer._settings.publish_timeout
        self._waiting = 0
        self._failed: list[tuple[str, KafkaError]] = []
        #: What has ended the producer.
        self._ended: KafkaError | None = None

    def add(self, record: Record) -> None:
        """
        Begin to publish *record*.

        Raises:
            NotSent, SetupRefused, MessageTooLarge: See there; the others are on their way.
        """
        try:
            self._produce(record)
        except BufferError as exc:
            raise NotSent("too many messages are on their way") from exc
        except KafkaException as exc:  # it is not even in the producer's queue
            error = error_of(exc)
            if error.code() in TOO_LARGE:
                raise MessageTooLarge(f"{error.str()}: {len(record.value)} bytes") from exc
            raise _refused(record.topic, error) or NotSent(error.str()) from exc
        self._waiting += 1

    def _produce(self, record: Record) -> None:
        report = functools.partial(self._report, record.topic)
        given = (record.topic, record.value, record.key)
        try:
            self._producer.produce(*given, headers=[("kombu", record.envelope)], on_delivery=report)
        except KafkaException as exc:
            self._writer.note(self._producer, error_of(exc))
            if self._waiting or self._failed or error_of(exc).code() != KafkaError._FATAL:
                raise
            self._producer = self._writer.producer  # another one
            self._producer.produce(*given, headers=[("kombu", record.envelope)], on_delivery=report)

    def _report(self, topic: str, error: KafkaError | None, message: KafkaMessage) -> None:
        self._waiting -= 1
        if error is not None:
            self._failed.append((topic, error))
            self._writer.note(self._producer, error)

    def wait(self) -> None:
        """
        Return once the broker has all of them.

        Raises:
            NotSent, SentInDoubt, SetupRefused, MessageTooLarge: What became of at least one.
        """
        producer = self._producer
        deadline = time.monotonic() + self._timeout
        sent = self._waiting
        while self._waiting and time.monotonic() < deadline:
            self._poll()
        if self._waiting:  # this tells apart what was never on its way
            producer.purge()
            while self._waiting and self._poll():
                pass
        if self._failed or self._waiting:
            self._writer.forget_topics()
            raise self._outcome(all_failed=not self._waiting and len(self._failed) == sent)

    def _poll(self) -> int:
        """Have reports come in; return how many events there were."""
        try:
            return self._producer.poll(LOOK)
        except KafkaException as exc:  # it has failed for good; the reports of what it had come next
            self._writer.note(self._producer, error_of(exc))
            self._ended = error_of(exc)
            return 1

    def _outcome(self, *, all_failed: bool) -> Exception:
        codes = {error.code() for _, error in self._failed}
        topic, error = self._failed[0] if self._failed else ("", KafkaError(KafkaError._TIMED_OUT))
        if not all_failed or codes & {KafkaError._PURGE_INFLIGHT, KafkaError._TIMED_OUT}:
            return SentInDoubt(f"no answer of the partition's leader within {self._timeout:g} s")
        if codes <= TOO_LARGE:
            return MessageTooLarge(error.str())
        if refused := _refused(topic, self._ended or error):
            return refused
        if codes == {KafkaError._PURGE_QUEUE}:
            return NotSent(f"no connection to the partition's leader within {self._timeout:g} s")
        return NotSent(error.str()) if codes <= REFUSED else SentInDoubt(error.str())


def _note(errors: deque[KafkaError], fatal: list[KafkaError], error: KafkaError) -> None:
    (fatal if error.fatal() else errors).append(error)


def _refused(topic: str, error: KafkaError) -> Exception | None:
    permission = f"Write on topic {topic!r}"
    if error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:  # of an idempotent producer, which may write nothing
        permission += " (up to Kafka 2.8 also IdempotentWrite on the cluster)"
    return refusal(f"a message to topic {topic!r} is refused", error, permission)


def _why_not(errors: list[KafkaError], last: KafkaError) -> str:
    """Return why no broker is reachable, by the errors of connections, and of the question that was asked."""
    telling = [error for error in errors if error.code() != KafkaError._ALL_BROKERS_DOWN]
    if telling:
        return telling[0].str()
    if errors:  # librdkafka says nothing of a connection that was made, and closed at once
        return "they close the connection: it may be that they want TLS or a password (security.protocol)"
    return last.str()
