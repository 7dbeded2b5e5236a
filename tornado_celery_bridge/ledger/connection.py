"""How the ledger's Redis is reached: by :class:`Connection` from an event loop, else by :class:`BlockingConnection`."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import redis
import redis.asyncio
from celery import Celery
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured
from redis.exceptions import DataError, NoPermissionError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tornado_celery_bridge.base.cluster import Moved, slot_of
from tornado_celery_bridge.base.lua import Call, sha_of
from tornado_celery_bridge.base.redis import OF_CLUSTER, ConnectionPool, blocking_client, master_of, refusal
from tornado_celery_bridge.ledger.records import LedgerUnavailable
from tornado_celery_bridge.ledger.schema import AnotherSchema, recognized

R = TypeVar("R")

#: Commands in one round trip. Alone a command costs the loop some 300 µs in redis-py, in company a tenth of it.
MAX_BATCH = 100
#: A deadline is so many waits, one after the other.
SLICES = 20
#: What an argument raises that can't be encoded: half of a surrogate pair, an object.
UNENCODABLE = (UnicodeError, TypeError, DataError)

#: A command, and where its answer goes.
_Pending = tuple[tuple[Any, ...], asyncio.Future[Any]]


class Connection:
    """
    The ledger's Redis, for one event loop. Never blocks the loop, and answers or fails within *timeout*.

    Args:
        pool: Connections to Redis; they are closed with this one.
        prefix: What comes before every key.
        timeout: Seconds for one call.

    .. versionadded:: 0.1.0
    """

    def __init__(self, pool: ConnectionPool, *, prefix: str, timeout: float = 2.0) -> None:
        self.client = redis.asyncio.Redis(connection_pool=pool)
        #: What comes before every key of ours.
        self.prefix = prefix
        self._timeout = timeout
        self._pending: deque[_Pending] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close the connections, once the calls under way have ended: each has its timeout."""
        if self._sender is not None:
            await self._sender
        await self.client.aclose(close_connection_pool=True)

    async def run(self, call: Call[R]) -> R:
        """
        Run a command of :mod:`.calls`.

        Raises:
            LedgerUnavailable: There was no answer in time; the command may have been run.
        """
        arguments = call.arguments(self.prefix)
        try:
            answer = await self._send("EVALSHA", sha_of(call.command.text), *arguments)
        except NoScriptError:
            answer = await self.call("EVAL", call.command.text, *arguments)
        except (RedisError, OSError) as exc:
            raise _unavailable(exc) from exc
        return call.command.answer(answer)

    async def call(self, *command: Any) -> Any:
        """
        Send a command of Redis' own, together with those of all other callers that wait now; return its answer.

        Raises:
            LedgerUnavailable: There was no answer in time; the command may have been run.
        """
        try:
            return await self._send(*command)
        except (RedisError, OSError) as exc:
            raise _unavailable(exc) from exc

    async def _send(self, *command: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._pending.append((command, answer))
        if self._sender is None:
            self._sender = asyncio.ensure_future(self._send_all())
        return await answer

    async def _send_all(self) -> None:
        """Send what is pending until nothing is; while one batch is under way the next one gathers."""
        try:
            while self._pending:
                batch = [self._pending.popleft() for _ in range(min(len(self._pending), MAX_BATCH))]
                await self._send_batch([(command, answer) for command, answer in batch if not answer.done()])
        finally:
            self._sender = None

    async def _send_batch(self, batch: list[_Pending]) -> None:
        """
        Send a batch and hand out its answers.

        The deadline is the batch's, not each call's. If a batch is not answered, those who wait behind it would not be
        answered either, so they fail with it. With a deadline for each call, 2,000 calls at once failed before they
        were sent: they keep the loop busy for longer than that.
        """
        answers = asyncio.ensure_future(self._execute(batch))
        # In slices, and with no timeout of redis-py's. A loop that has too much to do learns late of an answer that
        # has come, and of a timeout first. With slices the deadline is late as well.
        for _ in range(SLICES):
            done, _ = await asyncio.wait((answers,), timeout=self._timeout / SLICES)
            if done:
                break
        if not done:
            answers.cancel()
            answers.add_done_callback(lambda late: late.cancelled() or late.exception())
            batch = [*batch, *self._pending]
            self._pending.clear()
        for number, (_, answer) in enumerate(batch):
            if answer.done():
                continue
            result = answers.result()[number] if done else RedisTimeoutError("no answer in time")
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    async def _execute(self, batch: list[_Pending], *, again: bool = True) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for command, _ in batch:
            pipeline.execute_command(*command)
        try:
            return await pipeline.execute(raise_on_error=False)
        except UNENCODABLE as exc:  # nothing was sent: all commands are encoded first
            return [exc] if len(batch) == 1 else [(await self._execute([each]))[0] for each in batch]
        except Moved as exc:  # nothing was done, and the next connection is to the server that has the keys now
            return await self._execute(batch, again=False) if again else [exc] * len(batch)
        except Exception as exc:  # each caller gets it
            return [exc] * len(batch)


class BlockingConnection:
    """
    The ledger's Redis, for blocking code; connects at first use. Its errors are redis-py's.

    Args:
        app: Whose ledger it is.
        attempts: How often a lost connection is tried again, up to a second apart.
        overrides: Connection settings of redis-py to use instead of Celery's.
    """

    def __init__(self, app: Celery, *, attempts: int = 0, **overrides: Any) -> None:
        self.client: redis.Redis = blocking_client(ledger_backend(app), attempts=attempts, **overrides)
        #: What comes before every key of ours.
        self.prefix = prefix_of(app)

    def run(self, call: Call[R]) -> R:
        """
        Run a command of :mod:`.calls`.

        Raises:
            AnotherSchema: The ledger is another version's; nothing was done.
        """
        arguments = call.arguments(self.prefix)
        try:
            try:
                return call.command.answer(self.client.evalsha(sha_of(call.command.text), *arguments))
            except NoScriptError:
                return call.command.answer(self.client.eval(call.command.text, *arguments))
        except ResponseError as exc:
            raise recognized(exc) from exc

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Run commands in one round trip, in no particular order; return their answers, or their errors."""
        pipeline = self.client.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(sha_of(call.command.text), *call.arguments(self.prefix))
        try:
            answers = pipeline.execute(raise_on_error=False)
        except UNENCODABLE as exc:  # nothing was sent
            return [exc] if len(calls) == 1 else [self.run_all([call])[0] for call in calls]
        return [self._answer(*each) for each in zip(calls, answers, strict=True)]

    def _answer(self, call: Call[Any], answer: Any) -> Any:
        try:
            if isinstance(answer, NoScriptError):
                return self.run(call)
            return recognized(answer) if isinstance(answer, Exception) else call.command.answer(answer)
        except RedisError as exc:
            return exc


class Subject:
    """
    A part of the ledger, for one event loop.

    Every call of it raises :exc:`LedgerUnavailable` if Redis does not answer in time. A change may have been made then.
    """

    def __init__(self, redis: Connection) -> None:
        self._redis = redis


def ledger_backend(app: Any) -> RedisBackend:
    """
    Return the Redis backend, used for nothing but its connection settings, where *app*'s ledger is.

    That is ``job_ledger_url`` of the app's settings, spelt as Celery spells ``result_backend``, or else the result
    backend itself. By Sentinels (``sentinel://``) it is the master that ``result_backend_transport_options`` names;
    whether it is a Redis Cluster, they say as well.

    Raises:
        ImproperlyConfigured: It is no Redis, it is not known which master, or a cluster's keys have no hash tag.
    """
    url = app.conf.get("job_ledger_url") or app.conf.result_backend or ""
    if url.startswith("sentinel://"):
        made = SentinelBackend(app=app, url=url)
        master_of(made)
        return made
    if not url.startswith(("redis://", "rediss://", "redis+socket://", "socket://")):
        raise ImproperlyConfigured("the job ledger lives in Redis: set job_ledger_url, or a Redis result_backend")
    slot_of(app.conf.result_backend_transport_options or {}, None, None)
    return RedisBackend(app=app, url=url.removeprefix("redis+"))


def ms(seconds: float) -> int:
    """Return *seconds* in milliseconds."""
    return round(seconds * 1000)


def prefix_of(app: Celery) -> str:
    """Return what comes before every key of *app*'s ledger."""
    options = app.conf.result_backend_transport_options or {}
    return f"{options.get('global_keyprefix', '')}{{tcb}}"


def _unavailable(exc: Exception) -> LedgerUnavailable:
    known = recognized(exc)
    if isinstance(known, AnotherSchema):
        told = str(known)
    elif isinstance(exc, (NoPermissionError, *OF_CLUSTER)) or "ACL failure" in str(exc):  # the last: inside of a script
        told = f"the job ledger: {refusal(exc)}"
    else:
        told = f"the job ledger is not reachable: {exc}"
    return LedgerUnavailable(told, retry_after=1.0)
