"""Clients of the Redis of a Celery result backend, from Celery's own settings: asyncio's and blocking ones."""

import re
import ssl
from collections.abc import Mapping
from typing import Any

import hiredis
import redis
import redis.asyncio
from celery.exceptions import ImproperlyConfigured
from redis.asyncio.retry import Retry as AsyncioRetry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    OutOfMemoryError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel as BlockingSentinel
from redis.sentinel import SentinelConnectionPool as BlockingSentinelPool

from tornado_celery_bridge.base.cluster import in_cluster, slot_of
from tornado_celery_bridge.base.versions import DRIVER, know_errors

ConnectionPool = redis.asyncio.ConnectionPool

#: Seconds. Celery's own defaults (120, or no timeout) are for workers, which can wait.
MAX_TIMEOUT = 2.0

#: redis-py 5's asyncio connections know the words alone, where Celery has the numbers.
_CERT_REQS = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}


#: What a server of a Redis Cluster raises of keys of other servers, where the settings do not say that it is one.
#: Nothing was done.
OF_CLUSTER = (MovedError, AskError, ClusterCrossSlotError, ClusterDownError)
know_errors(MOVED=MovedError, ASK=AskError, CROSSSLOT=ClusterCrossSlotError, CLUSTERDOWN=ClusterDownError)
know_errors(TRYAGAIN=TryAgainError)


def refusal(exc: BaseException) -> str:
    """Return what to say of a command that Redis refuses our user, with the rule of an ACL that is missing."""
    if isinstance(exc, OF_CLUSTER):
        return f"it is a Redis Cluster, and the settings do not say so ({exc}): see docs/brokers/redis.md"
    said = str(exc).rpartition("caused error: ")[2]  # after the whole command, if it was one of several
    found = re.search(r"run the '(\S+)' command", said)
    rule = f"+{found[1]}" if found else "for a key or a channel, `tcb doctor` says which"
    return f"Redis does not let its user do this ({said}); the rule that is missing: {rule}"


def connection_pool(backend: Any, **overrides: Any) -> ConnectionPool:
    """
    Return an asyncio connection pool for *backend*'s server. It connects at first use.

    TLS, user, password, database, Unix socket, credential provider and Sentinels are those of the backend. Nothing is
    retried here: the user of a connection decides what to do when it is lost.

    Args:
        backend: A Redis result backend of a Celery app.
        overrides: Connection settings of redis-py to use instead, such as ``max_connections``.
    """
    params = DRIVER | _settings(backend)
    sentinels = params.pop("hosts", None)
    params["connection_class"] = _asyncio_class(params.get("connection_class"))
    for name in ("socket_connect_timeout", "socket_timeout"):
        params[name] = min(params.get(name) or MAX_TIMEOUT, MAX_TIMEOUT)
    if isinstance(needed := params.get("ssl_cert_reqs"), ssl.VerifyMode):
        params["ssl_cert_reqs"] = _CERT_REQS[needed]
    if slot := slot_of(backend._transport_options, params.get("host"), params.get("port")):
        params |= {"cluster": slot, "connection_class": in_cluster(params["connection_class"])}
    if issubclass(params["connection_class"], redis.asyncio.UnixDomainSocketConnection):
        params.pop("socket_connect_timeout")
    # RESP2, because the messages of a subscriber are then ordinary replies, which are read in order.
    params.update(protocol=2, retry=AsyncioRetry(NoBackoff(), 0), **overrides)
    return ConnectionPool(**params) if sentinels is None else _of_sentinels(backend, sentinels, params)


def blocking_client(backend: Any, *, attempts: int = 0, **overrides: Any) -> redis.Redis:
    """
    Return a client of *backend*'s server for blocking code. It connects at first use.

    Args:
        backend: A Redis result backend of a Celery app.
        attempts: How often a command is tried again after a lost connection, with up to a second in between.
        overrides: Connection settings of redis-py to use instead of Celery's.
    """
    params = _settings(backend) | overrides
    if issubclass(params.get("connection_class", redis.Connection), redis.UnixDomainSocketConnection):
        params.pop("socket_connect_timeout", None)
    lost = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError)  # a server at its maxmemory may have room soon
    params["retry"] = Retry(ExponentialBackoff(cap=1.0, base=0.05), attempts, supported_errors=lost)
    params["retry_on_error"] = list(lost)  # without it, redis-py 5 tries nothing again
    if sentinels := params.pop("hosts", None):
        asked = _sentinel(BlockingSentinel, backend, sentinels, params, Retry(NoBackoff(), 0))
        pool = BlockingSentinelPool(master_of(backend), asked, **params)  # type: ignore[no-untyped-call]
        return redis.Redis(connection_pool=pool)
    return redis.Redis(connection_pool=blocking_pool(backend, params))


