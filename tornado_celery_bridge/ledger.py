"""
The ledger: what is known of a job from before its message is published.

A result backend cannot tell a queued task from one that never was. The ledger can: a job's record is written first,
so an id without a record is not a job.

Knows no HTTP. Redis only, whatever the broker is.
"""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import redis.asyncio
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured
from redis.exceptions import RedisError

from tornado_celery_bridge._redis import ConnectionPool, connection_pool
from tornado_celery_bridge.exceptions import BridgeError

__all__ = ("JobRecord", "Ledger", "LedgerUnavailable")

T = TypeVar("T")

#: Commands under way at once, each on a connection of its own; a command takes some 100 µs of Redis.
MAX_CONNECTIONS = 32


class LedgerUnavailable(BridgeError):
    """
    The ledger's Redis did not answer, or refused, in time. Nothing was accepted: try again later.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """
    A job as it was asked for. Times are RFC 3339 in UTC.

    .. versionadded:: 0.1.0
    """

    #: The Celery task's id.
    id: str
    #: The task's name.
    task: str
    #: Exactly what was sent: named or positional arguments.
    input: dict[str, Any] | list[Any]
    #: The options that were sent, but for tags.
    options: dict[str, Any]
    tags: list[str]
    queue: str
    #: 0 to 9, 9 the most urgent; None leaves it to the broker.
    priority: int | None
    created_at: str
    #: When it is due, if that was not at once.
    eta: str | None

    def encode(self) -> bytes:
        """Return the record as it is stored."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, stored: bytes | str) -> Self:
        """Return the record that was stored; fields of a later version are left out."""
        fields = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in json.loads(stored).items() if name in fields})


class Ledger:
    """
    Job records in Redis, for one event loop. Never blocks it, and answers or fails within *timeout*.

    Args:
        pool: Connections to Redis; the ledger closes it.
        prefix: Put before every key, to keep deployments in one database apart.
        ttl: Seconds for which a record is kept after the job is due.
        timeout: Seconds for one call.

    .. versionadded:: 0.1.0
    """

    def __init__(self, pool: ConnectionPool, *, prefix: str = "", ttl: float = 86_400.0, timeout: float = 2.0) -> None:
        self._redis = redis.asyncio.Redis(connection_pool=pool)
        self._prefix = f"{prefix}tcb:job:"
        self._ttl = ttl
        self._timeout = timeout
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    @classmethod
    def of_backend(cls, backend: Any, *, ttl: float = 86_400.0) -> Self:
        """
        Return a ledger in the Redis of a Celery result backend, under the backend's own key prefix.

        Args:
            backend: A Redis result backend.
            ttl: As for the class.

        Raises:
            ImproperlyConfigured: *backend* is another kind of backend.
        """
        if not isinstance(backend, RedisBackend) or isinstance(backend, SentinelBackend):
            raise ImproperlyConfigured("the job ledger lives in Redis: set REDIS_URL, or a Redis result backend")
        options = backend.app.conf.result_backend_transport_options or {}  # type: ignore[attr-defined]
        return cls(connection_pool(backend), prefix=options.get("global_keyprefix", ""), ttl=ttl)

    async def add(self, record: JobRecord, *, delay: float = 0.0) -> None:
        """
        Write a new job's record.

        Args:
            record: The record; its id must be new.
            delay: Seconds until the job is due.

        Raises:
            LedgerUnavailable: It may have been written all the same; it expires by itself.
        """
        lifetime = max(1, round((self._ttl + delay) * 1000))
        await self._call(lambda: self._redis.set(self._key(record.id), record.encode(), px=lifetime, nx=True))

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job's record; None for an id that is no job's, or whose record has expired."""
        stored = await self._call(lambda: self._redis.get(self._key(job_id)))
        return None if stored is None else JobRecord.decode(stored)

    async def remove(self, job_id: str) -> None:
        """Remove the record of a job that was not accepted."""
        await self._call(lambda: self._redis.delete(self._key(job_id)))

    async def ping(self) -> None:
        """Return if the ledger answers now."""
        await self._call(lambda: self._redis.ping())

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose(close_connection_pool=True)

    def _key(self, job_id: str) -> str:
        return self._prefix + job_id

    async def _call(self, command: Callable[[], Awaitable[T]]) -> T:
        # Not asyncio.timeout: when it fires together with one of redis-py's own timeouts, redis-py loses the
        # cancellation and goes on. Seen with 40 calls on a frozen server: 5 of them took twice as long.
        task = asyncio.ensure_future(self._run(command))
        try:
            done, _ = await asyncio.wait((task,), timeout=self._timeout)
        finally:
            task.cancel()
        if not done:
            task.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise LedgerUnavailable("the job ledger is not reachable: no answer in time", retry_after=1.0)
        try:
            return task.result()
        except (RedisError, OSError) as exc:
            raise LedgerUnavailable(f"the job ledger is not reachable: {exc}", retry_after=1.0) from exc

    async def _run(self, command: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            return await command()
