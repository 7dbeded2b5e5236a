"""The ledger, as a worker uses it."""

import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import redis
from celery import Celery, states
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.store import Stored
from tornado_celery_bridge.ledger import scripts as _scripts
from tornado_celery_bridge.ledger.ledger import BLOB_GRACE, REMEMBERED, SWEEP_SIZE, ledger_backend, prefix_of
from tornado_celery_bridge.ledger.records import pack_traceback

__all__ = ("Limit", "Told", "WorkerLedger", "connect", "ending")

log = logging.getLogger(__name__)

#: Attempts to reach Redis for what must not be lost, up to a second apart: outlasts a restart of Redis.
ATTEMPTS = 30
#: Characters of what an exception said, and of its name, that tell of a group of failures.
MAX_DETAIL, MAX_NAME = 300, 200


class Limit(NamedTuple):
    """What holds jobs of one kind up, over all workers."""

    #: The kind.
    name: str
    #: How many may run at once; None for any number.
    most: int | None
    #: Seconds from the beginning of one to that of the next; None for no such limit.
    interval: float | None


class Told(NamedTuple):
    """A task's state, as Celery's Redis backend stores it and says it to whoever waits."""

    key: bytes | str
    value: bytes | str
    #: For which it is kept; 0 for ever.
    seconds: int


_NOTHING = Told("", "", 0)


def ending(
    task_id: str,
    state: str,
    value: Any,
    token: str = "",
    *,
    traceback: str | None = None,
    place: str = "",
    traceparent: str = "",
    told: Told = _NOTHING,
) -> tuple[Any, ...]:
    """
    Return what `_scripts.FINISH` takes, after the prefix.

    Args:
        task_id: The task's id.
        state: SUCCESS, FAILURE or REVOKED.
        value: What it returned; else the error, as ``Job.error`` has it.
        token: Of the attempt that says so; empty where it is somebody else.
        traceback: Of a failure, as text.
        place: Where in the code it failed, if that is known.
        traceparent: Of the span in which it ran.
        told: What to tell as well, whatever the ledger makes of it.
    """
    blob, failed = isinstance(value, Stored), state == states.FAILURE
    written = dumps(value.encode() if blob else value)
    kept = pack_traceback(traceback) if traceback and failed else ""
    failure = _texts(value, place) if failed else ()
    return (task_id, state, written, "stored" if blob else "", token, kept, traceparent, *told, *failure)


def connect(app: Celery, *, attempts: int = 0, **overrides: Any) -> redis.Redis:
    """
    Return a client, for blocking code, of the Redis where *app*'s ledger is; connects at first use.

    Args:
        app: Whose ledger it is.
        attempts: How often a lost connection is tried again, up to a second apart.
        overrides: Connection settings of redis-py to use instead of Celery's.
    """
    backend: Any = ledger_backend(app)
    params = {key: value for key, value in backend.connparams.items() if value is not None} | overrides
    params.pop("retry_on_timeout", None)
    if issubclass(params.get("connection_class", redis.Connection), redis.UnixDomainSocketConnection):
        params.pop("socket_keepalive", None)
        params.pop("socket_connect_timeout", None)
    lost = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError)  # at its maxmemory it may have room soon
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), attempts, supported_errors=lost)
    return redis.Redis(connection_pool=backend._get_pool(**params, retry=retry))


