"""Publishes records to Kafka, and says of each whether it is there."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tornado_celery_bridge.transports.core import AccessRefused, NotSent, SentInDoubt
from tornado_celery_bridge.transports.kafka.errors import REFUSED, TOO_LARGE, MessageTooLarge, error_of
from tornado_celery_bridge.transports.kafka.handles import end, make
from tornado_celery_bridge.transports.kafka.settings import Settings
from tornado_celery_bridge.transports.servers import Kafka

log = logging.getLogger(__name__)

#: Settings of the broadcast topic: nobody reads what is older, and it must not grow.
BROADCAST: Mapping[str, str] = {"retention.ms": "600000", "cleanup.policy": "delete"}
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
    """
    A producer, and what it knows of topics. Any thread may use it.

    An idempotent producer that meets a broker that has lost its data fails for good: librdkafka calls that fatal. It is
    replaced then. What was on its way is in doubt, as with any lost connection.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._errors: deque[KafkaError] = deque(maxlen=50)
        self._topics: set[str] = set()
        defaults = {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            "sticky.partitioning.linger.ms": 0,  # each message for itself, so that partitions fill evenly
            "error_cb": self._errors.append,
        }
        self._config = settings.for_producer(**defaults)
        self._lock = threading.Lock()
        self._has_failed = False
        self._made: Producer = make(Producer, self._config)

    @property
    def producer(self) -> Producer:
        """The producer; another one, if it has failed for good."""
        with self._lock:
            if self._has_failed:
                failed, self._made = self._made, make(Producer, self._config)
                self._has_failed = False
                end(failed)
            return self._made

    def note(self, exc: KafkaException, producer: Producer) -> KafkaError:
        """Return the error in what *producer* raised, and note whether it is fatal."""
        error = error_of(exc)
        if error.fatal() and producer is self._made and not self._has_failed:
            log.warning("another Kafka producer is made: %s", error.str())
            self._has_failed = True
        return error

    def close(self, timeout: float = 0.0) -> None:
        """End, and wait for that for *timeout* seconds; what nobody waits for is still sent, if that is quick."""
        with contextlib.suppress(KafkaException, RuntimeError):  # it has failed, or is closed: nothing is left
            self._made.flush(0.2)
        end(self._made, timeout)

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
                self.note(exc, producer)
                with contextlib.suppress(KafkaException):
                    producer.poll(0)
                errors = {error.code(): error for error in self._errors}
                if refused := errors.get(KafkaError._AUTHENTICATION):
                    raise AccessRefused(refused.str()) from exc
                if KafkaError._ALL_BROKERS_DOWN in errors or time.monotonic() > deadline:
                    told = [*errors.values()] or [error_of(exc)]
                    raise NotSent(f"no Kafka broker is reachable: {told[0].str()}") from exc

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
            NotSent: One does not exist and can't be made.
        """
        if self._settings.create_topics:
            for topic in topics:
                if not self.has(topic):
                    self._make(topic)

    def _make(self, topic: str) -> None:
        settings = self._settings
        partitions, config = (1, BROADCAST) if topic == settings.broadcast_topic else (settings.partitions, {})
        size = {"max.message.bytes": str(settings.config["message.max.bytes"])}
        new = NewTopic(topic, partitions, settings.replication, config={**size, **config})
        try:
            with self.admin() as admin:
                admin.create_topics([new], request_timeout=settings.connect_timeout)[topic].result()
        except KafkaException as exc:
            if error_of(exc).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise NotSent(f"topic {topic!r} can't be made: {error_of(exc).str()}") from exc
        deadline = time.monotonic() + settings.connect_timeout
        while not self.has(topic) and time.monotonic() < deadline:
            time.sleep(LOOK)  # brokers hear of it one after the other

    # Messages.

    def send(self, record: Record) -> None:
        """
        Publish *record*, and return once the broker has it.

        Raises:
            NotSent, SentInDoubt, MessageTooLarge: See there.
        """
        batch = Batch(self)
        batch.add(record)
        batch.wait()

    def send_and_forget(self, record: Record) -> None:
        """Publish *record* soon; nobody is told whether it arrives."""
        producer = self.producer
        try:
            producer.produce(record.topic, record.value, record.key, headers=[("kombu", record.envelope)])
            producer.poll(0)
        except KafkaException as exc:
            log.debug("not sent: %s", self.note(exc, producer).str())
        except BufferError as exc:
            log.debug("not sent: %s", exc)


class Batch:
    """Records that are published together, and waited for together."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._producer = writer.producer
        self._waiting = 0
        self._failed: list[KafkaError] = []

    def add(self, record: Record) -> None:
        """
        Begin to publish *record*.

        Raises:
            NotSent, MessageTooLarge: See there; the others are on their way.
        """
        try:
            self._producer.produce(
                record.topic,
                record.value,
                record.key,
                headers=[("kombu", record.envelope)],
                on_delivery=self._report,
            )
        except BufferError as exc:
            raise NotSent("too many messages are on their way") from exc
        except KafkaException as exc:
            error = self._writer.note(exc, self._producer)
            raise NotSent(error.str()) if error.fatal() else _outcome([error], len(record.value)) from exc
        self._waiting += 1

    def _report(self, error: KafkaError | None, message: KafkaMessage) -> None:
        self._waiting -= 1
        if error is not None:
            self._failed.append(error)

    def wait(self) -> None:
        """
        Return once the broker has all of them.

        Raises:
            NotSent, SentInDoubt, MessageTooLarge: What became of at least one.
        """
        deadline = time.monotonic() + self._writer._settings.publish_timeout
        sent = self._waiting
        while self._waiting and time.monotonic() < deadline:
            self._poll()
        if self._waiting:  # this tells apart what was never on its way
            self._producer.purge()
            while self._waiting and self._poll():
                pass
        if self._failed or self._waiting:
            self._writer.forget_topics()
            in_doubt = self._waiting or len(self._failed) < sent
            raise SentInDoubt("no answer in time") if in_doubt else _outcome(self._failed)

    def _poll(self) -> int:
        """Wait for reports; return how many came. A producer that has failed for good says so here, once."""
        try:
            return self._producer.poll(LOOK)
        except KafkaException as exc:
            self._writer.note(exc, self._producer)
            return 0


def _outcome(errors: list[KafkaError], size: int | None = None) -> Exception:
    codes = {error.code() for error in errors}
    told = errors[0].str()
    if codes <= TOO_LARGE:
        return MessageTooLarge(f"{told}: {size} bytes" if size else told)
    return NotSent(told) if codes <= REFUSED else SentInDoubt(told)
