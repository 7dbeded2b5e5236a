"""
kombu's AMQP transport, which never waits for RabbitMQ for ever, and declares all that a message needs to arrive.

py-amqp waits for an answer (a confirmation, a declaration, the end of a connection) without a limit, and ignores
``confirm_timeout`` among a connection's options: a frozen server stops a publisher for ever. Here each answer has a
time limit. A late answer is an error of the connection, because the message may have arrived.

A server whose memory or disk is nearly full reads nothing from whoever publishes, and says that it does. That is told
at once, and the connection is kept: what is on its way arrives when the server reads on.

A message that expires in its queue is no message of Celery's any more: the server drops it, and nobody tells who waits
for it. So a task's message has no expiry here, and its worker looks at the time, as with other brokers.

RabbitMQ drops a message for which it has no queue without a word, confirmed or not. Celery declares a queue when it
publishes to it. But only a worker declares the 28 queues that keep messages until their ETA, and nobody declares the
queue for dead letters. :func:`declare` declares all of them, for whoever publishes.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import amqp
import celery.app.base
from amqp import spec
from amqp.exceptions import MessageNacked, NotFound, PreconditionFailed, RecoverableConnectionError, ResourceLocked
from celery import Celery
from kombu import Queue
from kombu.transport import pyamqp

from tornado_celery_bridge.base.versions import delays_by_server, native_delayed_delivery
from tornado_celery_bridge.transports.core import Blocked, PublishBatch, SentInDoubt
from tornado_celery_bridge.transports.servers import RabbitMQ

log = logging.getLogger(__name__)

#: Seconds for an answer of the server, unless the transport options have another ``answer_timeout``. Declaring a quorum
#: queue takes 0.1 s on a busy machine; its heartbeat gives a server as long.
ANSWER_TIMEOUT = 10.0

#: Milliseconds that a worker may have a message for, where it may say so: a year. It ends its tasks itself.
CONSUMER_TIMEOUT = 365 * 86_400_000
#: What is called, with the server's timeout in seconds, when it takes back what a worker has had for too long. The
#: worker's connection counts as lost after that.
TIMED_OUT: list[Callable[[float], None]] = []

#: A queue that nobody consumes must not grow for ever: its oldest messages are dropped.
DEAD_LETTERS = {"x-queue-type": "quorum", "x-max-length": 10_000}


def declare(app: Celery, connection: Any) -> None:
    """
    Declare *app*'s queues and what they need: the queues for messages with an ETA, and those for dead letters.

    It takes some milliseconds where all is declared already, and does nothing with brokers of another kind.

    Raises:
        The errors of *connection*.
    """
    if connection.transport.driver_type != "amqp":
        return
    queues = list(app.amqp.queues.values())
    for name in {name for queue in queues if (name := _dead_letters(queue))}:
        _declare_unless_there(connection, Queue(name, queue_arguments=DEAD_LETTERS))
    with connection.channel() as channel:
        for queue in queues:
            queue(channel).declare()
    if delays_by_server(app, "amqp"):
        kind = app.conf.broker_native_delayed_delivery_queue_type
        native_delayed_delivery.declare_native_delayed_delivery_exchanges_and_queues(connection, kind)
        for queue in queues:
            native_delayed_delivery.bind_queue_to_native_delayed_delivery_exchange(connection, queue)


def _dead_letters(queue: Any) -> str | None:
    """Return the name of a queue's queue for dead letters, if they go there by the default exchange."""
    arguments = queue.queue_arguments or {}
    return arguments.get("x-dead-letter-routing-key") if arguments.get("x-dead-letter-exchange") == "" else None


def _declare_unless_there(connection: Any, queue: Any) -> None:
    """Declare a queue, unless there is one of this name, perhaps with other arguments."""
    try:
        with connection.channel() as channel:
            channel.queue_declare(queue.name, passive=True)
    except NotFound:
        with connection.channel() as channel:
            queue(channel).declare()


def is_blocked(connection: Any) -> bool:
    """Return whether the server of a kombu connection has said that it reads nothing that is published."""
    return bool(getattr(getattr(connection, "_connection", None), "blocked", ""))


