"""
A kombu transport for ActiveMQ, over STOMP 1.2 with the library stomp.py.

::

    activemq://user:password@host1:61613,host2:61613/name?heartbeat=5
    activemq+ssl://user:password@host:61614/?ssl_ca_certs=ca.pem

Hosts are tried in their order, the first first each time: a master and its slaves. *name* is optional; two apps on one
broker with a name each see nothing of each other, as with virtual hosts. What else can be said is in
:mod:`._activemq_url`; each may be in the URL or in ``broker_transport_options``.

Theory of operation. A kombu connection has one `Link`, and each channel has subscriptions on it.

*Queues* are ActiveMQ's. A channel that may have N messages unacknowledged subscribes N times, each time to all of its
queues together and for one message (``activemq.prefetchSize:1``). So the broker gives it N messages and not one more,
whatever the number of queues, and the channel has none that Celery does not have, too: other workers are given them.
More is that STOMP can't change a subscription and that ending one gives back what it has: a subscription that is not
wanted any more (another prefetch; a queue more or less; a worker that stops) ends at once if it is idle, else when its
message is acknowledged. Unlimited, which no Celery worker is, it is one subscription.

*Exchanges* are topics where their messages are for whoever listens (fanout; and those of which no durable queue is
known here): remote control and its replies, events. The routing key is a header. A queue that is not durable listens
from when it is bound on, so that no reply is missed; another, bound to a fanout, while it is consumed. Everything else
goes to queues by name, as Celery does.

*Publishing* waits until the broker has the message on disk; see :mod:`._stomp` for what else can come of it.

*An acknowledgement* is sent and not waited for. On a connection that is lost it is dropped: the broker gives the
message to somebody again.

*A message with an ETA* is kept by the broker until then (``AMQ_SCHEDULED_DELAY``), where its scheduler is on; where it
is not, the worker has it at once and waits, as with other brokers. The worker looks at the ETA all the same, so clocks
that differ do no harm.
"""

import functools
import logging
import re
import socket
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import quote

import kombu.transport
from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import base, virtual
from kombu.utils.json import dumps, loads

try:
    import stomp
except ImportError as exc:
    raise ImportError("activemq:// needs stomp.py: pip install 'tornado-celery-bridge[activemq]'") from exc

from tornado_celery_bridge.transports.activemq_url import DEFAULT_PORT, parse, shown
from tornado_celery_bridge.transports.stomp import Frame, Link, NotConnected, Refused, Unconfirmed

__all__ = ("Channel", "NotConnected", "QoS", "Refused", "Transport", "Unconfirmed", "register")

log = logging.getLogger(__name__)

#: Messages on their way on a subscription that nothing limits.
UNLIMITED = 1_000
#: Messages kept for a queue that listens and is not consumed yet.
EARLY = 1_000
#: Seconds without a message after which a queue is taken for empty.
QUIET = 0.5


def register() -> None:
    """
    Have kombu know ``activemq://`` and ``activemq+ssl://``, in this process.

    Call it where the Celery app is made, so that workers, beat and publishers all do.

    .. versionadded:: 0.1.0
    """
    kombu.transport.TRANSPORT_ALIASES["activemq"] = "tornado_celery_bridge.transports.activemq:Transport"


@dataclass
class _Subscription:
    """To all queues of a channel; *tags* are of its messages that are not acknowledged."""

    name: str
    destination: str
    size: int
    tags: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Topic:
    """A topic that a queue listens to, and which of its messages are for the queue."""

    queue: str
    pattern: re.Pattern[str] | None


_Arrived = SimpleQueue[Frame | ConnectionError]
#: Command, headers and body.
_Frame = tuple[str, Mapping[str, Any], bytes]


