"""
What ``activemq://`` URLs say.

::

    activemq://user:password@host1:61613,host2:61613/name?heartbeat=5
    activemq+ssl://user:password@host:61614/?ssl_ca_certs=ca.pem

A connection tries the hosts in their order, each time from the first: a master and its slaves. Special characters in a
user's name or a password are percent-encoded. *name* is optional: the app's name on the broker. `OPTIONS` has all else.
"""

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tornado_celery_bridge.transports.activemq.link import Broker
from tornado_celery_bridge.transports.core import BrokerUrl

__all__ = ("DEFAULT_PORT", "OPTIONS", "parse")

DEFAULT_PORT = 61613

#: All options, with their defaults: seconds, and names of files.
OPTIONS: Mapping[str, Any] = {
    "heartbeat": 4.0,  # between two heart-beats; a half-open connection is noticed within 2.5 times that
    "confirm_timeout": 4.0,  # for the broker to say that it has a message
    "connect_timeout": None,  # for all hosts together; None is kombu's own
    "ssl_ca_certs": None,  # the authority that signs the broker's certificate; None for those of the system
    "ssl_certfile": None,  # our own certificate, and its key
    "ssl_keyfile": None,
    "ssl_check_hostname": True,
}


def parse(client: Any) -> tuple[Broker, str]:
    """Return the broker of a kombu connection's URL and options, and the app's name on it."""
    url = BrokerUrl.of_client(client, "activemq")
    options = {**OPTIONS, **(client.transport_options or {}), **url.options}
    connect_timeout = options["connect_timeout"] or client.connect_timeout or Broker.connect_timeout
    broker = Broker(
        hosts=[_host(host) for host in url.hosts.split(",")],
        user=url.user or client.userid or None,
        password=url.password or client.password or None,
        tls=_tls(client.ssl, options) if url.scheme.endswith("ssl") or client.ssl else None,
        connect_timeout=float(connect_timeout),
        timeout=float(options["confirm_timeout"]),
        heartbeat=float(options["heartbeat"]),
    )
    return broker, url.path


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or DEFAULT_PORT


def _tls(given: Any, options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return TLS's context, from Celery's ``broker_use_ssl``, spelt as for Redis or RabbitMQ, and our options."""
    if isinstance(given, ssl.SSLContext):
        return given
    if isinstance(given, dict):
        options = {**options, **{f"ssl_{name.removeprefix('ssl_')}": value for name, value in given.items()}}
    context = ssl.create_default_context(cafile=options["ssl_ca_certs"])
    context.check_hostname = str(options["ssl_check_hostname"]).lower() not in ("false", "0")
    if options.get("ssl_cert_reqs") in (ssl.CERT_NONE, "none", "CERT_NONE"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if options["ssl_certfile"]:
        context.load_cert_chain(options["ssl_certfile"], options["ssl_keyfile"])
    return context