def allow_short_delays() -> None:
    """Make a second of each shorter delay, which is an error in Celery 5.7."""

    def routing_key(countdown: int, key: str) -> str:
        return native_delayed_delivery.calculate_routing_key(max(1, countdown), key)

    celery.app.base.calculate_routing_key = routing_key  # type: ignore[attr-defined]


class _Bounded:
    """A channel, or a connection as one, that waits for an answer for a limited time."""

    def wait(self, method: Any, callback: Any = None, timeout: float | None = None, returns_tuple: bool = False) -> Any:
        limit = timeout or getattr(self.connection, "answer_timeout", None)  # type: ignore[attr-defined]
        try:
            return super().wait(method, callback, limit, returns_tuple)  # type: ignore[misc]
        except TimeoutError as exc:
            # The next answer would belong to this question: the connection can't be used any more.
            raise RecoverableConnectionError(f"RabbitMQ did not answer within {limit:g} s") from exc


class Channel(_Bounded, pyamqp.Channel):
    """kombu's, whose confirmations have the connection's ``confirm_timeout``, and can be waited for together."""

    _confirm_selected: bool  # py-amqp's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._is_refused = False
        events: Any = self.events  # type: ignore[attr-defined]
        events["basic_ack"].add(self._confirm)
        events["basic_nack"].add(self._refuse)

    def prepare_message(self, body: Any, priority: Any = None, *args: Any, **kwargs: Any) -> Any:
        message = super().prepare_message(body, priority, *args, **kwargs)
        if "task" in (message.headers or {}):
            message.properties.pop("expiration", None)
        return message

    def queue_declare(self, queue: str = "", *args: Any, arguments: Any = None, **kwargs: Any) -> Any:
        if (arguments or {}).get("x-queue-type") == "quorum":
            self.connection.quorum_queues.add(queue)
        return super().queue_declare(queue, *args, **{**kwargs, "arguments": arguments})

    def basic_consume(self, queue: str = "", *args: Any, arguments: Any = None, **kwargs: Any) -> Any:
        # A classic queue does not know the argument, and refuses it.
        is_quorum = queue in self.connection.quorum_queues
        if is_quorum and RabbitMQ.of(self.connection.server_properties).has_consumer_timeout:
            arguments = {"x-consumer-timeout": CONSUMER_TIMEOUT, **(arguments or {})}
        return super().basic_consume(queue, *args, **{**kwargs, "arguments": arguments})

    def basic_publish_confirm(self, *args: Any, confirm_timeout: float | None = None, **kwargs: Any) -> Any:
        limit = confirm_timeout or getattr(self.connection, "confirm_timeout", None)
        return super().basic_publish_confirm(*args, confirm_timeout=limit, **kwargs)

    def _basic_publish(self, *args: Any, **kwargs: Any) -> Any:
        self.connection.refuse_if_blocked()
        if self._confirm_selected:  # the server numbers them from then on
            self._published += 1
            self._unconfirmed.add(self._published)
        return super()._basic_publish(*args, **kwargs)  # type: ignore[misc]

    @property
    def supports_batch_publish(self) -> bool:
        return bool(self.connection.confirm_publish)  # without confirmations there is nothing to wait for

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Return what `kombu.Producer.batch` publishes by; kombu looks for this method."""
        return PublishBatch(self, max_size, self.publish_unconfirmed, self.wait_until_confirmed)

    def publish_unconfirmed(self, *args: Any, confirm_timeout: float | None = None, **kwargs: Any) -> Any:
        """Send a message; :meth:`wait_until_confirmed` tells what became of it."""
        if not self._confirm_selected:
            self._confirm_selected = True
            self.confirm_select()
        return self._basic_publish(*args, **kwargs)

    def wait_until_confirmed(self) -> None:
        """
        Return once the server has confirmed all messages.

        Raises:
            MessageNacked: It refused one of them, or more.
            RecoverableConnectionError: It did not say in time.
        """
        limit = self.connection.confirm_timeout
        deadline = monotonic() + limit
        while self._unconfirmed:
            try:
                if self.connection is None:
                    raise RecoverableConnectionError("connection closed before messages were confirmed")
                self.connection.drain_events(timeout=max(0.001, deadline - monotonic()))
                if self.connection.blocked:
                    raise SentInDoubt(f"RabbitMQ has not read it yet: {self.connection.blocked}")
            except TimeoutError as exc:
                raise RecoverableConnectionError(f"RabbitMQ did not confirm within {limit:g} s") from exc
        refused, self._is_refused = self._is_refused, False
        if refused:
            raise MessageNacked

    def _confirm(self, delivery_tag: int, multiple: bool) -> None:
        self._unconfirmed.discard(delivery_tag)
        if multiple:
            self._unconfirmed = {tag for tag in self._unconfirmed if tag > delivery_tag}

    def _refuse(self, delivery_tag: int, multiple: bool) -> None:
        self._is_refused = True
        self._confirm(delivery_tag, multiple)

    def _on_close(self, *args: Any) -> None:
        try:
            super()._on_close(*args)  # type: ignore[misc]
        except ResourceLocked as exc:
            # A worker of this name lost its connection, the server does not know that yet, and the old connection
            # holds the queue for remote control. Celery ends a worker for an error of a channel; for one of its
            # connection, it tries again.
            raise RecoverableConnectionError(str(exc)) from exc
        except PreconditionFailed as exc:
            # Celery has no ears any more after an error of a channel; for one of its connection, it makes another.
            if (found := re.search(r"delivery acknowledgement .* timed out.*?(\d+) ms", str(exc))) is None:
                raise
            seconds = int(found[1]) / 1000
            log.error("RabbitMQ takes back what a worker has had for its consumer_timeout of %g s: raise it", seconds)
            for told in TIMED_OUT:
                told(seconds)
            raise RecoverableConnectionError(str(exc)) from exc


class Connection(_Bounded, pyamqp.Connection):
    """kombu's, with two options: ``answer_timeout`` and ``confirm_timeout``, both in seconds."""

    Channel = Channel

    #: Why the server reads nothing that is published; empty while it does.
    blocked = ""

    _METHODS: Mapping[Any, Any] = {  # py-amqp's does not read the reason
        **vars(amqp.Connection)["_METHODS"],
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }

    def __init__(
        self, *args: Any, answer_timeout: float = ANSWER_TIMEOUT, confirm_timeout: float | None = None, **kwargs: Any
    ) -> None:
        self.answer_timeout = answer_timeout
        #: Those that were declared over this connection.
        self.quorum_queues: set[str] = set()
        self.confirm_timeout = confirm_timeout or answer_timeout
        super().__init__(*args, **kwargs)

    def _on_blocked(self, reason: str) -> None:
        self.blocked = f"the server is blocked ({reason}), see `rabbitmqctl list_alarms`"
        log.error("RabbitMQ reads nothing that is published: %s", self.blocked)

    def _on_unblocked(self) -> None:
        self.blocked = ""
        log.info("RabbitMQ reads again")

    def refuse_if_blocked(self) -> None:
        """Raise `Blocked` if the server says that it reads nothing."""
        if self.blocked:
            raise Blocked(self.blocked)


class Transport(pyamqp.Transport):
    """
    The transport; its options are py-amqp's and the two of :class:`Connection`.

    .. versionadded:: 0.1.0
    """

    Connection = Connection

    def check_connection(self, connection: Any) -> None:
        """
        Raise if an idle connection is dead.

        Raises:
            OSError, RecoverableConnectionError: It is.
            Blocked: It is not, and the server takes no messages now.
        """
        with contextlib.suppress(TimeoutError):
            while True:
                connection.drain_events(timeout=0)
        connection.heartbeat_tick()
        connection.refuse_if_blocked()

    def close_connection(self, connection: Any) -> None:
        """Close a connection, whether or not the server answers."""
        try:
            super().close_connection(connection)
        except (OSError, RecoverableConnectionError) as exc:
            log.debug("while closing the connection to the broker: %s", exc)
            connection.collect()


class SSLTransport(Transport, pyamqp.SSLTransport):
    """
    The same over TLS.

    .. versionadded:: 0.1.0
    """