class QoS(virtual.QoS):
    """What has been delivered and not acknowledged: the broker counts, and gives it to others when we are gone."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._messages: dict[str, Any] = {}

    def can_consume(self) -> bool:
        return True

    def append(self, message: Any, delivery_tag: str) -> None:
        self._messages[delivery_tag] = message

    def get(self, delivery_tag: str) -> Any:
        return self._messages[delivery_tag]

    def ack(self, delivery_tag: str) -> None:
        if self._messages.pop(delivery_tag, None) is not None:
            self.channel._settle("ACK", delivery_tag)

    def forget(self) -> None:
        """Have acknowledgements from now on come to nothing."""
        self._messages.clear()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message = self._messages.pop(delivery_tag, None)
        if message is None:
            return
        if requeue:
            self.channel._requeue(message)
        else:
            self.channel._settle("NACK", delivery_tag)


class Channel(virtual.Channel):
    """A channel: its subscriptions, and the way of a message to its destination."""

    QoS = QoS
    supports_fanout = True
    do_restore = False  # the broker does: if a channel did it, too, there would be two

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._subscriptions: dict[str, _Subscription] = {}
        self._topics: dict[str, _Topic] = {}
        #: Subscriptions of queues whose messages nobody acknowledges.
        self._unacknowledged: dict[str, str] = {}
        self._queues: dict[str, str] = {}  # by their destination
        self._early: dict[str, deque[Any]] = {}
        #: What a subscription should be (to which destination, for how many messages), and how many should be.
        self._wanted, self._room = ("", 0), 0
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
            NotConnected, Refused: It does not have it.
            Unconfirmed: It may, or not.
        """
        self._transmit(self._frames(message, exchange, routing_key))

    def create_publish_batch(self, max_size: int) -> "_Batch":
        """Return what `kombu.Producer.batch` publishes to: many messages for one wait."""
        return _Batch(self, max_size)

    def _transmit(self, frames: Sequence[_Frame]) -> None:
        """Send frames; what goes into queues is waited for, together. Nobody can say who heard the rest."""
        for frame in frames:
            if frame[1]["destination"].startswith("/topic/"):
                self._link.send(*frame)
        if asked := [frame for frame in frames if frame[1]["destination"].startswith("/queue/")]:
            self._link.request_all(asked)

    def _frames(self, message: Any, exchange: str, routing_key: str) -> list[_Frame]:
        self._inplace_augment_message(message, exchange, routing_key)
        queues = self._durable_queues(exchange, routing_key) if exchange else [routing_key]
        if queues:
            return [self._frame(queue, message) for queue in queues]
        headers = {"destination": self.connection.topic(exchange), "persistent": "false", "routing_key": routing_key}
        return [("SEND", headers, dumps(message).encode())]

    def _frame(self, queue: str, message: Any, **headers: str) -> _Frame:
        """Return the frame that puts a message into a queue."""
        headers = {"destination": self.connection.queue(queue), **_delivery_headers(message), **headers}
        return "SEND", headers, dumps(message).encode()

    def _durable_queues(self, exchange: str, routing_key: str) -> list[str]:
        """Return the queues known here that an exchange's messages go to, unless they go to whoever listens."""
        if exchange not in self.state.exchanges or self.typeof(exchange).type == "fanout":
            return []
        found = self.typeof(exchange).lookup(self.get_table(exchange), exchange, routing_key, None)
        return sorted(queue for queue in found if queue not in self.connection.listening)

    # Declaring.

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue. Its messages are counted only when that is all that is asked (*passive*): it takes long."""
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
            headers = {"ack": "auto", "activemq.prefetchSize": UNLIMITED}
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
            self._wanted = ("/queue/" + ",".join(name.removeprefix("/queue/") for name in destinations), limit and 1)
            self._room = (limit or 1) if queues else 0
            room = self._room
            for subscription in sorted(self._subscriptions.values(), key=lambda each: not each.tags):
                if subscription.tags or (room > 0 and self._is_wanted(subscription)):
                    room -= 1
                else:
                    del self._subscriptions[subscription.name]
                    self.connection.unsubscribe(subscription.name)
            destination, size = self._wanted
            headers = {"ack": "client-individual", "activemq.prefetchSize": size or UNLIMITED}
            for _ in range(room):
                name = self.connection.subscribe(self, destination, headers)
                self._subscriptions[name] = _Subscription(name, destination, size)

    def _is_wanted(self, subscription: _Subscription) -> bool:
        return (subscription.destination, subscription.size) == self._wanted

    def _settle(self, command: str, tag: str) -> None:
        """Acknowledge a message, or have the broker put it with the dead letters."""
        try:
            with self._lock:
                subscription = self._subscription_of(tag)
                if subscription is not None:  # else of a topic, or somebody else has it now
                    self._link.send(command, {"id": tag})
                    self._forget(subscription, tag)
        except OSError as exc:
            log.warning("an acknowledgement is lost, and its message comes again: %s", exc)

    def _requeue(self, message: Any) -> None:
        """Put a copy into the queue and acknowledge the message, both or neither. Nothing goes back to a topic."""
        info, tag, link = message.delivery_info, message.delivery_tag, self._link
        subscription = self._subscription_of(tag)
        if subscription is None:
            return
        queues = self._durable_queues(info["exchange"], info["routing_key"]) if info["exchange"] else []
        payload = {**message.serializable(), "redelivered": True}
        transaction = {"transaction": f"t{uuid.uuid4().hex}"}
        link.send("BEGIN", transaction)
        for queue in queues or [info["routing_key"]]:
            link.send(*self._frame(queue, payload, **transaction))
        link.send("ACK", {"id": tag, **transaction})
        link.request("COMMIT", transaction)
        with self._lock:  # not before: were its subscription ended, the message would be given to others
            self._forget(subscription, tag)

    def _subscription_of(self, tag: str) -> _Subscription | None:
        with self._lock:
            return next((each for each in self._subscriptions.values() if tag in each.tags), None)

    def _forget(self, subscription: _Subscription, tag: str) -> None:
        """Note that a message is settled, and end its subscription if that is wanted no more."""
        subscription.tags.discard(tag)
        if len(self._subscriptions) > self._room or not self._is_wanted(subscription):
            self._arrange()

    # Listening.

    def _listen(self, queue: str) -> None:
        if any(topic.queue == queue for topic in self._topics.values()):
            return
        for exchange, kind, routing_key, pattern in sorted(self.connection.listening[queue]):
            headers = {"ack": "auto", "activemq.prefetchSize": UNLIMITED, **_selector(kind, routing_key)}
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
            return  # it ended meanwhile, and somebody else is given the message
        if topic and topic.pattern and not topic.pattern.match(frame.headers.get("routing_key", "")):
            return
        payload = self._payload(frame, tag)
        if payload is None:
            self._settle("NACK", tag)
            return
        queue = topic.queue if topic else self._queues[frame.headers["destination"]]
        if queue in self.connection._callbacks:
            self.connection._deliver(payload, queue)
        elif topic:
            self._early.setdefault(queue, deque(maxlen=EARLY)).append(payload)
        elif subscription:  # consumed no more: given back as its subscription ends
            with self._lock:
                self._forget(subscription, tag)

    def _payload(self, frame: Frame, tag: str) -> Any:
        try:
            payload = loads(frame.body)
            payload["properties"]["delivery_tag"] = tag
            redelivered = payload.pop("redelivered", False) or frame.headers.get("redelivered") == "true"
            payload["properties"]["delivery_info"]["redelivered"] = redelivered
        except Exception as exc:
            log.error("a message of %s is none of kombu's: %r", frame.headers.get("destination"), exc)
            return None
        return payload

    # One by one.

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """Return a message, or raise Empty after half a second."""
        destination, link = self.connection.queue(queue), self._link
        headers = {"ack": "client-individual", "activemq.prefetchSize": 1}
        with link.listening(destination, headers) as listening:
            frame = listening.take(timeout or QUIET)
            if frame is None:
                raise Empty
            listening.keep = True
        tag = frame.headers["ack"]
        with self._lock:  # one too many, that ends when its message is acknowledged
            self._subscriptions[listening.name] = _Subscription(listening.name, destination, 1, {tag})
            self.connection.routes[listening.name] = self
        payload = self._payload(frame, tag)
        if payload is None:
            self._settle("NACK", tag)
            raise Empty
        return payload

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        message = super().basic_get(queue, no_ack=False, **kwargs)
        if message is not None and no_ack:
            message.ack()
        return message

    def _size(self, queue: str) -> int:
        """Return how many messages a queue has, those that somebody holds included; up to the broker's page (400)."""
        count = 0
        with self._link.listening(self.connection.queue(queue), {"ack": "auto", "browser": "true"}) as listening:
            while (frame := listening.take(self.connection.broker.timeout)) and "browser" not in frame.headers:
                count += 1
            listening.keep = True  # the broker has ended it
        return count

    def _purge(self, queue: str) -> int:
        """Take out what is in a queue, and return how many messages that was."""
        count = 0
        headers = {"ack": "auto", "activemq.prefetchSize": UNLIMITED}
        with self._link.listening(self.connection.queue(queue), headers) as listening:
            while listening.take(QUIET):
                count += 1
        return count


