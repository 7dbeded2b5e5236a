"""The ledger, as blocking code uses it: a worker, and beat."""

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from celery import Celery, states
from redis.exceptions import RedisError

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.lua import Call
from tornado_celery_bridge.base.store import Stored
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.blobs import BLOB_GRACE
from tornado_celery_bridge.ledger.connection import BlockingConnection, ms
from tornado_celery_bridge.ledger.jobs import REMEMBERED, SWEEP_SIZE
from tornado_celery_bridge.ledger.monitor import WorkerState, worker_states
from tornado_celery_bridge.ledger.records import pack_traceback

log = logging.getLogger(__name__)

#: How often Redis is tried for what must not be lost, up to 1 s apart: this outlasts a restart of Redis.
ATTEMPTS = 30
#: Characters of an exception's message, and of its name, that are kept in a group of failures.
MAX_DETAIL, MAX_NAME = 300, 200
#: Characters of the traceback of an attempt that was retried: its last ones.
MAX_PAST_TRACEBACK = 2_000
#: The priority of a message that has the one that its job had before.
KEPT = -1


class Limit(NamedTuple):
    """A task's limit, over all workers, as its code has it. What is set at run time comes before it."""

    #: The value by which its jobs are counted; empty for all together.
    key: str = ""
    #: How many of them may run at once; None for any number.
    most: int | None = None
    #: Seconds between the beginnings of two of them; None for no such limit.
    interval: float | None = None


#: Of a task whose code has none.
NO_LIMIT = Limit()


class ResultEntry(NamedTuple):
    """A task's state, as Celery's Redis result backend stores it, and publishes it to who waits for the result."""

    key: bytes | str
    value: bytes | str
    #: Seconds for which it is kept; 0 for ever.
    seconds: int


_NO_ENTRY = ResultEntry("", "", 0)


def ending(
    task_id: str,
    state: str,
    value: Any,
    token: str = "",
    *,
    traceback: str | None = None,
    place: str = "",
    traceparent: str = "",
    result_entry: ResultEntry = _NO_ENTRY,
) -> Call[bool]:
    """
    Return the call that ends a job.

    Args:
        task_id: The task's id.
        state: SUCCESS, FAILURE or REVOKED.
        value: What it returned; else the error, as ``Job.error`` has it.
        token: Of the attempt that says so; empty where it is somebody else.
        traceback: Of a failure, as text.
        place: Where in the code it failed, if that is known.
        traceparent: Of the span in which it ran.
        result_entry: What to write for Celery's result backend in the same step.
    """
    is_blob, failed = isinstance(value, Stored), state == states.FAILURE
    exception, detail, place_text = _texts(value, place) if failed else (b"", b"", b"")
    return calls.finish(
        job_id=task_id,
        state=state,
        value=dumps(value.encode() if is_blob else value),
        stored=is_blob,
        token=token,
        traceback=pack_traceback(traceback) if traceback and failed else b"",
        traceparent=traceparent,
        result_key=result_entry.key,
        result=result_entry.value,
        result_ttl=result_entry.seconds,
        exception=exception,
        detail=detail,
        place=place_text,
    )


