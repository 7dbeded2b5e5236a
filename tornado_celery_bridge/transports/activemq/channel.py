"""
A channel of the ActiveMQ transport.

Theory of operation. A kombu connection has one `Link`, and each channel has subscriptions on it.

*Queues* are ActiveMQ's. A channel that may have N messages unacknowledged subscribes N times, each time to all of its
queues together and for one message. So the broker gives it exactly N messages, whatever the number of queues. Artemis
knows no subscription to several queues, so there are N for each queue. Then a channel may get up to N messages of each
if several queues have some at once. It asks for more when it has fewer than N again. STOMP can't change a subscription,
and to end one gives its message back. So a subscription that is not wanted any more (another prefetch, a queue more or
less, a worker that stops) ends at once if it is idle, and otherwise when its message is acknowledged. Without a limit,
which no Celery worker has, there is one subscription. The brokers' own words are in :mod:`.dialect`.

*Exchanges* are topics if their messages are for whoever listens (a fanout, and an exchange without a durable queue that
is known here): remote control and its replies, events. The routing key is a header. A queue that is not durable listens
as soon as it is bound, so that it misses no reply. A durable one that is bound to a fanout listens while it is
consumed. Everything else goes to queues by name, as Celery does.

*Publishing* waits until the broker has the message on disk; see :mod:`.link` for the other outcomes.

*An acknowledgement* is sent and not waited for. If the connection is lost, so is the acknowledgement: the broker gives
the message to somebody again.

*A message with an ETA* stays with the broker until then (``AMQ_SCHEDULED_DELAY``) if its scheduler is on. If not, the
worker gets it at once and waits, as with other brokers. The worker looks at the ETA in any case, so clocks that differ
do no harm.
"""

import logging
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import virtual
from stomp.utils import Frame

from tornado_celery_bridge.base.encoding import dumps, loads
from tornado_celery_bridge.transports.activemq.dialect import UNLIMITED
from tornado_celery_bridge.transports.activemq.link import Link
from tornado_celery_bridge.transports.activemq.management import count_messages
from tornado_celery_bridge.transports.core import PublishBatch, due_time

log = logging.getLogger(__name__)

#: Where both brokers put dead letters unless they are told otherwise.
DEAD_LETTERS = "/queue/ActiveMQ.DLQ"
#: Messages kept for a queue that listens and is not consumed yet.
EARLY = 1_000
#: Seconds without a message after which a queue counts as empty.
QUIET = 0.5


@dataclass
class _Subscription:
    """A subscription to queues of a channel; *tags* are those of its messages that are not acknowledged."""

    name: str
    destination: str
    size: int
    tags: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Topic:
    """A topic that a queue listens to, and which of its messages are for the queue."""

    queue: str
    pattern: re.Pattern[str] | None


#: Command, headers and body.
_Frame = tuple[str, Mapping[str, Any], bytes]


class QoS(virtual.QoS):
    """What was delivered and not acknowledged. The broker counts it, and gives it to others when we are gone."""

    def can_consume(self) -> bool:
        return True

    def ack(self, delivery_tag: str) -> None:
        if self._delivered.pop(delivery_tag, None) is not None:
            self.channel._acknowledge(delivery_tag)

    def forget(self) -> None:
        """Ignore all acknowledgements from now on."""
        self._delivered.clear()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message = self._delivered.pop(delivery_tag, None)
        if message is None:
            return
        if requeue:
            self.channel._requeue(message)
        else:
            self.channel._put_aside(delivery_tag, dumps(message.serializable()).encode())


