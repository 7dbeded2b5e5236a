"""
A kombu transport for ActiveMQ, over STOMP 1.2 with the library stomp.py.

::

    activemq://user:password@host1:61613,host2:61613/name?heartbeat=5
    activemq+ssl://user:password@host:61614/?ssl_ca_certs=ca.pem

A connection tries the hosts in their order, each time from the first: a master and its slaves. *name* is optional; two
apps on one broker with a name each see nothing of each other, as with virtual hosts. All options are in
:class:`.Settings`; each may stand in the URL or in ``broker_transport_options``.

    settings   what a URL and its options say
    link       one connection to the broker: what is sent is confirmed, and a dead connection is noticed
    channel    kombu's channel: subscriptions, and the way of a message to its destination
    transport  kombu's transport: the connection, and what comes over it

The theory of operation is in :mod:`.channel`.
"""

try:
    import stomp  # noqa: F401
except ImportError as exc:
    raise ImportError("activemq:// needs stomp.py: pip install 'tornado-celery-bridge[activemq]'") from exc

from tornado_celery_bridge.transports.activemq.transport import Transport
from tornado_celery_bridge.transports.core import NotSent, Refused, SentInDoubt

__all__ = ("NotSent", "Refused", "SentInDoubt", "Transport")