class WorkerLedger:
    """
    The ledger, for blocking code; connects at first use.

    Args:
        app: Whose ledger it is.
    """

    def __init__(self, app: Celery) -> None:
        #: For what must not be lost, and for what is tried once.
        self._sure, self._once = BlockingConnection(app, attempts=ATTEMPTS), BlockingConnection(app)
        #: How calls about a task that runs are made: those that must not be lost, and those that its code need not wait
        #: for. A pool that runs tasks on a loop makes them elsewhere.
        self.make: Callable[[Call[Any]], Any] = self._sure.run
        self.tell: Callable[[Call[Any]], Any] = self._once.run

    # A task that runs.

    def start(
        self,
        task_id: str,
        task: str,
        token: str,
        *,
        worker: str,
        after: str = "",
        replaced: int = 0,
        retries: int = 0,
        limit: Limit = NO_LIMIT,
        redelivered: bool = False,
        most_begun: int = 0,
        version: str = "",
        result_entry: ResultEntry = _NO_ENTRY,
    ) -> str:
        """Note that a task begins. Return ``go``, ``unknown`` (no job: it may run) or why it must not run."""
        key, most, interval = limit
        call = calls.start(
            job_id=task_id,
            task=task,
            token=token,
            after=after,
            replaced=replaced or None,
            worker=worker,
            retries=retries,
            limit_key=key,
            most=most,
            interval=None if interval is None else ms(interval),
            redelivered=redelivered,
            most_begun=most_begun,
            version=version,
            result_key=result_entry.key,
            result=result_entry.value,
            result_ttl=result_entry.seconds,
        )
        verdict: str = self.make(call)
        return verdict

    def finish(self, task_id: str, state: str, value: Any, token: str = "", **more: Any) -> None:
        """Note how a task ended; see :func:`ending`."""
        self.make(ending(task_id, state, value, token, **more))

    def announce(self, blob: str) -> None:
        """Note that a blob is about to be written, which is removed later if no job adopts it."""
        self.make(calls.announce(blob=blob, grace=ms(BLOB_GRACE)))

    def retry(
        self,
        task_id: str,
        token: str,
        error: Mapping[str, str],
        *,
        publish: bool,
        traceback: str | None = None,
        result_entry: ResultEntry = _NO_ENTRY,
    ) -> None:
        """Note that an attempt asks for another one. With *publish* its message is still to be published."""
        call = calls.retry(
            job_id=task_id,
            token=token,
            error=dumps(error),
            traceback=(traceback or "")[-MAX_PAST_TRACEBACK:].encode("utf-8", "backslashreplace"),
            publish=publish,
            result_key=result_entry.key,
            result=result_entry.value,
            result_ttl=result_entry.seconds,
        )
        self.make(call)

    def give_back(self, task_id: str, token: str, *, publish: bool) -> None:
        """Note that an attempt was given up through no fault of the job. *publish*: publish its message again."""
        self.make(calls.give_back(job_id=task_id, token=token, publish=publish))

    def hand_on(self, task_id: str, token: str) -> None:
        """Note that an attempt ends and another task goes on under the job's id, as by Celery's ``replace``."""
        self.make(calls.hand_on(job_id=task_id, token=token))

    def report(self, task_id: str, token: str, kind: str, data: Any, state: str = "", value: Any = None) -> str:
        """Note what an attempt reports; if Redis is away it is lost. Return ``cancelled`` if the task is to stop."""
        call = calls.report(job_id=task_id, token=token, kind=kind, data=dumps(data), state=state, value=dumps(value))
        try:
            answer: str = self.tell(call)
            return answer
        except RedisError as exc:
            log.warning("an event of task %s is lost: %s", task_id, exc)
            return "unknown"

    def item(self, task_id: str, token: str, number: int, value: str, *, result_entry: ResultEntry = _NO_ENTRY) -> str:
        """Note an item, as JSON, that an attempt has yielded. Return ``cancelled`` if the task is to stop."""
        call = calls.item(
            job_id=task_id,
            token=token,
            number=number,
            value=value,
            result_key=result_entry.key,
            result=result_entry.value,
            result_ttl=result_entry.seconds,
        )
        answer: str = self.make(call)
        return answer

    def checkpoint(self, task_id: str, code: str) -> str | None:
        """Return what attempts of a job have saved, as JSON; None if nothing, or if other code has."""
        saved: Any = self._sure.client.hmget(f"{self._sure.prefix}checkpoint:{task_id}", "code", "value")
        return saved[1].decode() if saved[0] == code.encode() else None

    def save_checkpoint(self, task_id: str, token: str, code: str, value: str) -> str:
        """Save JSON for a job's next attempt. Return ``saved``, ``cancelled``, ``late``, or ``unavailable``."""
        try:
            answer: str = self.tell(calls.checkpoint(job_id=task_id, token=token, code=code, value=value))
            return answer
        except RedisError as exc:
            log.warning("a checkpoint of task %s is not saved yet: %s", task_id, exc)
            return "unavailable"

    def keep(
        self,
        task_id: str,
        message: str,
        delay: float | None,
        *,
        queue: str,
        priority: int | None = None,
        expires_in: float | None = None,
        token: str = "",
        why: Mapping[str, str] | None = None,
    ) -> None:
        """
        Note what is about to be published for a job.

        Args:
            task_id: The job's id.
            message: The signature, as JSON.
            delay: In how many seconds it is due; None for now.
            queue: The name of the queue that it goes to.
            priority: From 0 to 9, where 9 is the most urgent; None leaves it to the broker, and ``KEPT`` as it was.
            expires_in: In how many seconds it expires, if it has not begun; None for never.
            token: Of the job's own attempt, if it publishes this.
            why: Of a retry that a task asks for, the error that it gives as its reason.
        """
        reason = None if why is None else dumps(why)
        call = calls.keep(
            job_id=task_id,
            token=token,
            message=message,
            delay=None if delay is None else ms(delay),
            expires_in=None if expires_in is None else ms(expires_in),
            why=reason,
            queue=queue,
            priority=priority,
        )
        self.make(call)

    # All jobs.

    def lease(
        self,
        worker: str,
        running: Collection[tuple[str, str]],
        gone: Collection[tuple[str, str]],
        about: Mapping[str, Any] | None = None,
    ) -> calls.Cancelled:
        """
        Renew the leases of the jobs that a worker runs, and end those of the jobs that it no longer runs.

        Args:
            worker: Its node name.
            running: The attempts that it runs, as ids and tokens.
            gone: Those that it ran.
            about: What a monitor shows of it: ``slots``, ``queues``, ``memory``. None when it ends.

        Returns:
            The ids of those of the jobs that were cancelled.
        """
        jobs = [calls.LeasedJob(*attempt, True) for attempt in running]
        jobs += [calls.LeasedJob(*attempt, False) for attempt in gone]
        return self._once.run(calls.lease(worker=worker, about=None if about is None else dumps(about), rows=jobs))

    def take(self, me: str, most: int) -> tuple[float | None, list[tuple[str, str]]]:
        """Return in how many seconds there is more to publish (None: never), and ids and messages to publish now."""
        return self._once.run(calls.take(most=most, me=me))

    def reconcile(
        self, me: str, leadership: float, most: int, empty: Sequence[str]
    ) -> tuple[list[tuple[str, str]], set[str]]:
        """
        Look for jobs that were lost, unless another process leads the search.

        Args:
            me: The name of the process that asks.
            leadership: Seconds for which this process then leads the search.
            most: At most so many jobs of each kind.
            empty: Names of queues that are known to be empty.

        Returns:
            The ids and messages to publish, and the names of queues that may be empty: find out.
        """
        return self._once.run(calls.reconcile(me=me, leadership=ms(leadership), most=most, rows=empty))

    def doubted(self) -> set[str]:
        """Return the ids of jobs that are given up soon, unless a worker has their message :meth:`in_hand`."""
        found: Any = self._once.client.smembers(f"{self._once.prefix}doubted")
        return {job_id.decode() for job_id in found}

    def in_hand(self, job_ids: Collection[str]) -> None:
        """Note that a worker has taken the messages of jobs, and will begin them."""
        self._once.run(calls.in_hand(rows=list(job_ids)))

    def note_results(self, prefix: bytes | str, ttl: int) -> None:
        """Note where in the ledger's Redis Celery's results are, and for how many seconds (0 for ever)."""
        self._once.client.hset(f"{self._once.prefix}results", mapping={"prefix": prefix, "ttl": ttl})

    def paused(self) -> set[str]:
        """Return the names of queues that no worker is to take from."""
        found: Any = self._once.client.hkeys(f"{self._once.prefix}paused")
        return {name.decode() for name in found}

    def defer(self, job_ids: Sequence[str]) -> None:
        """Put jobs that could not be published at the head of the outbox, in this order."""
        for place, job_id in enumerate(job_ids):
            self._once.run(calls.defer(job_id=job_id, most=sys.maxsize, place=place))

    def leads(self, me: str) -> bool:
        """Return whether the process *me* leads the search for lost jobs; see :meth:`reconcile`."""
        return self._once.client.get(f"{self._once.prefix}leader") == me.encode()

    def sweep(self) -> int:
        """Forget some finished jobs whose time is over; return how many."""
        return self._once.run(calls.sweep(remembered=ms(REMEMBERED), most=SWEEP_SIZE))

    def workers(self) -> list[WorkerState]:
        """Return the workers that live."""
        return [each for each in worker_states(self._once.run(calls.workers())) if each.is_alive]

    def time(self) -> float:
        """Return the server's time, in seconds since 1970."""
        seconds, microseconds = self._once.client.time()
        return int(seconds) + int(microseconds) / 1_000_000

    def expire(self) -> int:
        """End some jobs that have expired and have not begun; return how many."""
        return self._once.run(calls.expire(most=SWEEP_SIZE))

    def has_expired(self, task_id: str) -> str:
        """Return ``yes`` if a job has expired, which ends it; ``no`` if not, and ``unknown`` for what is no job."""
        return self._once.run(calls.has_expired(job_id=task_id))

    def orphans(self) -> list[str]:
        """Return names of blobs that are to be removed from the store, until :meth:`removed` is told of them."""
        return self._once.run(calls.orphans(most=SWEEP_SIZE))

    def removed(self, blobs: Sequence[str]) -> None:
        """Note that blobs were removed."""
        self._once.client.zrem(f"{self._once.prefix}blobs", *blobs)

    def wait_for_wake(self, timeout: float) -> None:
        """Return when there may be something to :meth:`take`, or after *timeout* seconds."""
        self._once.client.blpop([f"{self._once.prefix}wake"], timeout=timeout)


def _texts(error: Mapping[str, str], place: str) -> list[bytes]:
    """Return the exception's name, its message and its place, as UTF-8 whatever characters they have."""
    exception = ".".join(filter(None, (error["module"], error["type"])))
    texts = (exception[:MAX_NAME], error["message"][:MAX_DETAIL], place[:MAX_NAME])
    return [text.encode("utf-8", "replace") for text in texts]