class WorkerLedger:
    """
    The ledger, for blocking code; connects at first use.

    Args:
        app: Whose ledger it is.
    """

    def __init__(self, app: Celery) -> None:
        options = app.conf.result_backend_transport_options or {}
        self._prefix = prefix_of(options.get("global_keyprefix", ""))
        self._sure, self._once = connect(app, attempts=ATTEMPTS), connect(app)
        scripts = (
            *("START", "FINISH", "REPORT", "KEEP", "ANNOUNCE"),
            *("TAKE", "LEASE", "RECONCILE", "DEFER", "SWEEP", "UNCLAIMED"),
        )
        self._scripts = {name: self._sure.register_script(getattr(_scripts, name)) for name in scripts}

    def _run(self, script: str, *args: Any, client: redis.Redis | None = None) -> Any:
        return self._scripts[script](args=[self._prefix, *args], client=client)

    # A task that runs.

    def start(
        self,
        task_id: str,
        task: str,
        token: str,
        *,
        worker: str,
        replaced: bool = False,
        retries: int = 0,
        limit: Limit | None = None,
        told: Told = _NOTHING,
    ) -> str:
        """Note that a task begins, and tell it if it does; return ``go``, ``unknown`` or why it must not run."""
        name, most, interval = limit or ("", None, None)
        limits = (name, "" if most is None else most, "" if interval is None else round(interval * 1000))
        who = (task_id, task, token, "1" if replaced else "", worker, retries)
        return str(self._run("START", *who, *limits, *told).decode())

    def finish(self, task_id: str, state: str, value: Any, token: str = "", **more: Any) -> None:
        """Note how a task ended; see :func:`ending`."""
        self._run("FINISH", *ending(task_id, state, value, token, **more))

    def announce(self, blob: str) -> None:
        """Note that a blob is about to be written, which is removed later if no job ends with it."""
        self._run("ANNOUNCE", "", round(BLOB_GRACE * 1000), blob)

    def report(
        self, task_id: str, kind: str, data: Any, state: str = "", value: Any = None, *, retries: int | None = None
    ) -> str:
        """Note what a task tells; what can't be noted now is left out. Return ``cancelled`` if it is to stop."""
        ended = "" if retries is None else retries
        args = (task_id, kind, dumps(data), state, dumps(value), ended)
        try:
            return str(self._run("REPORT", *args, client=self._once).decode())
        except RedisError as exc:
            log.warning("an event of task %s is lost: %s", task_id, exc)
            return "unknown"

    def keep(self, task_id: str, message: str, due: float | None, why: Mapping[str, str] | None = None) -> None:
        """
        Note what is about to be published for a job.

        Args:
            task_id: The job's id.
            message: The signature, as JSON.
            due: When it is due, in seconds since 1970; None for now.
            why: Of a retry that a task asks for, the error that it gives as its reason.
        """
        self._run("KEEP", task_id, message, "" if due is None else round(due * 1000), "" if why is None else dumps(why))

    # All jobs.

    def lease(
        self, worker: str, running: Collection[str], gone: Collection[str], about: Mapping[str, Any] | None = None
    ) -> list[str]:
        """
        Renew the leases of what *worker* runs, and end those of what it does not run any more.

        Args:
            worker: Its node name.
            running: The ids of what it runs.
            gone: The ids of what it ran.
            about: What whoever watches is to know of it: ``slots``, ``queues``. None once it ends.

        Returns:
            The ids of jobs that were cancelled and have not ended in time.
        """
        told = "" if about is None else dumps(about)
        late = self._run("LEASE", "", worker, told, len(running), *running, *gone, client=self._once)
        return [job_id.decode() for job_id in late]

    def take(self, me: str, most: int) -> tuple[float | None, list[tuple[str, str]]]:
        """Return after how many seconds there is more (None for not at all), and ids and messages to publish now."""
        pause, *found = self._run("TAKE", "", most, me, client=self._once)
        return None if pause == b"" else int(pause) / 1000, _pairs(found)

    def reconcile(
        self, me: str, leadership: float, most: int, empty: Sequence[str]
    ) -> tuple[list[tuple[str, str]], set[str]]:
        """
        Look for jobs that were lost, if nobody else does.

        Args:
            me: Who asks.
            leadership: Seconds for which nobody else is to do it.
            most: At most so many of each kind.
            empty: Names of queues that are known to be empty.

        Returns:
            Ids and messages to publish, and the names of queues of which to find out whether they are empty.
        """
        found = self._run("RECONCILE", "", me, round(leadership * 1000), most, *empty, client=self._once)
        if not found:
            return [], set()
        end = found.index(b"") if b"" in found else len(found)
        return _pairs(found[:end]), {name.decode() for name in found[end + 1 :]}

    def paused(self) -> set[str]:
        """Return the names of queues that no worker is to take from."""
        found: Any = self._once.hkeys(f"{self._prefix}paused")
        return {name.decode() for name in found}

    def defer(self, job_ids: Sequence[str]) -> None:
        """Put jobs that could not be published at the head of the outbox, in this order."""
        for place, job_id in enumerate(job_ids):
            self._run("DEFER", job_id, sys.maxsize, place, client=self._once)

    def leads(self, me: str) -> bool:
        """Return whether it is this one who looks for lost jobs; see :meth:`reconcile`."""
        return self._once.get(f"{self._prefix}leader") == me.encode()

    def sweep(self) -> int:
        """Forget some finished jobs whose time is over; return how many."""
        return int(self._run("SWEEP", "", round(REMEMBERED * 1000), SWEEP_SIZE, client=self._once))

    def unclaimed(self) -> list[str]:
        """Return names of blobs that are to be removed from the store, until :meth:`removed` is told of them."""
        return [name.decode() for name in self._run("UNCLAIMED", "", SWEEP_SIZE, client=self._once)]

    def removed(self, blobs: Sequence[str]) -> None:
        """Note that blobs were removed."""
        self._once.zrem(f"{self._prefix}blobs", *blobs)

    def wait_for_wake(self, timeout: float) -> None:
        """Return when there may be something to :meth:`take`, or after *timeout* seconds."""
        self._once.blpop([f"{self._prefix}wake"], timeout=timeout)


def _pairs(found: list[bytes]) -> list[tuple[str, str]]:
    return [(found[place].decode(), found[place + 1].decode()) for place in range(0, len(found), 2)]


def _texts(error: Mapping[str, str], place: str) -> list[bytes]:
    """Return what was raised, what it said and where; none of it need be valid text."""
    exception = ".".join(filter(None, (error["module"], error["type"])))
    texts = (exception[:MAX_NAME], error["message"][:MAX_DETAIL], place[:MAX_NAME])
    return [text.encode("utf-8", "replace") for text in texts]
