"""
The ledger: what is known of a job from before its message is published to long after its end.

A result backend cannot tell a queued task from one that never was. The ledger can: a job's record is written first,
so an id without a record is not a job.

Knows no HTTP. Redis only, whatever the broker is.
"""

import asyncio
import dataclasses
import hashlib
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import redis.asyncio
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ImproperlyConfigured
from kombu.utils.json import dumps as kombu_dumps
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.redis import ConnectionPool, connection_pool, master_of
from tornado_celery_bridge.base.store import Stored
from tornado_celery_bridge.exceptions import WaitersSaturated
from tornado_celery_bridge.ledger import scripts as _scripts
from tornado_celery_bridge.ledger.events import Feed, Follower
from tornado_celery_bridge.ledger.records import (
    FIELDS,
    Acceptance,
    Claim,
    Delivery,
    FailureGroup,
    Gone,
    Job,
    JobRecord,
    LedgerUnavailable,
    Page,
    Reservation,
    Step,
    Workflow,
    WorkflowRecord,
    unpack_traceback,
)

__all__ = ("Ledger", "ledger_backend", "prefix_of")

#: Commands in one round trip. Alone a command costs the loop some 300 µs in redis-py, in company a tenth of it.
MAX_BATCH = 100
#: A deadline is so many waits, one after the other.
SLICES = 20
#: Seconds for which a forgotten job is remembered to have been.
REMEMBERED = 7 * 86_400.0
#: Seconds for which an idempotency key is held, and after which one whose holder does not answer may be taken over.
KEY_TTL = 86_400.0
KEY_LEASE = 5.0
#: Jobs that one step of a sweep forgets, and that one page of a list looks at: some milliseconds of the server's time.
SWEEP_SIZE = 200
LOOKS = 2_000
#: Receivers of callbacks that one claim looks at.
RECEIVER_LOOKS = 200
#: Attempts to call back that are kept of a job.
KEPT_ATTEMPTS = 20

#: Seconds for which a blob that was announced may be on its way into a job: it is stored, and a chain handed on.
BLOB_GRACE = 3_600.0

#: Seconds for which a list of jobs is noted after it was last asked for.
LIST_TTL = 86_400.0

#: Followers of events at once.
MAX_FOLLOWERS = 100_000

#: A command, and where its answer goes.
_Call = tuple[tuple[Any, ...], asyncio.Future[Any]]


