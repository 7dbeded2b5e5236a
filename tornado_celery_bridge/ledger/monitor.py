"""For who watches: the ledger's history, its queues and its workers."""

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.ledger import Ledger

Period = Literal["minute", "hour", "day"]
#: The seconds that each period takes, and how many periods are kept.
PERIODS: dict[Period, tuple[int, int]] = {"minute": (60, 120), "hour": (3_600, 192), "day": (86_400, 400)}
#: The longest duration in each bucket, in seconds. One bucket more has what took longer than all of these.
BOUNDS: tuple[float, ...] = tuple(2**number / 1000 for number in range(23))
#: A worker that is silent for so many seconds does not hold its jobs any more.
SILENT = 10.0


class Histogram(NamedTuple):
    """
    How often something took how long. The buckets are those of ``BOUNDS``, and one more.

    .. versionadded:: 0.1.0
    """

    buckets: tuple[int, ...]
    #: All durations together, in seconds.
    seconds: float

    @property
    def total(self) -> int:
        """How often it happened."""
        return sum(self.buckets)

    def __add__(self, other: object) -> "Histogram":
        if not isinstance(other, Histogram):
            return NotImplemented
        buckets = tuple(one + another for one, another in zip(self.buckets, other.buckets, strict=True))
        return Histogram(buckets, self.seconds + other.seconds)

    def quantile(self, share: float) -> float | None:
        """
        Return the duration, in seconds, that a *share* (0 to 1) did not exceed; None if nothing happened.

        A bucket ends at twice its beginning, so this is an estimate: wrong by a factor of two at most.
        """
        left = share * self.total
        for number, many in enumerate(self.buckets):
            if many and left <= many:
                if number == len(BOUNDS):
                    return BOUNDS[-1]
                part = left / many
                return BOUNDS[number] * (part if number == 0 else 2.0 ** (part - 1))
            left -= many
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """
    What has happened in a period. A job that begins in one hour and ends in another counts in both.

    Since the beginning, ``accepted`` is ``withdrawn + succeeded + failed + revoked``, and the jobs that are unfinished.

    .. versionadded:: 0.1.0
    """

    accepted: int
    #: Jobs that were accepted and then not published; who submitted them was told so.
    withdrawn: int
    #: Attempts that began.
    started: int
    #: Attempts that asked for a retry.
    retried: int
    #: Attempts whose worker was lost.
    lost: int
    #: Messages that were lost, or seemed to be, and were published again.
    republished: int
    succeeded: int
    failed: int
    revoked: int
    #: How long attempts waited, from when they were due until they began.
    waits: Histogram
    #: How long the last attempts of jobs ran.
    runs: Histogram

    @classmethod
    def of(cls, found: Mapping[str, int]) -> Self:
        """Return the counts that *found* has by their names in Lua (``lua/parts/history.lua``)."""
        ended = {letter: _buckets(found, letter) for letter in "sfv"}
        waits, runs = _buckets(found, "w"), tuple(map(sum, zip(*ended.values(), strict=True)))
        succeeded, failed, revoked = (sum(ended[letter]) + found.get(letter, 0) for letter in "sfv")
        return cls(
            accepted=found.get("a", 0),
            withdrawn=found.get("x", 0),
            started=sum(waits) + found.get("w", 0),
            retried=found.get("r", 0),
            lost=found.get("l", 0),
            republished=found.get("p", 0),
            succeeded=succeeded,
            failed=failed,
            revoked=revoked,
            waits=Histogram(waits, found.get("W", 0) / 1000),
            runs=Histogram(runs, found.get("T", 0) / 1000),
        )

    def __add__(self, other: Self) -> Self:
        names = (field.name for field in dataclasses.fields(self))
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in names})


def _buckets(found: Mapping[str, int], letter: str) -> tuple[int, ...]:
    return tuple(found.get(f"{letter}{number}", 0) for number in range(len(BOUNDS) + 1))


class Totals(NamedTuple):
    """
    How many jobs are in the ledger now. Jobs that were forgotten after their end do not count.

    .. versionadded:: 0.1.0
    """

    #: Jobs that are due and wait: in a queue, for a limit or for other jobs.
    waiting: int
    #: Jobs that are not due yet.
    scheduled: int
    running: int
    succeeded: int
    failed: int
    revoked: int
    #: The failed jobs that were given up, as their workers were lost again and again.
    dead: int
    #: The waiting jobs that could not be published, as the broker was away.
    unpublished: int


class QueueState(NamedTuple):
    """
    The jobs of one queue that have not begun.

    .. versionadded:: 0.1.0
    """

    name: str
    #: How many jobs are due.
    depth: int
    #: How many jobs are not due yet.
    scheduled: int
    #: Seconds for which the oldest of the due jobs has waited; 0.0 if none waits.
    oldest: float


