"""What an ``activemq://`` URL and ``broker_transport_options`` say; see the package for how a URL looks."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tornado_celery_bridge.transports.core import BrokerUrl

DEFAULT_PORT = 61613


@dataclass(frozen=True)
class Settings:
    """Where the broker is, who asks, and how long things may take (all in seconds)."""

    hosts: Sequence[tuple[str, int]]
    #: The app's name on the broker; empty for none.
    name: str
    user: str | None
    password: str | None
    #: From the options ``ssl_ca_certs`` (None for the authorities of the system), ``ssl_certfile``, ``ssl_keyfile`` and
    #: ``ssl_check_hostname``, or from Celery's ``broker_use_ssl``.
    tls: ssl.SSLContext | None
    #: For all hosts together; kombu's own unless it is set.
    connect_timeout: float
    #: For the broker to say that it has a message.
    confirm_timeout: float
    #: Between two heart-beats, in both directions; a half-open connection is noticed within 2.5 times that.
    heartbeat: float

    @classmethod
    def of(cls, client: Any) -> Self:
        """Return the settings of a `kombu.Connection`."""
        url = BrokerUrl.of_client(client, "activemq")
        options = {**(client.transport_options or {}), **url.options}
        return cls(
            hosts=[_host(host) for host in url.hosts.split(",")],
            name=url.path,
            user=url.user or client.userid or None,
            password=url.password or client.password or None,
            tls=_tls(client.ssl, options) if url.scheme.endswith("ssl") or client.ssl else None,
            connect_timeout=float(options.get("connect_timeout") or client.connect_timeout or 5.0),
            confirm_timeout=float(options.get("confirm_timeout", 4.0)),
            heartbeat=float(options.get("heartbeat", 4.0)),
        )


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or DEFAULT_PORT


def _tls(given: Any, options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return TLS's context, from Celery's ``broker_use_ssl``, spelt as for Redis or RabbitMQ, and our options."""
    if isinstance(given, ssl.SSLContext):
        return given
    if isinstance(given, dict):
        options = {**options, **{f"ssl_{name.removeprefix('ssl_')}": value for name, value in given.items()}}
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    context.check_hostname = str(options.get("ssl_check_hostname", True)).lower() not in ("false", "0")
    if options.get("ssl_cert_reqs") in (ssl.CERT_NONE, "none", "CERT_NONE"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context