class Ledger:
    """
    The jobs in Redis, for one event loop. Never blocks it, and answers or fails within *timeout*.

    Args:
        pool: Connections to Redis; the ledger closes it.
        subscriber_pool: Makes the connection by which it hears of events.
        prefix: Put before every key, to keep deployments in one database apart.
        ttl: Seconds for which a job is kept after its end.
        timeout: Seconds for one call.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        pool: ConnectionPool,
        subscriber_pool: ConnectionPool,
        *,
        prefix: str = "",
        ttl: float = 86_400.0,
        timeout: float = 2.0,
    ) -> None:
        self._redis = redis.asyncio.Redis(connection_pool=pool)
        #: What comes before every key of ours.
        self.prefix = prefix_of(prefix)
        self._ttl = ttl
        self._timeout = timeout
        self._pending: deque[_Call] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._feed = Feed(subscriber_pool, self.prefix, self._run)

    @classmethod
    def of_backend(cls, backend: Any, *, ttl: float = 86_400.0) -> Self:
        """
        Return a ledger in the Redis of a Celery result backend, under the backend's own key prefix.

        Args:
            backend: A Redis result backend; see :func:`ledger_backend`.
            ttl: As for the class.
        """
        options = backend.app.conf.result_backend_transport_options or {}
        subscriber_pool = connection_pool(backend, max_connections=1, socket_timeout=None, health_check_interval=0)
        pool = connection_pool(backend, socket_timeout=None)  # each batch has its deadline
        return cls(pool, subscriber_pool, prefix=options.get("global_keyprefix", ""), ttl=ttl)

    async def close(self) -> None:
        """Close the connections, once the calls under way have ended: each has its timeout."""
        await self._feed.close()
        if self._sender is not None:
            await self._sender
        await self._redis.aclose(close_connection_pool=True)

    # Jobs.

    async def accept(
        self,
        record: JobRecord,
        given: dict[str, Any] | list[Any] | Stored,
        *,
        message: Mapping[str, Any],
        delay: float = 0.0,
        max_unfinished: int | None = None,
        reservation: Reservation | None = None,
        unique: str = "",
    ) -> Acceptance:
        """
        Write down a new job, and what its idempotency key is held by, in one step. From then on it will run: should
        nobody publish it, or should its message be lost, a worker publishes *message*.

        Args:
            record: The job's record.
            given: Its input, or the blob that has it, which is the job's from then on.
            message: The signature of its task, as a mapping.
            delay: Seconds until it is due.
            max_unfinished: How many unfinished jobs its owner may have, this one included; None for any number.
            reservation: Of its idempotency key, if there is one.
            unique: What it is the same job by as another; empty for a job that need not be the only one.

        Raises:
            LedgerUnavailable: It may have been written all the same.
        """
        name, fingerprint = reservation or ("", "")
        answer = await self._run(
            _scripts.ACCEPT,
            *(record.id, record.encode(), _written(given), record.owner, _ms(self._ttl), _ms(delay)),
            *("" if max_unfinished is None else max_unfinished, name, fingerprint, _ms(KEY_TTL), _ms(KEY_LEASE)),
            *(kombu_dumps(message), unique, _callback(record)),
        )
        return Acceptance(answer[0].decode(), *answer[1:])

    async def respond(self, reservation: Reservation, response: bytes) -> None:
        """Keep *response* as the answer to the same request with the same idempotency key."""
        await self.call("HSET", f"{self.prefix}key:{reservation.name}", "response", response)

    async def defer(self, job_id: str, most: int) -> bool:
        """
        Put a job that could not be published into the outbox: a worker publishes it once the broker is back.

        Args:
            job_id: The job's id.
            most: How many jobs may be there.

        Returns:
            Whether it was put there; else it is as it was.
        """
        return bool(await self._run(_scripts.DEFER, job_id, most))

    async def withdraw(self, job_id: str, reservation: Reservation | None = None) -> None:
        """Forget a job that was not published, and let go of its idempotency key."""
        await self._run(_scripts.WITHDRAW, job_id, reservation.name if reservation else "")

    async def get(self, job_id: str) -> Job | Gone | None:
        """Return a job; None for an id that is no job's."""
        found = await self._run(_scripts.READ, job_id, *FIELDS)
        if len(found) < 2:
            return Gone(found[0].decode()) if found else None
        *values, depth, packed = found
        traceback = None if packed is None else unpack_traceback(packed)
        return dataclasses.replace(Job.of_fields(job_id, values), queue_depth=depth, traceback=traceback)

    async def input_of(self, job_id: str) -> bytes | None:
        """
        Return the JSON of a job's exact input; None for a job that is not there.

        Of a large one it is no object and no array, but a string: the name of its blob.
        """
        given: bytes | None = await self.call("GET", f"{self.prefix}input:{job_id}")
        return given

    async def find(
        self,
        *,
        owner: str | None = None,
        task: str | None = None,
        state: str | None = None,
        tags: Sequence[str] = (),
        since: float | None = None,
        dead: bool = False,
        failure: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """
        Return jobs, newest first. A page may have fewer than *limit*, even none, and still not be the last.

        Args:
            owner: Only theirs; None for everybody's.
            task: Only of this task.
            state: Only in this state; STARTED has those in a state of the task's own, too.
            tags: Only with all of these.
            dead: Only those that were given up, as their workers were lost time and again.
            failure: Only those of this group of failures that have not been tried again.
            since: Only those accepted at this time or later, in seconds since 1970.
            limit: At most so many.
            cursor: Of the page before.

        Raises:
            ValueError: No cursor of ours.
        """
        newest, _, after = cursor.partition("~") if cursor else ("+inf", "", "")
        if cursor and not (newest.isascii() and newest.isdigit() and after):
            raise ValueError("not a cursor")
        named = {"owner": owner or None, "task": task, "state": state, "failure": failure}
        indexes = [f"{name}:{value}" for name, value in named.items() if value is not None]
        indexes += [f"tag:{tag}" for tag in tags] + ["dead"] * dead
        oldest = "-inf" if since is None else _ms(since)
        head, *rows = await self._run(
            _scripts.LIST, "", limit, LOOKS, newest, after, oldest, ",".join(FIELDS), *(indexes or ["all"])
        )
        jobs = [Job.of_fields(job_id.decode(), values) for job_id, *values in rows]
        return Page(jobs, f"{head[0].decode()}~{head[1].decode()}" if head else None)

    async def failures(self, owner: str | None = None) -> list[FailureGroup]:
        """
        Return the groups of failed jobs, the one that failed last first; at most 500, none of over 30 days ago.

        Args:
            owner: Only of their jobs; None for everybody's.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        rows = await self._run(_scripts.FAILURES, "", "" if owner is None else "1", owner or "")
        return [FailureGroup.of_row(row) for row in rows]

    async def resolve(self, group_id: str) -> None:
        """
        Forget a group of failures, until a job fails so again. Its jobs stay as they are.

        Raises:
            LedgerUnavailable: It may be forgotten all the same.
        """
        await self._run(_scripts.RESOLVE, group_id)

    # Queues.

    async def pause(self, queue: str) -> None:
        """
        Have no worker take from a queue, whether it runs now or is started later, until :meth:`resume`.

        The workers hear of it within some 2 s. What they have taken already, a few each, they run.

        Raises:
            LedgerUnavailable: It may be paused all the same.
        """
        await self._run(_scripts.PAUSE, "", queue)

    async def resume(self, queue: str) -> None:
        """
        Have the workers take from a queue again that did so before it was paused; errors as :meth:`pause`.
        """
        await self.call("HDEL", f"{self.prefix}paused", queue)

    async def paused(self) -> dict[str, int]:
        """
        Return since when queues are paused, by their names; in milliseconds since 1970, by the server's clock.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        found = await self.call("HGETALL", f"{self.prefix}paused")
        return {name.decode(): int(since) for name, since in found.items()}

    async def purge(self, queue: str, reason: str) -> AsyncGenerator[list[str]]:
        """
        End the jobs of a queue that have not begun, as REVOKED: those that are due, and those that are not yet.

        A job that comes after others in a workflow is not in the queue until these have ended. Jobs that are accepted
        meanwhile stay. Their messages stay, too: see :meth:`.Bridge.purge`.

        Args:
            queue: Its name.
            reason: What is said of each in its error.

        Yields:
            The ids of some hundred that have ended, in each step.

        Raises:
            LedgerUnavailable: Some have ended.
        """
        error = {"type": "TaskRevokedError", "module": "celery.exceptions", "message": reason}
        until = round(time.time() * 1000)
        for state in ("PENDING", "RETRY"):
            cursor = b"0"
            while True:
                cursor, *ids = await self._run(_scripts.PURGE, "", queue, state, cursor, dumps(error), until)
                yield [job_id.decode() for job_id in ids]
                if cursor == b"0":
                    break

    # Jobs, again.

    async def cancel(self, job_id: str, *, unless_begun: bool = False, grace: float | None = None) -> str | None:
        """
        Cancel a job for good: one that has not begun ends here, one that runs is told when it next reports.

        Args:
            job_id: The job's id.
            unless_begun: Leave it alone if it runs.
            grace: Seconds after which its worker ends its process, should it go on; None for never.

        Returns:
            The state that it was in; None for a job that is not there.
        """
        state = await self._run(_scripts.CANCEL, job_id, "1" if unless_begun else "", _ms(grace or 0))
        return None if state is None else state.decode()

    async def sweep(self) -> int:
        """Forget finished jobs whose time is over; return how many. Any number of processes may do this."""
        return int(await self._run(_scripts.SWEEP, "", _ms(REMEMBERED), SWEEP_SIZE))

    async def pace(self, task: str) -> tuple[float | None, float | None]:
        """Return for how many seconds jobs of *task* have of late waited, and run; None where none has yet."""
        found = await self.call("HMGET", f"{self.prefix}pace", f"{task} wait", f"{task} run")
        waited, ran = (None if value is None else int(value) / 1000 for value in found)
        return waited, ran

    # Blobs.

    async def announce(self, blob: str) -> None:
        """Note that a blob is about to be written; one that no job claims is removed after ``BLOB_GRACE`` seconds."""
        await self._run(_scripts.ANNOUNCE, "", _ms(BLOB_GRACE), blob)

    async def disown(self, blob: str) -> None:
        """Have a blob that was announced removed with the next sweep."""
        await self._run(_scripts.ANNOUNCE, "", 0, blob)

    async def claim(self, job_id: str, blob: str) -> None:
        """Have a blob that was announced kept for as long as a job."""
        await self._run(_scripts.CLAIM, job_id, blob)

    async def unclaimed(self) -> list[str]:
        """Return names of blobs that are to be removed from the store, until :meth:`removed` is told of them."""
        return [name.decode() for name in await self._run(_scripts.UNCLAIMED, "", SWEEP_SIZE)]

    async def removed(self, blobs: Sequence[str]) -> None:
        """Note that blobs were removed."""
        await self.call("ZREM", f"{self.prefix}blobs", *blobs)

    # Workflows.

    async def accept_workflow(
        self,
        record: WorkflowRecord,
        steps: Sequence[Step],
        after: Mapping[str, Sequence[str]],
        *,
        message: Mapping[str, Any],
        max_unfinished: int | None = None,
        reservation: Reservation | None = None,
    ) -> Acceptance:
        """
        Write down a workflow and all of its jobs, in one step: for 1,000 jobs some 70 ms of the server's time.

        Args:
            record: The workflow's record.
            steps: Its jobs, in the tree's order, and after them the one that runs on an error.
            after: The ids of the jobs that come after others, by the name that those have as their ``before``.
            message: The signature of all of it, as a mapping.
            max_unfinished: How many unfinished jobs its owner may have, these included; None for any number.
            reservation: Of the idempotency key, if there is one.

        Raises:
            LedgerUnavailable: It may have been written all the same.
        """
        name, fingerprint = reservation or ("", "")
        jobs: list[Any] = []
        for step in steps:
            job, delay = step.record, "" if step.delay is None else _ms(step.delay)
            jobs += (job.id, job.encode(), _written(step.input), delay, step.before or "", _callback(job))
            jobs.append("" if step.message is None else kombu_dumps(step.message))
        answer = await self._run(
            _scripts.ACCEPT_WORKFLOW,
            *(record.id, record.encode(), record.owner, _ms(self._ttl)),
            *("" if max_unfinished is None else max_unfinished, name, fingerprint, _ms(KEY_TTL), _ms(KEY_LEASE)),
            *(dumps(after), kombu_dumps(message), record.on_error or "", *jobs),
        )
        return Acceptance(answer[0].decode(), *answer[1:])

    async def withdraw_workflow(self, workflow_id: str, reservation: Reservation | None = None) -> None:
        """Forget a workflow that was not published, and let go of its idempotency key."""
        await self._run(_scripts.WITHDRAW_WORKFLOW, workflow_id, reservation.name if reservation else "")

    async def workflow(self, workflow_id: str) -> Workflow | Gone | None:
        """Return a workflow and all of its jobs as they are at one moment; None for an id that is no workflow's."""
        found = await self._run(_scripts.READ_WORKFLOW, workflow_id, *FIELDS)
        if len(found) < 2:
            return Gone(found[0].decode()) if found else None
        stored, cancelled, *rows = found
        record = WorkflowRecord.decode(stored)
        jobs = [Job.of_fields(job_id.decode(), values) for job_id, *values in rows]
        return Workflow(record, {job.record.id: job for job in jobs}, bool(cancelled))

    async def cancel_workflow(
        self, workflow_id: str, ids: Sequence[str], *, whole: bool, grace: float | None = None
    ) -> None:
        """
        Cancel jobs of a workflow for good, in one step, as :meth:`cancel` does each.

        Args:
            workflow_id: The workflow's id.
            ids: Of the jobs, in the tree's order.
            whole: Whether they are all of it.
            grace: As for :meth:`cancel`.
        """
        await self._run(_scripts.CANCEL_WORKFLOW, workflow_id, "1" if whole else "", _ms(grace or 0), *ids)

    # Callbacks.

    async def claim_callbacks(
        self, most: int, *, share: int, lease: float, under_way: Mapping[str, int]
    ) -> list[Claim]:
        """
        Return ended jobs that are to call back now, which nobody else has for *lease* seconds.

        Args:
            most: At most so many.
            share: At most so many of one receiver's, those under way included.
            lease: Seconds; one that was not settled by then may be claimed again.
            under_way: How many there are already, by receiver.
        """
        counts = [each for pair in under_way.items() for each in pair]
        rows = await self._run(_scripts.CLAIM_CALLBACKS, "", most, share, _ms(lease), RECEIVER_LOOKS, *counts)
        claims = []
        for row in rows:
            job_id, callback, tries, until = (value.decode() for value in row)
            delivery_id, _, receiver = callback.partition(" ")
            claims.append(Claim(job_id, delivery_id, receiver, int(tries), until))
        return claims

    async def settle_callback(
        self, claim: Claim, attempt: Mapping[str, Any], state: str, next_in: float | None = None
    ) -> None:
        """
        Note what came of an attempt.

        Args:
            claim: Under which it was made.
            attempt: As :attr:`Delivery.attempts` has it.
            state: Of the delivery: waiting, delivered or failed.
            next_in: Seconds until the next attempt of one that waits.
        """
        delay = "" if next_in is None else _ms(next_in)
        await self._run(_scripts.SETTLE, claim.job_id, claim.lease, dumps(attempt), KEPT_ATTEMPTS, state, delay)

    async def delivery(self, job_id: str) -> Delivery | None:
        """Return how it stands with a job's callback; None for one that has not ended, or has none."""
        found = await self._run(_scripts.DELIVERY, job_id)
        if not found:
            return None
        callback, state, due, *attempts = (value.decode() for value in found)
        next_attempt = int(due) if due else None
        return Delivery(callback.partition(" ")[0], state, [json.loads(each) for each in attempts], next_attempt)

    async def replay_callback(self, job_id: str) -> None:
        """Have an ended job call back again, now; nothing comes of it if there is no delivery."""
        await self._run(_scripts.REPLAY, job_id)

    # Events.

    def follow(self, job_id: str, after: int = 0) -> Follower:
        """
        Return an async iterator of a job's events that come after number *after*, up to its end; close it.

        For a job that is there; or a workflow, which has one event, its end. Events that are no longer kept are stood
        for by one ``snapshot``.

        Raises:
            WaitersSaturated: Too many follow already.
        """
        if self._feed.following >= MAX_FOLLOWERS:
            raise WaitersSaturated("too many follow jobs", task_id=job_id, retry_after=1.0)
        return self._feed.follow(job_id, after)

    async def note(self, ids: Sequence[str]) -> str:
        """Note a list of jobs for ``LIST_TTL`` seconds; return its name, which is the same for the same list."""
        text = ",".join(ids)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        await self.call("SET", f"{self.prefix}list:{name}", text, "PX", _ms(LIST_TTL))
        return name

    async def noted(self, name: str) -> list[str] | None:
        """Return the list of jobs that has this name; None if there is none."""
        text: bytes | None = await self.call("GETEX", f"{self.prefix}list:{name}", "PX", _ms(LIST_TTL))
        return None if text is None else text.decode().split(",")

    @property
    def following(self) -> int:
        """How many follow events now."""
        return self._feed.following

    # Calls.

    async def ping(self) -> None:
        """Return if the ledger answers now."""
        await self.call("PING")

    async def run(self, script: str, *args: Any) -> Any:
        """
        Run a script that takes the prefix and *args*; return its answer.

        Raises:
            LedgerUnavailable: There was none in time.
        """
        return await self._run(script, *args)

    async def _run(self, script: str, *args: Any) -> Any:
        try:
            return await self._call("EVALSHA", _sha(script), 0, self.prefix, *args)
        except NoScriptError:
            return await self.call("EVAL", script, 0, self.prefix, *args)
        except (RedisError, OSError) as exc:
            raise _unavailable(exc) from exc

    async def call(self, *command: Any) -> Any:
        """
        Send a command together with those of all other callers that wait now; return its answer.

        Raises:
            LedgerUnavailable: There was none in time.
        """
        try:
            return await self._call(*command)
        except (RedisError, OSError) as exc:
            raise _unavailable(exc) from exc

    async def _call(self, *command: Any) -> Any:
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
        # In slices, and with no timeout of redis-py's: a loop that has too much to do hears late of an answer that is
        # there, and of a timeout first. With it every slice is late, and so is the deadline.
        for _ in range(SLICES):
            done, _ = await asyncio.wait((task,), timeout=self._timeout / SLICES)
            if done:
                break
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


def ledger_backend(app: Any) -> RedisBackend:
    """
    Return the Redis backend, used for nothing but its connection settings, where *app*'s ledger is.

    That is ``job_ledger_url`` of the app's settings, spelt as Celery spells ``result_backend``, or else the result
    backend itself. By Sentinels (``sentinel://``) it is the master that ``result_backend_transport_options`` names.

    Raises:
        ImproperlyConfigured: It is no Redis, or it is not known which master.
    """
    url = app.conf.get("job_ledger_url") or app.conf.result_backend or ""
    if url.startswith("sentinel://"):
        made = SentinelBackend(app=app, url=url)
        master_of(made)
        return made
    if not url.startswith(("redis://", "rediss://", "redis+socket://", "socket://")):
        raise ImproperlyConfigured("the job ledger lives in Redis: set job_ledger_url, or a Redis result_backend")
    return RedisBackend(app=app, url=url.removeprefix("redis+"))


def prefix_of(global_keyprefix: str) -> str:
    """Return what comes before every key of the ledger."""
    return f"{global_keyprefix}tcb:"


def _callback(record: JobRecord) -> str:
    """Return what the scripts know a job's callback by: an id that is no other job's, and its receiver."""
    url = record.callback_url
    return f"msg_{uuid.uuid4().hex} {urlsplit(url).netloc.lower()}" if url else ""


def _written(given: dict[str, Any] | list[Any] | Stored) -> str:
    return dumps(given.name if isinstance(given, Stored) else given)


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _unavailable(exc: Exception) -> LedgerUnavailable:
    return LedgerUnavailable(f"the job ledger is not reachable: {exc}", retry_after=1.0)