class WorkerState(NamedTuple):
    """
    A worker that keeps the ledger, as it reports itself.

    .. versionadded:: 0.1.0
    """

    #: Its node name. Each should have one of its own; see :attr:`id`.
    name: str
    #: Seconds since it last reported; it does so every 2 s.
    silence: float
    #: How many tasks it can run at once.
    slots: int
    #: Names of the queues that it takes from.
    queues: list[str]
    #: Ids of the jobs that it runs.
    jobs: list[str]
    #: Bytes of memory that it and its pool processes use; what they share counts in each. None if that is not known.
    memory: int | None = None
    #: What tells it from any other worker, also from one of the same node name.
    id: str = ""
    #: Seconds by which its machine's clock is behind the server's; negative if it is ahead.
    behind: float = 0.0
    #: What its store of large values says that it is; empty if it has none, and None if that is not known yet.
    store: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it has reported lately. A worker that has not holds no jobs any more."""
        return self.silence < SILENT


class Monitor:
    """
    Reads what happens. Each call is one round trip to Redis; how long that takes does not depend on the number of jobs.
    Every call raises :exc:`LedgerUnavailable` if there is no answer in time.

    Args:
        ledger: The ledger to watch.

    .. versionadded:: 0.1.0
    """

    def __init__(self, ledger: Ledger) -> None:
        self._redis = ledger.redis

    async def history(
        self, period: Period, since: float, until: float, *, task: str = "", queue: str = ""
    ) -> dict[int, Counts]:
        """
        Return what has happened in each minute, hour or day (UTC) of a time, by its first second since 1970.

        Args:
            period: Which.
            since: A moment in the first of them, in seconds since 1970.
            until: A moment in the last of them.
            task: Only jobs of this task; empty for all.
            queue: Only jobs of this queue; empty for all.

        Raises:
            ValueError: More of them than are kept.
        """
        length, kept = PERIODS[period]
        slots = range(int(since // length) * length, int(until) + 1, length)
        if len(slots) > kept + 1:
            raise ValueError(f"more than {kept + 1} {period}s")
        names = [f"{period}:{slot // 60}" for slot in slots]
        answer = await self._redis.run(calls.history(queue=queue, task=task, rows=names))
        return await asyncio.to_thread(_history, answer, slots, length, queue, task)

    async def counts(self) -> dict[tuple[str, str], Counts]:
        """Return what has happened since the ledger's beginning, by queue and task."""
        answer = await self._redis.run(calls.history(queue="", task="", rows=["all"]))
        return await asyncio.to_thread(_by_series, answer)

    async def totals(self) -> Totals:
        """Return how many jobs there are now."""
        names = ("PENDING", "RETRY", "STARTED", "SUCCESS", "IGNORED", "FAILURE", "REVOKED")
        keys = [*(f"index:state:{name}" for name in names), "index:dead", "outbox"]
        sizes = (self._redis.call("ZCARD", f"{self._redis.prefix}{key}") for key in keys)
        queues, pending, retry, running, succeeded, ignored, failed, revoked, dead, unpublished = await asyncio.gather(
            self.queues(), *sizes
        )
        scheduled = sum(queue.scheduled for queue in queues)
        waiting = max(0, pending + retry - scheduled)
        return Totals(waiting, scheduled, running, succeeded + ignored, failed, revoked, dead, unpublished)

    async def queues(self) -> list[QueueState]:
        """Return the queues in which there are jobs, in the order of their names."""
        found: dict[str, QueueState] = {}
        for name, depth, scheduled, oldest in await self._redis.run(calls.queues()):
            queue = name.decode().rpartition(":")[0]
            known = found.get(queue, QueueState(queue, 0, 0, 0.0))
            found[queue] = QueueState(
                queue, known.depth + depth, known.scheduled + scheduled, max(known.oldest, oldest / 1000)
            )
        return [found[name] for name in sorted(found)]

    async def workers(self) -> list[WorkerState]:
        """Return the workers that were heard of within an hour and have not ended, in the order of their names."""
        return worker_states(await self._redis.run(calls.workers()))


def worker_states(answer: list[Any]) -> list[WorkerState]:
    """Return the workers of an answer to :data:`.calls.workers`; of one that was started again, the last alone."""
    found: list[WorkerState] = []
    for worker_id, silence, about, jobs in answer:
        told = json.loads(about)
        found.append(
            WorkerState(
                name=told.get("name") or worker_id.decode(),
                silence=max(0, silence) / 1000,
                slots=told["slots"],
                queues=told["queues"],
                jobs=[job_id for job_id in jobs.decode().split(",") if job_id],
                memory=told.get("memory"),
                id=worker_id.decode(),
                behind=told.get("behind", 0.0),
                store=told.get("store"),
            )
        )
    last = {each.name: each for each in sorted(found, key=lambda each: -each.silence)}
    shown = [each for each in found if each.is_alive or each is last[each.name]]
    return sorted(shown, key=lambda each: (each.name, each.id))


def _history(answer: Any, slots: Iterable[int], length: int, queue: str, task: str) -> dict[int, Counts]:
    minute, fields, *rolled = answer
    open_slot = None if minute is None else int(minute) * 60 // length * length
    found: dict[int, Counts] = {}
    for slot, series in zip(slots, rolled, strict=True):
        counts: Counter[str] = Counter()
        for name, packed in _pairs(series):
            if packed is not None and (not name or _fits(name.decode(), queue, task)):
                counts.update(json.loads(packed))
        if slot == open_slot:
            for name, what, many in _open(fields):
                if _fits(name, queue, task):
                    counts[what] += many
        found[slot] = Counts.of(counts)
    return found


def _by_series(answer: Any) -> dict[tuple[str, str], Counts]:
    _, fields, rolled = answer
    found = {name.decode(): Counter(json.loads(packed)) for name, packed in _pairs(rolled) if name}
    for name, what, many in _open(fields):
        found.setdefault(name, Counter())[what] += many
    return {_queue_and_task(name): Counts.of(counts) for name, counts in sorted(found.items())}


def _open(fields: list[bytes]) -> Iterable[tuple[str, str, int]]:
    """Yield the series, the count's name and the number of each field of the current minute."""
    for field, many in _pairs(fields):
        what, blank, name = field.decode().partition(" ")
        if blank:
            yield name, what, int(many)


def _fits(name: str, queue: str, task: str) -> bool:
    its_queue, its_task = _queue_and_task(name)
    return queue in ("", its_queue) and task in ("", its_task)


def _queue_and_task(name: str) -> tuple[str, str]:
    queue, _, task = name.partition("\n")
    return queue, task


def _pairs(found: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(found[::2], found[1::2], strict=True)
