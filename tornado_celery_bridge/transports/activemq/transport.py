"""The ActiveMQ transport, as kombu sees it: the connection, and what comes over it."""

import functools
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import quote

import stomp
from kombu.exceptions import ChannelError, OperationalError
from kombu.transport import base, virtual
from stomp.utils import Frame

from tornado_celery_bridge.transports.activemq.channel import Channel
from tornado_celery_bridge.transports.activemq.link import Link
from tornado_celery_bridge.transports.activemq.management import MANAGE
from tornado_celery_bridge.transports.activemq.settings import DEFAULT_PORT, Settings
from tornado_celery_bridge.transports.core import AccessRefused, NotSent, Trouble, close_channels, hide_secrets
from tornado_celery_bridge.transports.servers import Server

_Arrived = SimpleQueue[Frame | ConnectionError]


class Transport(virtual.Transport):
    """
    The transport; its options are in :class:`.Settings`.

    .. versionadded:: 0.1.0
    """

    Channel = Channel

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
        self.settings = Settings.of(client)
        #: Queues that are not durable. Then, for each queue that listens: exchange, type, routing key, pattern.
        self.transient: set[str] = set()
        self.listening: dict[str, set[tuple[str, str, str, str | None]]] = {}
        self.routes: dict[str, Any] = {}
        self._established: Link | None = None
        #: What came, and the error by which the connection was lost; written by the link's thread.
        self._arrived: _Arrived = SimpleQueue()
        self._waking: tuple[socket.socket, socket.socket] | None = None
        self._loop: Any = None

    @classmethod
    def troubles(cls, client: Any, queues: Collection[str], *, consumes: bool) -> list[Trouble]:
        """Return what the broker of a connection does not let us do, and lost jobs are found by: count *queues*."""
        try:
            client.ensure_connection(max_retries=max(0, len(client.alt) - 1), interval_start=0)
        except (OSError, OperationalError):  # it is away, or does not let us in, which others say
            return []
        try:
            with client.channel() as channel:
                for queue in queues:
                    channel._size(queue)
        except AccessRefused:
            return [Trouble("no-permission", "the user may not count queues, so no lost job would be found", MANAGE)]
        except (*cls.connection_errors, *cls.channel_errors):
            return []
        return []

    def driver_version(self) -> str:
        return ".".join(map(str, stomp.__version__))

    # URLs.

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL as it may be shown."""
        if not uri.startswith("activemq"):
            uri = f"activemq+{uri}"  # which kombu cuts off
        return uri if include_password else hide_secrets(uri, mask)

    def queue(self, name: str) -> str:
        """Return the destination of a queue."""
        return f"/queue/{self._prefix}{_escape(name)}"

    def topic(self, exchange: str) -> str:
        """Return the destination of an exchange whose messages are for whoever listens to it."""
        return f"/topic/{self._prefix}{_escape(exchange)}"

    @property
    def _prefix(self) -> str:
        return f"{_escape(self.settings.name)}." if self.settings.name else ""

    # The connection.

    @property
    def link(self) -> Link:
        """
        The connection to the broker.

        Raises:
            NotSent: There is none, or it is another process'.
        """
        link = self._established
        if link is None or not link.is_alive:
            raise NotSent("there is no connection to the broker")
        return link

    def establish_connection(self) -> Any:
        """
        Connect to the first host that lets us.

        Raises:
            AccessRefused: The broker does not let us in.
            OSError: None can be reached.
        """
        # Nothing is left of a connection before.
        self.state.clear()
        for kept in (self.transient, self.listening, self.routes):
            kept.clear()
        self._arrived = SimpleQueue()
        arrive = functools.partial(self._arrive, self._arrived)
        self._established = Link(self.settings, arrive, arrive)
        return super().establish_connection()

    def server(self, connection: Any) -> Server:
        """Return what a connection's server says that it is."""
        return self.link.server

    def verify_connection(self, connection: Any) -> bool:
        return self._established is not None and self._established.is_alive

    def check_connection(self, connection: Any) -> None:
        """Raise NotSent if the connection is known to be lost."""
        _ = self.link

    def close_connection(self, connection: Any) -> None:
        """Close the channels, and the connection when the broker has had all acknowledgements."""
        self._stop_waking()
        super().close_connection(connection)
        if self._established is not None:
            self._established.close()

    def _collect(self, connection: Any) -> None:
        """Close everything without the broker, whatever its state; `kombu.Connection.collect` looks for this method."""
        self._stop_waking()
        if self._established is not None:
            self._established.abort()
        close_channels(self)

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
    """Return a name with all characters escaped that are special in a destination: ``.``, ``*``, ``>``, ``,``…"""
    return quote(name, safe="").replace(".", "%2E").replace("~", "%7E")
