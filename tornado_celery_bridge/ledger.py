"""
The ledger: what is known of a job from before its message is published.

A result backend cannot tell a queued task from one that never was. The ledger can: a job's record is written first,
so an id without a record is not a job.

Knows no HTTP. Redis only, whatever the broker is.
"""

import asyncio
import dataclasses
import json
from collections import deque
from typing import Any, Self

import redis.asyncio
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tornado_celery_bridge._redis import ConnectionPool, connection_pool
from tornado_celery_bridge.exceptions import BridgeError

__all__ = ("JobRecord", "Ledger", "LedgerUnavailable")

#: Commands in one round trip. Alone a command costs the loop some 300 µs in redis-py, in company a tenth of it.
MAX_BATCH = 100

#: A command, and where its answer goes.
_Call = tuple[tuple[Any, ...], asyncio.Future[Any]]


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
    #: Whose job it is; "" is nobody's.
    owner: str = ""

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
        #: What comes before every key of ours.
        self.prefix = prefix
        self._ttl = ttl
        self._timeout = timeout
        self._pending: deque[_Call] = deque()
        self._sender: asyncio.Task[None] | None = None

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
        await self.call("SET", self._key(record.id), record.encode(), "PX", lifetime, "NX")

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job's record; None for an id that is no job's, or whose record has expired."""
        stored = await self.call("GET", self._key(job_id))
        return None if stored is None else JobRecord.decode(stored)

    async def remove(self, job_id: str) -> None:
        """Remove the record of a job that was not accepted."""
        await self.call("DEL", self._key(job_id))

    async def ping(self) -> None:
        """Return if the ledger answers now."""
        await self.call("PING")

    async def close(self) -> None:
        """Close the connection, once the calls under way have ended."""
        if self._sender is not None:
            await self._sender
        await self._redis.aclose(close_connection_pool=True)

    def _key(self, job_id: str) -> str:
        return f"{self.prefix}tcb:job:{job_id}"

    async def call(self, *command: Any) -> Any:
        """
        Send a command together with those of all other callers that wait now; return its answer.

        Raises:
            LedgerUnavailable: It may have been carried out all the same.
        """
        answer = asyncio.get_running_loop().create_future()
        self._pending.append((command, answer))
        if self._sender is None:
            self._sender = asyncio.ensure_future(self._send_all())
        try:
            return await answer
        except (RedisError, OSError) as exc:
            raise LedgerUnavailable(f"the job ledger is not reachable: {exc}", retry_after=1.0) from exc

    async def _send_all(self) -> None:
        """Send what is pending until nothing is; while one batch is under way the next one gathers."""
        try:
            while self._pending:
                batch = [self._pending.popleft() for _ in range(min(len(self._pending), MAX_BATCH))]
                await self._send([(command, answer) for command, answer in batch if not answer.done()])
        finally:
            self._sender = None

    async def _send(self, batch: list[_Call]) -> None:
        """
        Send a batch and hand out its answers.

        There is one deadline for the batch and none for each call: who waits behind a batch that is not answered
        would not be answered either, so it fails with it. Two thousand calls at once keep the loop busy for longer
        than a deadline, and with one each they all failed before they were sent.
        """
        task = asyncio.ensure_future(self._execute(batch))
        # Not asyncio.timeout: redis-py loses a cancellation that comes together with one of its own timeouts, and
        # goes on. Seen with 40 calls on a frozen server, of which 5 took twice as long.
        done, _ = await asyncio.wait((task,), timeout=self._timeout)
        if not done:
            task.cancel()
            task.add_done_callback(lambda late: late.cancelled() or late.exception())
            batch = [*batch, *self._pending]
            self._pending.clear()
        for number, (_, answer) in enumerate(batch):
            if answer.done():
                continue
            result = task.result()[number] if done else RedisTimeoutError("no answer in time")
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    async def _execute(self, batch: list[_Call]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command, _ in batch:
            pipeline.execute_command(*command)
        try:
            return await pipeline.execute(raise_on_error=False)
        except Exception as exc:  # each caller gets it
            return [exc] * len(batch)
