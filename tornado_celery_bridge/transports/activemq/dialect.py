"""
What STOMP means to each of the two brokers called ActiveMQ: the headers that they need, and what they can't do.

Sources: https://activemq.apache.org/components/classic/documentation/stomp and
https://artemis.apache.org/components/artemis/documentation/latest/stomp.html
"""

from collections.abc import Mapping, Sequence

from tornado_celery_bridge.transports.servers import ActiveMQ, Artemis

#: Messages on their way on a subscription that nothing limits.
UNLIMITED = 1_000


class Dialect:
    """ActiveMQ Classic's."""

    #: Whether a NACK puts a message with the dead letters.
    has_nack = True
    #: Whether a browser counts a queue; else it is asked by management messages.
    has_browser = True

    def together(self, destinations: Sequence[str]) -> list[str]:
        """Return what to subscribe to for messages of *destinations*: as few subscriptions as there can be."""
        return ["/queue/" + ",".join(name.removeprefix("/queue/") for name in destinations)] if destinations else []

    def room(self, messages: int) -> Mapping[str, str]:
        """Return the headers of a subscription that may have so many unacknowledged messages: 1, or `UNLIMITED`."""
        return {"activemq.prefetchSize": str(messages)}

    def to_send(self, destination: str) -> Mapping[str, str]:
        """Return the headers of a message to *destination* that say what it is."""
        return {}

    def to_subscribe(self, destination: str) -> Mapping[str, str]:
        """Return the headers of a subscription to *destination* that say what it is."""
        return {}


class OfArtemis(Dialect):
    """
    Artemis': a queue is an address whose messages go to one consumer (anycast), a topic one whose go to all.

    Its acceptor may make that of prefixes (``anycastPrefix=/queue/``), and as ``artemis create`` sets it up does not.
    """

    has_nack = False  # it drops the message
    has_browser = False  # it ignores the header: the "browser" consumes the queue

    def together(self, destinations: Sequence[str]) -> list[str]:
        return [*destinations]  # "a,b" would be one address

    def room(self, messages: int) -> Mapping[str, str]:
        # In bytes: with one, the next message comes when the first is acknowledged.
        return {"consumer-window-size": "1" if messages == 1 else "-1"}

    def to_send(self, destination: str) -> Mapping[str, str]:
        return _named("destination-type", destination)

    def to_subscribe(self, destination: str) -> Mapping[str, str]:
        return _named("subscription-type", destination)


def _named(header: str, destination: str) -> Mapping[str, str]:
    if destination.startswith("/topic/"):
        return {header: "MULTICAST"}
    return {header: "ANYCAST"} if destination.startswith("/queue/") else {}


def dialect_of(server: ActiveMQ) -> Dialect:
    """Return a server's dialect."""
    return OfArtemis() if isinstance(server, Artemis) else Dialect()
