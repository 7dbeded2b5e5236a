"""Asyncio connections to the Redis of a Celery result backend, from Celery's own settings."""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

__all__ = ("ConnectionPool", "connection_pool")

ConnectionPool = redis.asyncio.ConnectionPool

#: Seconds; Celery's own defaults (120, or none at all) are a worker's, which has time.
MAX_TIMEOUT = 2.0


def connection_pool(backend: Any, **overrides: Any) -> ConnectionPool:
    """
    Return an asyncio connection pool to *backend*'s server; connects at first use.

    TLS, user, password, database, Unix socket and credential provider are the backend's. Nothing is retried in
    here: whoever uses a connection decides what a lost one means.

    Args:
        backend: A Redis result backend of a Celery app.
        overrides: Connection settings of redis-py to use instead, such as ``max_connections``.
    """
    params: dict[str, Any] = {key: value for key, value in backend.connparams.items() if value is not None}
    params["connection_class"] = _asyncio_class(params.get("connection_class"))
    params.pop("retry_on_timeout", None)
    for name in ("socket_connect_timeout", "socket_timeout"):
        params[name] = min(params.get(name) or MAX_TIMEOUT, MAX_TIMEOUT)
    if issubclass(params["connection_class"], redis.asyncio.UnixDomainSocketConnection):
        params.pop("socket_keepalive", None)
        params.pop("socket_connect_timeout", None)
    # RESP2: a subscriber's messages are then ordinary replies, read in order.
    params.update(protocol=2, retry=Retry(NoBackoff(), 0), **overrides)
    return ConnectionPool(**params)


def _asyncio_class(sync_class: type | None) -> type[redis.asyncio.Connection]:
    if sync_class is None:
        return redis.asyncio.Connection
    if issubclass(sync_class, redis.SSLConnection):
        return redis.asyncio.SSLConnection
    if issubclass(sync_class, redis.UnixDomainSocketConnection):
        return redis.asyncio.UnixDomainSocketConnection  # type: ignore[return-value]
    return redis.asyncio.Connection
