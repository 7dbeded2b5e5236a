"""
What kombu sees: a transport and its channels.

Durable queues are topics. All else (fan-out, transient queues) goes over the broadcast topic, and is matched here by
kombu's own tables. A message's body is the value of a record, and the rest of the message is one header.
"""

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import confluent_kafka
from amqp.protocol import queue_declare_ok_t
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from kombu.exceptions import ChannelError
from kombu.transport import virtual

from tornado_celery_bridge.base.encoding import dumps, loads
from tornado_celery_bridge.base.forks import OfOneProcess
from tornado_celery_bridge.transports.core import (
    AccessRefused,
    BrokerUrl,
    NotSent,
    PublishBatch,
    SentInDoubt,
    SetupRefused,
    Trouble,
    close_channels,
    due_time,
    hide_secrets,
    worker_ends,
)
from tornado_celery_bridge.transports.kafka.consuming import consumer_config
from tornado_celery_bridge.transports.kafka.errors import UNSETTLED, BrokerLost, error_of, refusal
from tornado_celery_bridge.transports.kafka.handles import end, later, make
from tornado_celery_bridge.transports.kafka.inspection import inspect
from tornado_celery_bridge.transports.kafka.later import LEAD, Later, Releasing
from tornado_celery_bridge.transports.kafka.progress import Ranges
from tornado_celery_bridge.transports.kafka.purging import Purging
from tornado_celery_bridge.transports.kafka.reader import Reader, time_of
from tornado_celery_bridge.transports.kafka.settings import Settings
from tornado_celery_bridge.transports.kafka.tail import Tail
from tornado_celery_bridge.transports.kafka.writer import Batch, Record, Writer
from tornado_celery_bridge.transports.servers import Server

log = logging.getLogger(__name__)

#: Seconds for a thread to end, while somebody waits for it.
PATIENCE = 5.0
#: Seconds after which whoever waits for a message sees that the worker is to end.
LOOK = 0.2
#: AMQP's number for a message that may be lost with its broker.
TRANSIENT = 1