class _Batch:
    """Messages that are sent together, and confirmed together: as `kombu.Producer.batch` wants it."""

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self._max_size = max_size
        self._frames: list[_Frame] = []

    def publish(self, message: Any, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        self._frames += self.channel._frames(message, exchange, routing_key)
        if len(self._frames) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        frames, self._frames = self._frames, []
        self.channel._transmit(frames)

    def discard(self) -> None:
        self._frames.clear()

    def close(self) -> None:
        self.discard()


class Transport(virtual.Transport):
    """
    The transport; its options are in :mod:`._activemq_url`.

    .. versionadded:: 0.1.0
    """

    Channel = Channel

    #: What it can do, for people.
    capabilities: Mapping[str, str] = {
        "priority": "0 to 9, 9 the most urgent, in queues with prioritizedMessages",
        "delay": "by the broker with schedulerSupport, else by the worker",
        "queue length": "counted by a browser, up to the broker's maxBrowsePageSize (400)",
        "broadcast": "topics",
        "durability": "on the broker's disk before a publish returns",
    }

    default_port = DEFAULT_PORT
    can_parse_url = True
    driver_type = "activemq"
    driver_name = "stomp.py"

    connection_errors = (OSError, stomp.exception.StompException)
    channel_errors = (ChannelError,)
    recoverable_connection_errors = connection_errors
    recoverable_channel_errors = ()

    implements = base.Transport.implements.extend(
        asynchronous=True,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
        heartbeats=False,
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.broker, self._name = parse(client)
        #: Queues that are not durable; and for each that listens, to which exchanges: type, routing key and pattern.
        self.transient: set[str] = set()
        self.listening: dict[str, set[tuple[str, str, str, str | None]]] = {}
        self.routes: dict[str, Any] = {}
        self._established: Link | None = None
        #: What came, and the error with which the connection was lost; written by the link's thread.
        self._arrived: _Arrived = SimpleQueue()
        self._waking: tuple[socket.socket, socket.socket] | None = None
        self._loop: Any = None

    def driver_version(self) -> str:
        return ".".join(map(str, stomp.__version__))

    # URLs.

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL as it may be shown."""
        return shown(uri, None if include_password else mask)

    def queue(self, name: str) -> str:
        """Return the destination of a queue."""
        return f"/queue/{self._prefix}{_escape(name)}"

    def topic(self, exchange: str) -> str:
        """Return the destination of an exchange whose messages are for whoever listens."""
        return f"/topic/{self._prefix}{_escape(exchange)}"

    @property
    def _prefix(self) -> str:
        return f"{_escape(self._name)}." if self._name else ""

    # The connection.

    @property
    def link(self) -> Link:
        """
        The connection to the broker.

        Raises:
            NotConnected: There is none, or it is another process'.
        """
        link = self._established
        if link is None or not link.is_alive:
            raise NotConnected("there is no connection to the broker")
        return link

    def establish_connection(self) -> Any:
        """
        Connect to the first host that lets us.

        Raises:
            PermissionError: The broker does not let us in.
            OSError: None can be reached.
        """
        # Nothing is left of a connection before.
        self.state.clear()
        for kept in (self.transient, self.listening, self.routes):
            kept.clear()
        self._arrived = SimpleQueue()
        arrive = functools.partial(self._arrive, self._arrived)
        self._established = Link(self.broker, arrive, arrive)
        return super().establish_connection()

    def server(self, connection: Any) -> str:
        """Return what a connection's server says that it is."""
        return self.link.server.replace("/", " ")

    def verify_connection(self, connection: Any) -> bool:
        return self._established is not None and self._established.is_alive

    def check_connection(self, connection: Any) -> None:
        """Raise NotConnected if the connection is known to be lost."""
        _ = self.link

    def close_connection(self, connection: Any) -> None:
        """Close the channels, and the connection when the broker has had all acknowledgements."""
        self._stop_waking()
        super().close_connection(connection)
        if self._established is not None:
            self._established.close()

    def _collect(self, connection: Any) -> None:
        """Let go of everything, whatever state it is in; `kombu.Connection.collect` looks for this method."""
        self._stop_waking()
        if self._established is not None:
            self._established.abort()
        for channel in [*self.channels, *self._avail_channels]:
            with suppress(Exception):
                channel.close()

    def subscribe(self, channel: Any, destination: str, headers: Mapping[str, Any], *, confirmed: bool = False) -> str:
        """Return the id of a new subscription, whose messages go to *channel*."""
        link = self.link
        name = link.new_name()
        self.routes[name] = channel
        link.subscribe(name, destination, headers, confirmed=confirmed)
        return name

    def unsubscribe(self, subscription: str) -> None:
        """End a subscription."""
        self.routes.pop(subscription, None)
        self.link.unsubscribe(subscription)

    # What comes.

    def _arrive(self, arrived: _Arrived, what: Frame | ConnectionError) -> None:
        arrived.put(what)
        waking = self._waking
        if waking is not None:
            with suppress(OSError):  # full: there is enough to be woken by; or closed
                waking[1].send(b"\0")

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """
        Deliver the next message.

        Raises:
            TimeoutError: None came within *timeout* seconds.
            ConnectionError: The connection is lost.
        """
        try:
            what = self._arrived.get(timeout=timeout)
        except Empty:
            raise TimeoutError from None
        self._handle(what)

    def _handle(self, what: Frame | ConnectionError) -> None:
        if isinstance(what, ConnectionError):
            raise what
        channel = self.routes.get(what.headers["subscription"])
        if channel is not None:
            channel._receive(what)

    # In a worker's event loop.

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the loop call `on_readable` when something has come."""
        self._stop_waking()
        self._waking, self._loop = socket.socketpair(), loop
        for end in self._waking:
            end.setblocking(False)
        loop.add_reader(self._waking[0], self.on_readable, self._waking[0])
        self._waking[1].send(b"\0")  # for what came before

    def on_readable(self, reader: socket.socket) -> None:
        """Deliver all that has come."""
        with suppress(BlockingIOError):
            reader.recv(65_536)
        with suppress(Empty):
            while self._waking is not None:
                self._handle(self._arrived.get_nowait())

    def _stop_waking(self) -> None:
        waking, self._waking = self._waking, None
        if waking is not None:
            with suppress(Exception):
                self._loop.remove_reader(waking[0])
            for end in waking:
                end.close()


def _escape(name: str) -> str:
    """Return a name with all in it escaped that means something in a destination's: ``.``, ``*``, ``>``, ``,``…"""
    return quote(name, safe="").replace(".", "%2E").replace("~", "%7E")


def _delivery_headers(message: Any) -> dict[str, Any]:
    """Return how the broker is to keep a message in a queue: its priority, on disk or not, and until when."""
    properties, delay = message["properties"], _delay(message["headers"].get("eta"))
    return {
        "priority": min(9, max(0, int(properties.get("priority") or 0))),
        "persistent": "false" if properties.get("delivery_mode") == 1 else "true",
        **({"AMQ_SCHEDULED_DELAY": delay} if delay else {}),
    }


def _delay(eta: Any) -> int:
    """Return milliseconds until *eta*, as Celery writes it; 0 if that was, or is no time."""
    if not isinstance(eta, str):
        return 0
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return 0
    seconds = ((due if due.tzinfo else due.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0, int(seconds * 1000))


def _selector(kind: str, routing_key: str) -> dict[str, str]:
    """Return the header that keeps the messages of other keys away; of a pattern, most of them."""
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
