"""
kombu transports of our own, for any Celery app; each is a module named after its broker.

:func:`register` has kombu use them. What an app's broker is and can do, the other rooms ask here: :func:`describe`,
:class:`Priorities`, :func:`purge`, :func:`depth`. What is known of each server and version is in :mod:`.servers`.
Messages are published by :mod:`.publisher`. What the transports share, as the three outcomes of publishing, is in
:mod:`.core`.

What comes in: Celery apps and kombu's messages. What goes out: messages to brokers, and one of three outcomes. Who may
call it: every room but base, which is all that it knows.

A transport that has priorities by a setting says so in ``has_priorities``.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import kombu.transport
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from tornado_celery_bridge.transports import servers

__all__ = (
    "TRANSPORTS",
    "Broker",
    "Priorities",
    "depth",
    "describe",
    "purge",
    "register",
    "transport_of",
)

#: Seconds for a broker to say what it is.
TIMEOUT = 2

#: The module and the class for each scheme of a broker's URL. kombu cuts off what follows a "+".
TRANSPORTS = {
    "redis": "redis:Transport",
    "rediss": "redis:Transport",
    "amqp": "rabbitmq:Transport",
    "pyamqp": "rabbitmq:Transport",
    "amqps": "rabbitmq:SSLTransport",
    "kafka": "kafka:Transport",
    "activemq": "activemq:Transport",
}


def register(broker_url: str) -> None:
    """
    Have every connection of this process to this kind of broker use our transport, if there is one for it.

    Call it where the Celery app is made, so that workers, beat and publishers all do. An app whose broker is at
    ``redis://`` or ``kafka://`` can have the transport for itself by its setting ``broker_transport``, as in
    ``"tornado_celery_bridge.transports.redis:Transport"``; of other URLs kombu takes the transport from the scheme.

    For RabbitMQ it also allows a delay of less than a second, which is an error in Celery 5.7: RabbitMQ delays by whole
    seconds, so such a delay is one second.

    Raises:
        ImportError: The broker's client is not installed. The message says which extra has it.

    .. versionadded:: 0.1.0
    """
    scheme = re.split(r"\+|://", broker_url)[0]
    if scheme not in TRANSPORTS:
        return
    name = TRANSPORTS[scheme].partition(":")[0]
    module = import_module(f"{__name__}.{name}")
    for each, transport in TRANSPORTS.items():
        if transport.startswith(f"{name}:"):
            kombu.transport.TRANSPORT_ALIASES[each] = f"{__name__}.{transport}"
            kombu.transport._transport_cache.pop(each, None)  # type: ignore[attr-defined]
    if name == "rabbitmq":
        module.allow_short_delays()


def transport_of(app: Celery) -> Any:
    """Return the class of the transport that *app* publishes with."""
    with app.connection_for_write() as connection:
        return connection.get_transport_cls()


class Broker(NamedTuple):
    """
    A broker as it is now.

    .. versionadded:: 0.1.0
    """

    #: Where it is, without passwords.
    url: str
    #: Its name and version, as far as it says them, or why it could not be asked.
    server: str
    #: What it can do, for people; of one that could not be asked, what any server of its kind can.
    capabilities: Mapping[str, str]
    #: Whether it did not answer.
    is_away: bool


def describe(app: Celery) -> Broker:
    """
    Return what *app*'s broker is, and what it can do as it is set up here. Blocks: for some seconds if it is away.

    .. versionadded:: 0.1.0
    """
    with app.connection_for_write(connect_timeout=TIMEOUT) as connection:
        try:
            connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1), interval_start=0)
            found = servers.server_of(connection)
            servers.meet(app, connection)
            server, is_away = str(found), False
        except Exception as exc:
            found = servers.met(app, connection.get_transport_cls().driver_type)
            server, is_away = f"not reachable: {exc}", True
        url = connection.as_uri()
    told = dict(found.abilities)
    if "priority" in told:
        priorities = Priorities(app)
        served = [name for name in sorted(app.amqp.queues) if priorities.are_served(name)]
        if len(served) < len(app.amqp.queues) or told["priority"].startswith("no"):
            told["priority"] += f" (here: in {', '.join(served) or 'no queue'})"
    return Broker(url, server, told, is_away)


def purge(app: Celery, queue: str) -> int:
    """
    Remove all messages from a queue of *app*'s broker, and return how many there were. Blocks.

    A queue that does not exist has none.
    """
    with app.connection_for_write() as connection, connection.channel() as opened:
        channel: Any = opened
        try:
            return int(channel.queue_purge(queue) or 0)
        except connection.channel_errors:
            return 0


def depth(connection: Any, queue: str) -> int:
    """Return how many messages a queue has; 0 for one that does not exist. Blocks; raises *connection*'s errors."""
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)
    except connection.channel_errors:
        return 0


class Priorities:
    """
    What *app*'s broker makes of priorities. Here they are 0 to 9 on every broker, and 9 is the most urgent.

    Raises:
        ImproperlyConfigured: The broker's URL or options are wrong.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        with app.connection_for_write() as connection:
            transport: Any = connection.get_transport_cls()
            self._driver = transport.driver_type
            self._has_any = not servers.met(app, self._driver).abilities.get("priority", "").startswith("no")
            if ask := getattr(transport, "has_priorities", None):
                try:
                    self._has_any = bool(ask(connection))
                except ValueError as exc:
                    raise ImproperlyConfigured(f"the broker: {exc}") from exc

    def are_served(self, queue: str) -> bool:
        """
        Return whether a queue's messages have priorities; do not give a message of another queue one.

        Of RabbitMQ it depends on the server's version, which is known once this process has connected to it.
        """
        server = servers.met(self._app, self._driver)
        if isinstance(server, servers.RabbitMQ):
            known = self._app.amqp.queues.get(queue)
            return server.has_priorities((known and known.queue_arguments) or {})
        return self._has_any

    @property
    def default(self) -> int | None:
        """
        What a job without a priority is given, so that it comes after those that have one; None where it does anyway.

        With Redis and Sentinel, Celery's own default is kombu's 0, the most urgent.
        """
        return 9 if self._driver == "redis" else None

    def to_broker(self, priority: int) -> int:
        """Return a priority as the broker has it: with Redis and Sentinel, kombu's most urgent is 0."""
        return 9 - priority if self._driver == "redis" else priority
