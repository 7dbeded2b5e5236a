"""
What all transports share: the three outcomes of publishing, publish batches, due times, broker URLs, closing.

Publishing a message has one of three outcomes, whatever the broker:

    sent      the broker has the message: the call returns
    not sent  :class:`NotSent`, or :class:`Refused` if the broker said no: nothing is in a queue; it may be sent again
    in doubt  :class:`SentInDoubt`: the broker may have the message; sent again, there may be two

:func:`outcome_of` says which of them an exception means, also one of kombu's own transports.
"""

import re
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from amqp.exceptions import AMQPError
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import NoPermissionError

from tornado_celery_bridge.base.redis import OF_CLUSTER, refusal

# Outcomes.


class NotSent(ConnectionRefusedError):
    """
    The message was not sent, for certain: no broker was reached, or the broker refused it. It may be sent again.

    .. versionadded:: 0.1.0
    """


class Blocked(NotSent):
    """
    The message was not sent, as the broker says that it takes none for now. The connection goes on.

    .. versionadded:: 0.1.0
    """


class Refused(ChannelError):
    """
    The broker said that it did not take the message; the connection goes on.

    .. versionadded:: 0.1.0
    """


class SentInDoubt(ConnectionError):
    """
    The message was on its way, and no answer came in time: it may be in its queue. Sent again, there may be two.

    .. versionadded:: 0.1.0
    """


class AccessRefused(PermissionError):
    """
    The broker does not know the user, or the password is wrong. To try again is of no use.

    .. versionadded:: 0.1.0
    """


class WrongServer(AccessRefused):
    """
    The server is not one that the transport is for. To try again is of no use.

    .. versionadded:: 0.1.0
    """


class SetupRefused(PermissionError):
    """
    The broker will not do this as it is set up: a permission is missing, or a setting is wrong; the message says which.

    To try again is of no use, so kombu does not, and a worker ends. Nothing was sent.

    .. versionadded:: 0.1.0
    """


#: They mean that nothing is in a queue: no connection was made, or the broker does not let its user send.
_NOTHING_SENT = (
    *(ConnectionRefusedError, FileNotFoundError, socket.gaierror, NoPermissionError, SetupRefused),
    *OF_CLUSTER,
)


class WrongOption(ValueError):
    """An option of a transport is unknown, or its value is wrong. The message says which, and has no secret."""


class Trouble(NamedTuple):
    """Something about a broker that would end a worker, or lose messages: what ``troubles`` of a transport returns."""

    #: The name of a rule of `ledger.checks`, as in "no-permission".
    name: str
    what: str
    remedy: str


def errors_of(connection: Any) -> tuple[type[BaseException], ...]:
    """
    Return what the use of a `kombu.Connection` raises because of its broker, whichever it is.

    Beside what its transport lists, that is kombu's own name for it (`OperationalError`), AMQP's, by which kombu's
    virtual transports say that a connection was closed, and what refuses a user: in no list, as nobody is to retry.
    """
    listed = {*connection.connection_errors, *connection.channel_errors}
    listed.discard(KeyError)  # of kombu's Redis; a queue that the app does not know raises it as well
    return (OperationalError, AMQPError, NoPermissionError, SetupRefused, *OF_CLUSTER, *listed)