class QoS(virtual.QoS):
    """What a channel has in hands. Kafka itself gives to somebody else what is not acknowledged."""

    def ack(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        self.channel.connection.finish(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.channel.requeue(self._delivered[delivery_tag])
        self.ack(delivery_tag)


class Channel(virtual.Channel):
    """A channel; see the module."""

    QoS = QoS

    do_restore = False
    supports_fanout = True
    body_encoding = None
    from_transport_options = ()

    connection: "Transport"

    # Queues.

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        **kwargs: Any,
    ) -> Any:
        if passive:
            if not self._has_queue(queue):
                raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (50, 10), "Channel.queue_declare", 404)
            return queue_declare_ok_t(queue or "", self._size(queue), 0)
        if queue and durable and not exclusive and not auto_delete:
            self.connection.ensure_topics(queue)
        else:
            queue = queue or f"amq.gen-{self._next_delivery_tag()}"
            self.connection.add_transient(queue)
        return queue_declare_ok_t(queue, 0, 0)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        for exchange, routing_key, arguments in [*self.state.queue_bindings(queue)]:
            self.queue_unbind(queue, exchange, routing_key, arguments)
        self.state.queue_bindings_delete(queue)
        if queue in self.connection.transient:
            self.connection.remove_transient(queue)
        elif self._has_queue(queue) and not (if_empty and self._size(queue)):
            self.connection.delete_topics(queue)

    def _queue_bind(self, *args: Any) -> None:
        pass  # the tables of this process are all there is

    def _has_queue(self, queue: Any, **kwargs: Any) -> bool:
        return queue in self.connection.transient or self.connection.has_topic(queue)

    def _size(self, queue: Any) -> int:
        return 0 if queue in self.connection.transient else self.connection.size(queue)

    def _purge(self, queue: str) -> int:
        return 0 if queue in self.connection.transient else self.connection.purge(queue)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        raise NotImplementedError("a single message can't be had from Kafka: consume instead of get")

    # Publishing.

    def basic_publish(
        self,
        message: dict[str, Any],
        exchange: str,
        routing_key: str,
        send: Callable[[Record], None] | None = None,
        **kwargs: Any,
    ) -> None:
        """Publish a message, and return when the broker has it; *send* is another way to the broker, a batch's."""
        self._inplace_augment_message(message, exchange, routing_key)
        queues = [queue for queue in self._lookup(exchange, routing_key) if not self._is_transient(queue, message)]
        for queue in queues:
            self._put(queue, message, send)
        if not queues or self.typeof(exchange).type == "fanout":
            self._broadcast(exchange, routing_key, message)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Return what `kombu.Producer.batch` publishes by; kombu looks for this method."""
        batch = Batch(self.connection.writer)
        return PublishBatch(self, max_size, functools.partial(self.basic_publish, send=batch.add), batch.wait)

    def requeue(self, message: Any) -> None:
        """Publish a copy of *message* to the queue that it came from."""
        again = message.serializable()
        again["properties"]["delivery_info"]["redelivered"] = True
        self._put(self.connection.queue_of(message.delivery_tag), again)

    def _is_transient(self, queue: str, message: dict[str, Any]) -> bool:
        """Return whether *queue* is transient; if another process declared it, *message* tells (``rpc://`` results)."""
        known = self.connection
        if queue in known.transient or queue in known.durable:
            return queue in known.transient
        return bool(message["properties"].get("delivery_mode") == TRANSIENT)

    def _put(self, queue: str, message: dict[str, Any], send: Callable[[Record], None] | None = None) -> None:
        connection = self.connection
        topic = connection.settings.topic_of(queue, int(message["properties"].get("priority") or 0))
        if queue not in connection.durable:
            connection.ensure_topics(queue)
        record = Record(topic, *_pack(message))
        later, due = connection.later, due_time(message)
        if later is not None and due is not None and due > time.time() + LEAD:
            later.keep(record, due)
        else:
            (send or connection.writer.send)(record)

    def _broadcast(self, exchange: str, routing_key: str, message: dict[str, Any]) -> None:
        connection = self.connection
        connection.writer.ensure([connection.settings.broadcast_topic])
        record = Record(connection.settings.broadcast_topic, *_pack(message), (exchange or routing_key).encode())
        if self.typeof(exchange).type == "topic":  # events: thousands, and each may be lost
            connection.writer.send_and_forget(record)
        else:
            connection.writer.send(record)

    # Consuming.

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        result = super().basic_consume(queue, no_ack, *args, **kwargs)
        self.connection.consume(queue, self, no_ack)
        return result

    def basic_cancel(self, consumer_tag: str) -> None:
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is not None and self.connection is not None:
            self.connection.cancel(queue)


class Transport(virtual.Transport):
    """
    The transport. Its options are the fields of `Settings`, and librdkafka's own settings, by their names with dots.

    .. versionadded:: 0.1.0
    """

    Channel = Channel

    can_parse_url = True
    driver_type = "kafka"
    driver_name = "confluent-kafka"
    default_port = 9092
    polling_interval = None
    implements = virtual.Transport.implements.extend(
        asynchronous=False,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
        heartbeats=False,
    )
    recoverable_connection_errors = (NotSent, SentInDoubt, BrokerLost)
    connection_errors = (*recoverable_connection_errors, AccessRefused)
    recoverable_channel_errors = ()
    channel_errors = (ChannelError,)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.settings = _settings_of(client)
        #: Queues of which this connection knows what they are.
        self.durable: set[str] = set()
        self.transient: set[str] = set()
        #: Who consumes a queue, and whether he acknowledges nothing.
        self._consumers: dict[str, tuple[Any, bool]] = {}
        self._queues: dict[str, str] = {}
        self._turn = 0
        self._parts = _Parts(self.settings)
        self.later = self._parts.later
        weakref.finalize(self, later, functools.partial(self._parts.end, wait=False))

    @classmethod
    def has_priorities(cls, client: Any) -> bool:
        """Return whether the queues of a connection have priorities, as it is set up; it need not be open."""
        return len(_settings_of(client).priority_steps) > 1

    @classmethod
    def troubles(cls, client: Any, queues: Collection[str], *, consumes: bool) -> list[Trouble]:
        """
        Return what is wrong with the cluster of a connection for *queues*, for a worker or for whoever publishes.

        Raises:
            WrongOption: An option is unknown, or its value is wrong.
        """
        return inspect(_settings_of(client), queues, consumes=consumes)

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        return uri if include_password else hide_secrets(uri, mask)

    def driver_version(self) -> str:
        return str(confluent_kafka.__version__)

    # The connection.

    def establish_connection(self) -> "Transport":
        try:
            self.writer.connect()
        except Exception:
            self._parts.end(wait=False)  # kombu forgets a transport that does not connect, and makes another
            raise
        return self

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        self._parts.end(wait=True)

    def _collect(self, connection: Any) -> None:
        """Close all without waiting for the broker."""
        close_channels(self)
        self._parts.end(wait=False)

    def check_connection(self, connection: Any) -> None:
        """Ask the broker for something; raises one of `connection_errors` if no answer comes in time."""
        self.writer.connect()

    def server(self, connection: Any) -> Server:
        """Return what a connection's server says that it is."""
        return self.writer.server()

    @property
    def writer(self) -> Writer:
        return self._parts.writer

    # Topics.

    def ensure_topics(self, queue: str) -> None:
        """Make *queue*, unless it is there."""
        if queue not in self.durable:
            self.writer.ensure(self.settings.topics_of(queue))
            self.durable.add(queue)

    def has_topic(self, queue: str) -> bool:
        """Return whether there is a durable queue of this name."""
        return self.writer.has(self.settings.topics_of(queue)[-1])

    def delete_topics(self, queue: str) -> None:
        """Remove a durable queue, with all that is in it."""
        self.durable.discard(queue)
        with self.writer.admin() as admin:
            for topic, done in admin.delete_topics(self.settings.topics_of(queue)).items():
                _deleted(done, topic)
        self.writer.forget_topics()

    def size(self, queue: str) -> int:
        """Return how many messages of *queue* are not done yet, in hands or not."""
        return sum(self._parts.lag(topic) for topic in self.settings.topics_of(queue))

    def purge(self, queue: str) -> int:
        """Remove all messages of *queue*, also those that are due later; return how many there were."""
        count = self.size(queue)
        for topic in self.settings.topics_of(queue):
            self._parts.empty(topic)
            count += self.later.purge(topic) if self.later is not None else 0
        return count

    def add_transient(self, queue: str) -> None:
        """Follow broadcasts for *queue*, from now on."""
        self.writer.ensure([self.settings.broadcast_topic])
        self._parts.follow(self._concerns)
        self.transient.add(queue)

    def remove_transient(self, queue: str) -> None:
        """Follow broadcasts for *queue* no more."""
        self.transient.discard(queue)
        if not self.transient:
            self._parts.follow(None)

    def _concerns(self, key: bytes | None) -> bool:
        name = (key or b"").decode()
        return name in self.state.exchanges or name in self.transient

    # Consuming.

    def consume(self, queue: str, channel: Any, no_ack: bool) -> None:
        """Deliver what comes to *queue* to *channel*."""
        self._consumers[queue] = channel, no_ack
        if queue not in self.transient:
            self._queues |= dict.fromkeys(self.settings.topics_of(queue), queue)
            self._parts.read(self._wanted())
            self._parts.release(self._wanted)

    def cancel(self, queue: str) -> None:
        """Deliver nothing of *queue* any more."""
        self._consumers.pop(queue, None)
        self._parts.read(self._wanted())

    def _wanted(self) -> list[str]:
        queues = [queue for queue in [*self._consumers] if queue not in self.transient]
        return [topic for queue in queues for topic in self.settings.topics_of(queue)]

    def finish(self, delivery_tag: str) -> None:
        """Note that a message need not be delivered again."""
        if self._parts.is_mine and ":" in delivery_tag:
            topic, number, offset, when = delivery_tag.rsplit(":", 3)
            self._parts.finish((topic, int(number)), int(offset), int(when))

    def queue_of(self, delivery_tag: str) -> str:
        """Return the queue that a message came from."""
        return self._queues[delivery_tag.rsplit(":", 3)[0]]

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Deliver what comes next; return when something was delivered, or raise `socket.timeout` after *timeout*."""
        deadline = None if timeout is None else time.monotonic() + timeout
        changed = self._parts.changed
        with changed:
            while (deliver := self._next()) is None:
                self._parts.check()
                rest = None if deadline is None else deadline - time.monotonic()
                if rest is not None and rest <= 0:
                    raise TimeoutError
                if not changed.wait(LOOK if rest is None else min(rest, LOOK)) and worker_ends():
                    raise TimeoutError
        deliver()

    def _next(self) -> Callable[[], None] | None:
        """Return a call that delivers the next message for which somebody has room."""
        for message in self._parts.broadcasts():
            if queues := self._bound(payload := _unpack(message)):
                return lambda: self._deliver_to(queues, payload)
        self._turn += 1
        names = [queue for queue, (channel, _) in self._consumers.items() if channel.qos.can_consume()]
        for level in range(len(self.settings.priority_steps)):
            for place in range(len(names)):  # queues take turns
                queue = names[(place + self._turn) % len(names)]
                if queue not in self.transient and (taken := self._parts.take(self.settings.topics_of(queue)[level])):
                    return lambda queue=queue, taken=taken: self._deliver_task(queue, taken)  # type: ignore[misc]
        return None

    def _bound(self, payload: dict[str, Any]) -> list[str]:
        """Return the transient queues here that a broadcast goes to."""
        info = payload["properties"]["delivery_info"]
        channel = next(iter(self.channels), None)
        bound = channel._lookup(info["exchange"], info["routing_key"]) if channel is not None else []
        return [queue for queue in bound if queue in self.transient and queue in self._callbacks]

    def _deliver_to(self, queues: list[str], payload: dict[str, Any]) -> None:
        for queue in queues:
            properties = {**payload["properties"], "delivery_tag": f"broadcast-{id(payload)}"}
            self._deliver({**payload, "properties": properties}, queue)

    def _deliver_task(self, queue: str, message: KafkaMessage) -> None:
        tag = f"{message.topic()}:{message.partition()}:{message.offset()}:{time_of(message)}"
        try:
            payload = _unpack(message)
        except (KeyError, TypeError, ValueError) as exc:
            log.error("%s is not a message of Celery's, and is dropped: %r", tag, exc)
            self.finish(tag)
            return
        payload["properties"]["delivery_tag"] = tag
        _, no_ack = self._consumers.get(queue, (None, False))
        self._deliver(payload, queue)
        if no_ack:
            self.finish(tag)


class _Parts(OfOneProcess):
    """The threads of a connection and its librdkafka handles: a class of their own, as they may outlive it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self.changed = threading.Condition()
        self._writer: Writer | None = None
        self._writer_pid = 0
        self._reader: Reader | None = None
        self._tail: Tail | None = None
        self._releasing: Releasing | None = None
        self._purging: Purging | None = None
        self._asking: Consumer | None = None
        most = int(settings.config["message.max.bytes"])
        self.later = Later(settings.later_url, settings.connect_timeout, most) if settings.later_url else None

    @property
    def writer(self) -> Writer:
        if self._writer is None or self._writer_pid != os.getpid():
            self._writer, self._writer_pid = Writer(self._settings), os.getpid()
        return self._writer

    def end(self, *, wait: bool) -> None:
        if not self.is_mine:
            return  # a forked child's copy: the threads are its parent's, and so are the handles
        purging = self._purging
        threads = [each for each in (self._releasing, self._reader, self._tail, purging) if each is not None]
        self._reader = self._tail = self._releasing = self._purging = None
        for each in threads:
            each.stop()
        for each in threads:
            each.stop(PATIENCE if wait else 0.0)
        if purging is not None and wait:
            with suppress(NotSent, KafkaException):  # then it is done by whoever has the partitions next
                purging.purge()
        if self._writer is not None:
            self._writer.close(PATIENCE if wait else 0.0)
            self._writer = None
        if self._asking is not None:
            end(self._asking, PATIENCE if wait else 0.0)
            self._asking = None
        if self.later is not None:
            self.later.close()

    # Consuming.

    def read(self, topics: list[str]) -> None:
        if self._reader is None:
            if not topics or not self.is_mine:
                return
            self._reader = Reader(self._settings, self.changed, self._make_topics)
            self._reader.start()
            self._purging = Purging(self._reader.done, self.writer.admin)
            self._purging.start()
        self._reader.want(topics)

    def _make_topics(self, topics: Collection[str]) -> None:
        self.writer.forget_topics()
        self.writer.ensure(topics)

    def release(self, topics: Callable[[], list[str]]) -> None:
        if self._releasing is None and self.later is not None:
            self._releasing = Releasing(self.later, self.writer, topics)
            self._releasing.start()

    def follow(self, concerns: Callable[[bytes | None], bool] | None) -> None:
        if concerns is not None and self._tail is None:
            self._tail = Tail(self._settings, self.changed, concerns, self._make_topics)
            self._tail.start()
        elif concerns is None and self._tail is not None:
            self._tail.stop()
            self._tail = None

    def take(self, topic: str) -> KafkaMessage | None:
        return None if self._reader is None else self._reader.take(topic)

    def finish(self, place: tuple[str, int], offset: int, when: int) -> None:
        with self.changed:
            if self._reader is not None:
                self._reader.finish(place, offset, when)
            self.changed.notify_all()

    def broadcasts(self) -> Iterator[KafkaMessage]:
        while self._tail is not None and self._tail.came:
            yield self._tail.came.popleft()

    def check(self) -> None:
        for part in (self._reader, self._tail):
            if part is not None and part.failure is not None:
                if isinstance(part.failure, SetupRefused):
                    raise part.failure
                raise BrokerLost(str(part.failure)) from part.failure

    # Asking.

    def asking(self) -> Consumer:
        """Return a consumer that consumes nothing, and can be asked."""
        if self._asking is None:
            fixed = {"group.id": self._settings.group_id, "enable.auto.commit": False}
            config = consumer_config(self._settings, **fixed)
            self._asking = make(Consumer, config)
        return self._asking

    def ends(self, topic: str, deadline: float = 0.0) -> list[tuple[TopicPartition, int, int]]:
        """Return what is committed of each partition, and where it begins and ends."""
        asking, timeout = self.asking(), self._settings.connect_timeout
        deadline = deadline or time.monotonic() + timeout
        try:
            partitions = asking.list_topics(topic, timeout=timeout).topics[topic].partitions
            committed = asking.committed([TopicPartition(topic, number) for number in partitions], timeout=timeout)
            return [(each, *asking.get_watermark_offsets(each, timeout=timeout)) for each in committed]
        except KafkaException as exc:
            if error_of(exc).code() in UNSETTLED and time.monotonic() < deadline:
                time.sleep(LOOK)
                return self.ends(topic, deadline)
            what, error = f"the length of topic {topic!r} can't be had", error_of(exc)
            permission = f"Read on group {self._settings.group_id!r}, or Describe on the topic"
            raise refusal(what, error, permission) or NotSent(f"{what}: {error.str()}") from exc

    def lag(self, topic: str) -> int:
        if not self.writer.has(topic):
            return 0
        return sum(
            max(0, high - max(each.offset, low) - len(Ranges.decode(each.offset, each.metadata)))
            for each, low, high in self.ends(topic)
        )

    def empty(self, topic: str) -> None:
        if not self.writer.has(topic):
            return
        ends = [TopicPartition(topic, each.partition, high) for each, _, high in self.ends(topic)]
        try:
            with self.writer.admin() as admin:
                for done in admin.delete_records(ends, request_timeout=self._settings.connect_timeout).values():
                    _deleted(done, topic)
        except (NotSent, SetupRefused) as told:  # not every broker deletes records; this works while nobody consumes
            try:
                self.asking().commit(offsets=ends, asynchronous=False)
            except KafkaException as exc:
                if isinstance(told, SetupRefused):
                    raise told from exc
                raise NotSent(f"{topic!r} can't be purged: {error_of(exc).str()}") from exc


def _deleted(future: Any, topic: str) -> None:
    """Return once a topic, or what is in it, is deleted."""
    try:
        future.result()
    except KafkaException as exc:
        error = error_of(exc)
        if error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            what = f"topic {topic!r} can't be purged or deleted"
            raise refusal(what, error, f"Delete on topic {topic!r}") or NotSent(f"{what}: {error.str()}") from exc


def _pack(message: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return a message's body, and the rest of it."""
    envelope = {key: value for key, value in message.items() if key != "body"}
    body = message["body"]
    return body.encode() if isinstance(body, str) else bytes(body), dumps(envelope).encode()


def _unpack(message: KafkaMessage) -> dict[str, Any]:
    """Return a message as kombu has it."""
    payload: dict[str, Any] = loads(dict(message.headers() or [])["kombu"] or b"")
    payload["body"] = message.value() or b""
    payload["properties"]["delivery_info"]  # raises KeyError, if it is somebody else's
    return payload


def _settings_of(client: Any) -> Settings:
    """Return the settings of a `kombu.Connection`."""
    options = dict(client.transport_options)
    if client.ssl:
        options.setdefault("security.protocol", "SSL")
    if client.userid:
        options |= {"sasl.username": client.userid, "sasl.password": client.password or ""}
    timeout = {"connect_timeout": float(client.connect_timeout)} if client.connect_timeout else {}
    return Settings.of(BrokerUrl.of_client(client, "kafka"), options, **timeout)