def blocking_pool(backend: Any, params: Mapping[str, Any]) -> redis.ConnectionPool:
    """Return a pool of *backend*'s blocking connections with the settings *params*, also to a cluster."""
    slot = slot_of(backend._transport_options, params.get("host"), params.get("port"))
    if slot is not None:
        cls = in_cluster(params.get("connection_class", redis.Connection))
        params = {**params, "connection_class": cls, "cluster": slot}
    pool: redis.ConnectionPool = backend.ConnectionPool(**params)
    return pool


def asked_once(app: Any, timeout: float) -> dict[str, Any]:
    """Return transport options that have a broker that is a Redis, and Sentinels, asked once, for *timeout* seconds."""
    urls = app.conf.broker_read_url or ""
    if not str(urls if isinstance(urls, str) else [*urls, ""][0]).startswith(("redis", "sentinel")):
        return {}
    bounds = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    own = app.conf.broker_transport_options.get("sentinel_kwargs") or {}
    return bounds | {"sentinel_kwargs": bounds | {"retry": Retry(NoBackoff(), 0)} | own}


def _settings(backend: Any) -> dict[str, Any]:
    """Return redis-py's connection settings for *backend*'s server, without retries of its own."""
    params: dict[str, Any] = {key: value for key, value in backend.connparams.items() if value is not None}
    params.pop("retry_on_timeout", None)
    if "path" in params:  # a Unix socket
        params.pop("socket_keepalive", None)
    return params


def _of_sentinels(backend: Any, hosts: list[dict[str, Any]], params: dict[str, Any]) -> ConnectionPool:
    """Return a pool of connections to the server that the Sentinels *hosts* name as the master."""
    sentinel = _sentinel(Sentinel, backend, hosts, params, AsyncioRetry(NoBackoff(), 0))
    params["ssl"] = issubclass(params.pop("connection_class"), redis.asyncio.SSLConnection)
    return _Pool(master_of(backend), sentinel, **params)  # type: ignore[no-untyped-call]


def _sentinel(kind: Any, backend: Any, hosts: list[dict[str, Any]], params: dict[str, Any], retry: Any) -> Any:
    """
    Return a client, of the class *kind*, of the Sentinels *hosts*. Each is asked once.

    Unless *retry* says otherwise, redis-py 6 and later asks each of them four times, which takes seconds.
    """
    options = backend._transport_options
    # Without driver_info, the client would read a file to find it out, on the loop.
    own = {name: params[name] for name in ("socket_connect_timeout", *DRIVER) if name in params}
    own |= {"socket_timeout": min(params.get("socket_timeout") or MAX_TIMEOUT, MAX_TIMEOUT), "retry": retry}
    return kind(
        [(host["host"], host["port"]) for host in hosts],
        min_other_sentinels=options.get("min_other_sentinels", 0),
        sentinel_kwargs=own | options.get("sentinel_kwargs", {}),
    )


class _Pool(SentinelConnectionPool):
    """A pool that also closes the connections to the Sentinels, which redis-py's pool leaves open."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.connection_pool.disconnect(inuse_connections)


def master_of(backend: Any) -> str:
    """
    Return the name of *backend*'s master, by which Sentinels know it.

    Raises:
        ImproperlyConfigured: The settings do not have the name.
    """
    if name := backend._transport_options.get("master_name"):
        return str(name)
    raise ImproperlyConfigured("sentinel:// needs result_backend_transport_options to have a master_name")


class _Packing:
    """
    Packs commands by hiredis, as redis-py's blocking connections do.

    redis-py's asyncio connections pack them in Python: 13 µs for a command of 25 arguments, and not 2.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *arguments = args
        return [hiredis.pack_command((*name.split(), *arguments))]


class _Connection(_Packing, redis.asyncio.Connection):
    pass


class _SSLConnection(_Packing, redis.asyncio.SSLConnection):
    pass


class _UnixDomainSocketConnection(_Packing, redis.asyncio.UnixDomainSocketConnection):
    pass


def _asyncio_class(sync_class: type | None) -> type[redis.asyncio.connection.AbstractConnection]:
    if sync_class is not None and issubclass(sync_class, redis.SSLConnection):
        return _SSLConnection
    if sync_class is not None and issubclass(sync_class, redis.UnixDomainSocketConnection):
        return _UnixDomainSocketConnection
    return _Connection