def outcome_of(exc: BaseException) -> NotSent | SentInDoubt:
    """Return what became of a message whose publishing raised *exc*, which is the cause of what is returned."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, _NOTHING_SENT):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        outcome: NotSent | SentInDoubt = SentInDoubt(str(exc))
    else:
        outcome = NotSent(refusal(cause) if isinstance(cause, (NoPermissionError, *OF_CLUSTER)) else str(cause))
    outcome.__cause__ = exc
    return outcome


# Publishing.


class PublishBatch:
    """
    What `kombu.Producer.batch` publishes by: messages that are sent one after the other, and waited for together.

    Args:
        channel: Whose messages they are; kombu looks at it.
        max_size: After so many messages they are waited for.
        send: Sends a message; takes what ``basic_publish`` takes.
        confirm: Returns once the broker has all of them, or raises what became of at least one.
        discard: Forgets what was not sent, for a *send* that only notes it.
    """

    def __init__(
        self,
        channel: Any,
        max_size: int,
        send: Callable[..., Any],
        confirm: Callable[[], None],
        discard: Callable[[], None] = lambda: None,
    ) -> None:
        self.channel = channel
        self._max_size = max_size
        self._send = send
        self._confirm = confirm
        self._count = 0
        #: What was sent was sent; kombu calls these two after an error, and at the end.
        self.discard = self.close = discard

    def publish(self, message: Any, **kwargs: Any) -> None:
        """Publish a message; see the class."""
        self._send(message, **kwargs)
        self._count += 1
        if self._count >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Wait for all messages; see the class."""
        self._count = 0
        self._confirm()


def due_time(message: Mapping[str, Any]) -> float | None:
    """Return when a task's message is due by its header ``eta``, in seconds since 1970; None for now."""
    eta = message["headers"].get("eta")
    try:
        due = datetime.fromisoformat(eta) if eta else None
    except (TypeError, ValueError):  # the worker says what is wrong with it
        return None
    return None if due is None else (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp()


# Broker URLs.


@dataclass(frozen=True)
class BrokerUrl:
    """A broker's URL: ``scheme://user:password@host1:port,host2/path?option=value``."""

    scheme: str
    user: str
    password: str
    #: ``host`` or ``host:port`` each; empty for none.
    hosts: str
    path: str
    options: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the parts of *url*, with what is percent-encoded in them decoded."""
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        options = dict(parse_qsl(parts.query))
        return cls(parts.scheme, unquote(user), unquote(password), hosts, unquote(parts.path).strip("/"), options)

    @classmethod
    def of_client(cls, client: Any, scheme: str) -> Self:
        """Return the URL of a `kombu.Connection`: as it was given, or of parts, which kombu makes of several URLs."""
        host = client.hostname or "localhost"
        if "://" in host:
            return cls.of(host)
        port = f":{client.port}" if client.port else ""
        user, password = client.userid or "", client.password or ""
        return cls(scheme, user, password, host + port, (client.virtual_host or "").strip("/"), {})


_SECRET = re.compile(r"password|secret|\.pem$|oauthbearer\.config|ssl\.key", re.IGNORECASE)


def hide_secrets(url: str, mask: str) -> str:
    """Return *url* with *mask* for each password in it."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    query = [(key, mask if _SECRET.search(key) else value) for key, value in parse_qsl(parts.query)]
    netloc = f"{user}{colon}{mask if colon else ''}{at}{hosts}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/:,")))


# Being kombu's transport.


def worker_ends() -> bool:
    """Return whether this process is a Celery worker that was told to end, and so need not wait for messages."""
    state = sys.modules.get("celery.worker.state")  # which only a worker has imported
    return state is not None and any(
        told is not None and told is not False for told in (state.should_stop, state.should_terminate)
    )


def close_channels(transport: Any) -> None:
    """
    Close all channels of a transport, whether or not the broker is there: for ``_collect``, which kombu looks for.

    Without it, kombu 5.7.0 stops at the first channel that can't be closed, and closes the others later, when they have
    no connection any more: an AttributeError that ends a Celery worker.
    """
    for channel in [*transport.channels, *transport._avail_channels]:
        for _ in range(2):  # Redis' first may end with the reply under way, which can't be read
            with suppress(Exception):
                channel.close()


def drop(connection: Any) -> None:
    """
    Close a kombu connection without waiting for its broker, whatever its transport is.

    kombu's own ``collect`` sets the default timeout of all sockets of the process meanwhile, if the transport has no
    ``_collect``; where two threads do so at once, the time-out stays.
    """
    transport = connection._transport
    if transport is not None and not hasattr(transport, "_collect"):
        transport._collect = lambda _: _close_all(transport)
    connection.collect()


def _close_all(transport: Any) -> None:
    close_channels(transport)
    with suppress(Exception):
        transport.cycle.close()