class Channel(virtual.Channel):
    """A channel: its subscriptions, and the way of a message to its destination."""

    QoS = QoS
    supports_fanout = True
    do_restore = False  # the broker does; if the channel did, too, there would be two messages

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._subscriptions: dict[str, _Subscription] = {}
        self._topics: dict[str, _Topic] = {}
        #: Subscriptions of queues whose messages nobody acknowledges.
        self._unacknowledged: dict[str, str] = {}
        self._queues: dict[str, str] = {}  # by their destination
        self._early: dict[str, deque[Any]] = {}
        #: What there should be subscriptions to, for how many messages each, and how many messages in all.
        self._wanted: list[str] = []
        self._size_wanted, self._limit = 0, 0
        # Acknowledgements come from any thread, and end subscriptions.
        self._lock = threading.RLock()
        super().__init__(connection, **kwargs)

    @property
    def _link(self) -> Link:
        link: Link = self.connection.link
        return link

    def close(self) -> None:
        """Close the channel; what was not acknowledged goes to others."""
        if self.closed:
            return
        transport = self.connection
        super().close()
        self.qos.forget()
        with suppress(OSError, ChannelError), self._lock:
            names = (*self._subscriptions, *self._topics, *self._unacknowledged)
            for subscriptions in (self._subscriptions, self._topics, self._unacknowledged):
                subscriptions.clear()
            for name in names:
                transport.unsubscribe(name)

    # Publishing.

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """
        Send a message, and return when the broker has it.

        Raises:
            NotSent, Refused: It does not have the message.
            SentInDoubt: It may have it.
        """
        self._transmit(self._frames(message, exchange, routing_key))

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Return what `kombu.Producer.batch` publishes by: many messages for one wait; kombu looks for this method."""
        frames: list[_Frame] = []

        def send(message: Any, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
            frames.extend(self._frames(message, exchange, routing_key))

        def confirm() -> None:
            sent = frames[:]
            frames.clear()
            self._transmit(sent)

        return PublishBatch(self, max_size, send, confirm, frames.clear)

    def _transmit(self, frames: Sequence[_Frame]) -> None:
        """Send frames, and wait for those that go into queues, together. Who hears the others, nobody can say."""
        for frame in frames:
            if frame[1]["destination"].startswith("/topic/"):
                self._link.send(*frame)
        if asked := [frame for frame in frames if frame[1]["destination"].startswith("/queue/")]:
            self._link.request_all(asked)

    def _frames(self, message: Any, exchange: str, routing_key: str) -> list[_Frame]:
        self._inplace_augment_message(message, exchange, routing_key)
        queues = self._durable_queues(exchange, routing_key)
        if queues:
            return [self._frame(queue, message) for queue in queues]
        headers = {"destination": self.connection.topic(exchange), "persistent": "false", "routing_key": routing_key}
        return [("SEND", headers, dumps(message).encode())]

    def _frame(self, queue: str, message: Any, **headers: str) -> _Frame:
        """Return the frame that puts a message into a queue."""
        headers = {"destination": self.connection.queue(queue), **_delivery_headers(message), **headers}
        return "SEND", headers, dumps(message).encode()

    def _durable_queues(self, exchange: str, routing_key: str) -> list[str]:
        """Return the queues known here that an exchange's messages go to; none if they go to whoever listens."""
        if not exchange:
            return [routing_key]
        if self.typeof(exchange).type == "fanout":
            return []
        found = self._lookup(exchange, routing_key)
        return sorted(queue for queue in found if queue not in self.connection.listening)

    # Declaring.

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue. Its messages are counted only if *passive*, as that takes long."""
        queue = queue or f"amq.gen-{uuid.uuid4()}"
        self._new_queue(queue, **kwargs)
        return queue_declare_ok_t(queue, self._size(queue) if passive else 0, 0)

    def _new_queue(self, queue: str, durable: bool = True, exclusive: bool = False, **kwargs: Any) -> None:
        if exclusive or not durable:
            self.connection.transient.add(queue)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        transport = self.connection
        kind = self.typeof(exchange).type
        if kind != "fanout" and queue not in transport.transient:
            return
        transport.listening.setdefault(queue, set()).add((exchange, kind, routing_key, pattern))
        if queue in transport.transient:
            self._listen(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        if queue in self.connection.listening:
            self._end_listening(queue)
            self.connection.listening.pop(queue, None)
            for exchange in self.state.exchanges.values():
                exchange["table"] = [entry for entry in exchange["table"] if entry[2] != queue]
        else:
            self._purge(queue)

    # Consuming.

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> None:
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue in self.connection.listening:
            self._listen(queue)
            for payload in self._early.pop(queue, ()):
                self.connection._deliver(payload, queue)
        elif no_ack:
            headers = {"ack": "auto", **self._link.dialect.room(UNLIMITED)}
            self._queues[self.connection.queue(queue)] = queue
            name = self.connection.subscribe(self, self.connection.queue(queue), headers)
            self._unacknowledged[name] = queue
        else:
            self._arrange()

    def basic_cancel(self, consumer_tag: str) -> None:
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is None:
            return
        with suppress(OSError):  # then all subscriptions have ended
            for name in [name for name, consumed in self._unacknowledged.items() if consumed == queue]:
                del self._unacknowledged[name]
                self.connection.unsubscribe(name)
            self._end_listening(queue)
            self._arrange()

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self._arrange()

    def _arrange(self) -> None:
        """Have as many subscriptions as messages may be unacknowledged, each to all queues that are consumed."""
        if self.closed:
            return
        others = {*self.connection.listening, *self._unacknowledged.values()}
        queues = sorted({*self._active_queues} - others)
        limit = self.qos.prefetch_count
        with self._lock:
            destinations = [self.connection.queue(queue) for queue in queues]
            self._queues.update(zip(destinations, queues, strict=True))
            self._wanted = self._link.dialect.together(destinations)
            self._size_wanted, self._limit = (1 if limit else UNLIMITED), limit or 1
            self._fill()

    def _fill(self) -> None:
        """Have as many idle subscriptions as messages may come; under the lock."""
        subscriptions = [*self._subscriptions.values()]
        room = max(0, self._limit - sum(bool(each.tags) for each in subscriptions))
        missing = dict.fromkeys(self._wanted, room)
        for each in subscriptions:
            if each.tags:
                continue
            if each.size == self._size_wanted and missing.get(each.destination, 0):
                missing[each.destination] -= 1
            else:
                del self._subscriptions[each.name]
                self.connection.unsubscribe(each.name)
        headers = {"ack": "client-individual", **self._link.dialect.room(self._size_wanted)}
        for destination, count in missing.items():
            for _ in range(count):
                name = self.connection.subscribe(self, destination, headers)
                self._subscriptions[name] = _Subscription(name, destination, self._size_wanted)

    def _acknowledge(self, tag: str, command: str = "ACK") -> None:
        """Acknowledge a message."""
        try:
            with self._lock:
                subscription = self._subscription_of(tag)
                if subscription is not None:  # else it came from a topic, or somebody else has it now
                    self._link.send(command, {"id": tag})
                    self._forget(subscription, tag)
        except OSError as exc:
            log.warning("an acknowledgement is lost, and its message comes again: %s", exc)

    def _put_aside(self, tag: str, body: bytes) -> None:
        """Put a message with the dead letters, as ``original-destination`` tells of which queue."""
        subscription = self._subscription_of(tag)
        if self._link.dialect.has_nack or subscription is None:
            self._acknowledge(tag, "NACK")
            return
        headers = {"destination": DEAD_LETTERS, "persistent": "true", "original-destination": subscription.destination}
        try:
            self._link.request("SEND", headers, body)
        except OSError as exc:
            log.warning("a message could not be put with the dead letters, and comes again: %s", exc)
        else:
            self._acknowledge(tag)

    def _requeue(self, message: Any) -> None:
        """
        Put a copy into the queue, and acknowledge the message once the broker has the copy. A topic gets nothing back.

        If the connection is lost in between there are two. A transaction would not help: Artemis has no ACK in one.
        """
        info, tag = message.delivery_info, message.delivery_tag
        if self._subscription_of(tag) is None:
            return
        queues = self._durable_queues(info["exchange"], info["routing_key"])
        payload = {**message.serializable(), "redelivered": True}
        self._link.request_all([self._frame(queue, payload) for queue in queues or [info["routing_key"]]])
        self._acknowledge(tag)

    def _subscription_of(self, tag: str) -> _Subscription | None:
        with self._lock:
            return next((each for each in self._subscriptions.values() if tag in each.tags), None)

    def _forget(self, subscription: _Subscription, tag: str) -> None:
        """Note that a message is acknowledged, and end its subscription if that is not wanted any more."""
        subscription.tags.discard(tag)
        self._fill()

    # Listening.

    def _listen(self, queue: str) -> None:
        if any(topic.queue == queue for topic in self._topics.values()):
            return
        for exchange, kind, routing_key, pattern in sorted(self.connection.listening[queue]):
            headers = {"ack": "auto", **self._link.dialect.room(UNLIMITED), **_selector(kind, routing_key)}
            name = self.connection.subscribe(self, self.connection.topic(exchange), headers, confirmed=True)
            self._topics[name] = _Topic(queue, re.compile(pattern) if kind == "topic" and pattern else None)

    def _end_listening(self, queue: str) -> None:
        for name in [name for name, topic in self._topics.items() if topic.queue == queue]:
            del self._topics[name]
            self.connection.unsubscribe(name)
        self._early.pop(queue, None)

    # Receiving.

    def _receive(self, frame: Frame) -> None:
        """Deliver what came, in the thread that drains events."""
        name, tag = frame.headers["subscription"], frame.headers.get("ack") or uuid.uuid4().hex
        topic = self._topics.get(name)
        with self._lock:
            subscription = self._subscriptions.get(name)
            if subscription is not None:
                subscription.tags.add(tag)
        if topic is None and subscription is None and name not in self._unacknowledged:
            return  # it ended meanwhile: the broker gives the message to somebody else
        if topic and topic.pattern and not topic.pattern.match(frame.headers.get("routing_key", "")):
            return
        payload = self._payload(frame, tag)
        if payload is None:
            self._put_aside(tag, frame.body)
            return
        queue = topic.queue if topic else self._queue_of(name, frame)
        if queue in self.connection._callbacks:
            self.connection._deliver(payload, queue)
        elif topic:
            self._early.setdefault(queue, deque(maxlen=EARLY)).append(payload)
        elif subscription:  # not consumed any more: given back when its subscription ends
            with self._lock:
                self._forget(subscription, tag)

    def _queue_of(self, subscription: str, frame: Frame) -> str:
        """Return the queue that a message came from."""
        if queue := self._unacknowledged.get(subscription):
            return queue
        known = self._subscriptions.get(subscription)
        # Of several queues together it is the message that tells. Artemis may not have the prefix in it.
        return self._queues.get(known.destination if known else "") or self._queues[frame.headers["destination"]]

    def _payload(self, frame: Frame, tag: str) -> Any:
        try:
            payload = loads(frame.body)
            payload["properties"]["delivery_tag"] = tag
            redelivered = payload.pop("redelivered", False) or frame.headers.get("redelivered") == "true"
            payload["properties"]["delivery_info"]["redelivered"] = redelivered
        except Exception as exc:
            log.error("a message in %s is not one of kombu's: %r", frame.headers.get("destination"), exc)
            return None
        return payload

    # One by one.

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """Return a message, or raise Empty after half a second."""
        destination, link = self.connection.queue(queue), self._link
        headers = {"ack": "client-individual", **link.dialect.room(1)}
        with link.listening(destination, headers) as listening:
            frame = listening.take(timeout or QUIET)
            if frame is None:
                raise Empty
            listening.keep = True
        tag = frame.headers["ack"]
        with self._lock:  # one subscription more, which ends when its message is acknowledged
            self._subscriptions[listening.name] = _Subscription(listening.name, destination, 1, {tag})
            self.connection.routes[listening.name] = self
        payload = self._payload(frame, tag)
        if payload is None:
            self._put_aside(tag, frame.body)
            raise Empty
        return payload

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        message = super().basic_get(queue, no_ack=False, **kwargs)
        if message is not None and no_ack:
            message.ack()
        return message

    def _size(self, queue: str) -> int:
        """Return how many messages a queue has, with those that workers hold; of Classic, at most its page (400)."""
        if not self._link.dialect.has_browser:
            return count_messages(self._link, self.connection.queue(queue))
        count = 0
        with self._link.listening(self.connection.queue(queue), {"ack": "auto", "browser": "true"}) as listening:
            while (
                frame := listening.take(self.connection.settings.confirm_timeout)
            ) and "browser" not in frame.headers:
                count += 1
            listening.keep = True  # the broker has ended it
        return count

    def _purge(self, queue: str) -> int:
        """Remove all messages from a queue, and return how many there were."""
        count = 0
        headers = {"ack": "auto", **self._link.dialect.room(UNLIMITED)}
        with self._link.listening(self.connection.queue(queue), headers) as listening:
            while listening.take(QUIET):
                count += 1
        return count


def _delivery_headers(message: Any) -> dict[str, Any]:
    """Return the headers that say how the broker keeps a message: its priority, on disk or not, and until when."""
    properties, due = message["properties"], due_time(message)
    delay = 0 if due is None else max(0, int((due - time.time()) * 1000))
    return {
        "priority": min(9, max(0, int(properties.get("priority") or 0))),
        "persistent": "false" if properties.get("delivery_mode") == 1 else "true",
        **({"AMQ_SCHEDULED_DELAY": delay} if delay else {}),
    }


def _selector(kind: str, routing_key: str) -> dict[str, str]:
    """Return the header that keeps messages with other routing keys away; for a pattern, most of them."""
    if kind == "fanout":
        return {}
    if kind == "direct":
        return {"selector": f"routing_key = {_quoted(routing_key)}"}
    like = re.sub(r"[%_\\]", r"\\\g<0>", routing_key)
    like = ".".join("%" if word in ("*", "#") else word for word in like.split("."))
    like = like.replace(".%", "%").replace("%.", "%")
    return {"selector": f"routing_key LIKE {_quoted(like)} ESCAPE '\\'"} if like != "%" else {}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
