"""
Redis Cluster, and Valkey's cluster mode: connections to the server that has a deployment's keys, wherever that is.

The servers of a cluster share 16,384 slots. A key's slot follows from the part of it in braces, its hash tag. All keys
of a deployment have one tag, that of their ``global_keyprefix``. So they are in one slot, one server has them all, and
scripts, transactions, pipelines and commands that block work as on a server alone. Only where it is may change.

So a connection asks where it is, each time that it is made, one of the servers that are known. A server that has the
keys no more says so: that is :class:`Moved`, the loss of a connection before anything was done. Whoever uses a
connection that is lost makes another, as with one server. Channels need no slot: a cluster hands on what is published
to all of its servers. Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
import redis.asyncio
from celery.exceptions import ImproperlyConfigured
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

#: Seconds that a server has to say where the slot is: another one is asked then.
PATIENCE = 1.0
#: The port of a server that is named without one.
PORT = 6379
#: What is said by a server that has the slot no more, or not yet. Nothing was done.
_ELSEWHERE = (MovedError, AskError, TryAgainError, ClusterDownError, ReadOnlyError)
#: Of a connection's settings, those that the question needs as well.
_ASKING = ("username", "password", "credential_provider", "driver_info")

Address = tuple[str, int]


class Moved(RedisConnectionError):
    """The server does not have the keys, or no more. Nothing was done."""


class NoServer(RedisConnectionError):
    """No server of the cluster has the keys."""


class Slot:
    """
    The slot of a deployment's keys, and the servers of its cluster as they were last told.

    Args:
        servers: Some of the cluster's servers.
        prefix: What all keys begin with.

    Raises:
        ImproperlyConfigured: The prefix has no hash tag.
    """

    def __init__(self, servers: Sequence[Address], prefix: str) -> None:
        _, brace, after = prefix.partition("{")
        if not brace or "}" not in after[1:]:
            raise ImproperlyConfigured(
                f"in a Redis Cluster all keys need one hash tag: global_keyprefix is {prefix!r}, and not such as "
                "'{tcb}.', in the transport options of broker and result backend"
            )
        self.number = key_slot(prefix.encode())
        self._known: dict[Address, None] = dict.fromkeys(servers)  # in the order in which they are asked
        #: The server that had the slot when it was last asked.
        self.owner: Address | None = None

    def known(self) -> Iterator[Address]:
        """Yield the servers to ask: those that did not answer come last."""
        for address in tuple(self._known):
            yield address
            self.doubt(address)

    def doubt(self, address: Address | None = None) -> None:
        """Ask a server last from now on; without an address, that which is asked first."""
        address = address or next(iter(self._known))
        self._known.pop(address, None)
        self._known[address] = None

    def server_in(self, told: Any, asked: str) -> Address:
        """
        Return the server that has the slot, as CLUSTER SLOTS has it.

        Raises:
            NoServer: None has it.
        """
        found = None
        for first, last, *servers in told:
            addresses = [(_text(host) or asked, int(port)) for host, port, *_ in servers]
            self._known.update(dict.fromkeys(addresses))
            if first <= self.number <= last and found is None:
                found = addresses[0]
        if found is None:
            raise NoServer(f"the slot {self.number} is served by no server of the cluster")
        self.owner = found
        return found


def _text(host: Any) -> str:
    text = host.decode() if isinstance(host, bytes) else str(host or "")
    return "" if text == "?" else text


def slot_of(options: Mapping[str, Any], host: Any, port: Any) -> Slot | None:
    """
    Return the slot of transport options that say ``cluster``; None for others.

    Args:
        options: ``cluster`` is a list of some of the cluster's servers, as in ``["host:6379"]``.
        host: Of the server that the URL names.
        port: Of that server.

    Raises:
        ImproperlyConfigured: ``global_keyprefix`` has no hash tag.
    """
    if not options.get("cluster"):
        return None
    named = [each.rpartition(":") for each in options["cluster"]]
    servers = (str(host or "127.0.0.1"), int(port or PORT)), *((name, int(number)) for name, _, number in named)
    return _slot(servers, options.get("global_keyprefix") or "")


#: One for all connections of a process, so that they know what others have learned.
_slot = functools.cache(Slot)


def in_cluster(cls: type[Any]) -> type[Any]:
    """Return a class of redis-py's connections, blocking or not, for those whose argument ``cluster`` is a `Slot`."""
    kinds: tuple[type[Any], type[Any]]
    mixed: type[Any]
    if issubclass(cls, redis.asyncio.Connection):
        kinds, mixed = (redis.asyncio.Connection, redis.asyncio.SSLConnection), AsyncioInCluster
    else:
        kinds, mixed = (redis.Connection, redis.SSLConnection), InCluster
    return type(f"{cls.__name__}InCluster", (mixed, cls), {"_asks": kinds[issubclass(cls, kinds[1])]})


class InCluster:
    """Mixed into a class of redis-py's blocking connections: it is to the server that has the slot *cluster*."""

    host: str
    port: int
    _asks: Any = redis.Connection

    def __init__(self, *args: Any, cluster: Slot, **kwargs: Any) -> None:
        self._slot, self._asking = cluster, _asking(kwargs)
        super().__init__(*args, **kwargs)

    def _connect(self) -> Any:
        self.host, self.port = self._find()
        return super()._connect()  # type: ignore[misc]

    def _find(self) -> Address:
        trouble: Exception = NoServer("no server of the cluster is known")
        for host, port in self._slot.known():
            asking = self._asks(host=host, port=port, **self._asking)
            try:
                asking.connect()
                asking.send_command("CLUSTER", "SLOTS")
                return self._slot.server_in(asking.read_response(), host)
            except (RedisError, OSError) as exc:
                trouble = exc
            finally:
                asking.disconnect()
        raise trouble

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as exc:
            if (moved := _moved(exc)) is None:
                raise
            self._slot.doubt()
            self.disconnect()  # type: ignore[attr-defined]
            raise moved from exc


class AsyncioInCluster:
    """The same for asyncio's connections."""

    host: str
    port: int

    @property
    def is_elsewhere(self) -> bool:
        """Whether another server has the keys by now: what is published there would come by way of two servers."""
        return self._slot.owner not in (None, (self.host, self.port))

    _asks: Any = redis.asyncio.Connection

    def __init__(self, *args: Any, cluster: Slot, **kwargs: Any) -> None:
        self._slot, self._asking = cluster, _asking(kwargs)
        super().__init__(*args, **kwargs)

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[misc]

    async def _find(self) -> Address:
        trouble: Exception = NoServer("no server of the cluster is known")
        for host, port in self._slot.known():
            asking = self._asks(host=host, port=port, **self._asking)
            try:
                await asking.connect()
                await asking.send_command("CLUSTER", "SLOTS")
                return self._slot.server_in(await asking.read_response(), host)
            except (RedisError, OSError) as exc:
                trouble = exc
            finally:
                await asking.disconnect(nowait=True)
        raise trouble

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as exc:
            if (moved := _moved(exc)) is None:
                raise
            self._slot.doubt()
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise moved from exc


def _asking(arguments: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in arguments.items() if name in _ASKING or name.startswith("ssl_")}
    return {**kept, "socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}


def _moved(exc: ResponseError) -> Moved | None:
    if isinstance(exc, _ELSEWHERE) or "access a non local key" in str(exc):  # the latter: of a script
        return Moved(f"this server of the cluster does not serve the keys: {exc}")
    return None
