"""
What ``activemq://`` URLs say.

::

    activemq://user:password@host1:61613,host2:61613/name?heartbeat=5
    activemq+ssl://user:password@host:61614/?ssl_ca_certs=ca.pem

Hosts are tried in their order, the first first each time: a master and its slaves. What is special in a user's name or
a password is percent-encoded. *name* is the app's on the broker, and optional. What else can be said is in `OPTIONS`.
"""

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tornado_celery_bridge.transports.stomp import Broker

__all__ = ("DEFAULT_PORT", "OPTIONS", "parse", "shown")

DEFAULT_PORT = 61613

#: What can be set, with its default; seconds, and files' names.
OPTIONS: Mapping[str, Any] = {
    "heartbeat": 4.0,  # between signs of life; a half-open connection is noticed within 2.5 times that
    "confirm_timeout": 4.0,  # for the broker to say that it has a message
    "connect_timeout": None,  # kombu's own unless set; shared out among the hosts
    "ssl_ca_certs": None,  # who signs the broker's certificate, unless the system knows
    "ssl_certfile": None,  # our own certificate, and its key
    "ssl_keyfile": None,
    "ssl_check_hostname": True,
}


def shown(url: str, mask: str | None) -> str:
    """Return a kombu connection's URL, with *mask*, if there is one, instead of its password."""
    if not url.startswith("activemq"):
        url = f"activemq+{url}"  # which kombu cuts off
    return url if mask is None else re.sub(r"(?<=://)([^/@:]*):[^/]*@", rf"\1:{mask}@", url)


def parse(client: Any) -> tuple[Broker, str]:
    """Return the broker of a kombu connection's URL and options, and the app's name on it."""
    url = urlsplit(client.hostname if "://" in (client.hostname or "") else _url_of(client))
    login, _, hosts = url.netloc.rpartition("@")
    user, _, password = login.partition(":")
    options = {**OPTIONS, **(client.transport_options or {}), **dict(parse_qsl(url.query))}
    connect_timeout = options["connect_timeout"] or client.connect_timeout or Broker.connect_timeout
    broker = Broker(
        hosts=[_host(host) for host in hosts.split(",")],
        user=unquote(user) or client.userid or None,
        password=unquote(password) or client.password or None,
        tls=_tls(client.ssl, options) if url.scheme.endswith("ssl") or client.ssl else None,
        connect_timeout=float(connect_timeout),
        timeout=float(options["confirm_timeout"]),
        heartbeat=float(options["heartbeat"]),
    )
    return broker, unquote(url.path).strip("/")


def _url_of(client: Any) -> str:
    """Return the URL of a connection that was told its parts, as kombu does when it fails over between URLs."""
    return f"activemq://{client.hostname or 'localhost'}:{client.port or DEFAULT_PORT}/{client.virtual_host or ''}"


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or DEFAULT_PORT


def _tls(given: Any, options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return the context of TLS: Celery's ``broker_use_ssl``, as Redis and RabbitMQ have it, and our options."""
    if isinstance(given, ssl.SSLContext):
        return given
    more = (
        {f"ssl_{name.removeprefix('ssl_')}": value for name, value in given.items()} if isinstance(given, dict) else {}
    )
    options = {**options, **more}
    context = ssl.create_default_context(cafile=options["ssl_ca_certs"])
    context.check_hostname = str(options["ssl_check_hostname"]).lower() not in ("false", "0")
    if options.get("ssl_cert_reqs") in (ssl.CERT_NONE, "none", "CERT_NONE"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if options["ssl_certfile"]:
        context.load_cert_chain(options["ssl_certfile"], options["ssl_keyfile"])
    return context
