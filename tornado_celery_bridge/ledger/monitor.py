"""What goes on: the ledger's history, its queues and its workers, for whoever watches."""

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.ledger import Ledger

__all__ = ("BOUNDS", "PERIODS", "Counts", "Histogram", "Monitor", "Period", "QueueState", "Totals", "WorkerState")

Period = Literal["minute", "hour", "day"]
#: Seconds that each takes, and how many of them are kept.
PERIODS: dict[Period, tuple[int, int]] = {"minute": (60, 120), "hour": (3_600, 192), "day": (86_400, 400)}
#: Seconds up to which a bucket has what took longer than the one before; one more has what took longer still.
BOUNDS: tuple[float, ...] = tuple(2**number / 1000 for number in range(23))
#: Seconds after which a worker that is not heard of does not hold its jobs any more.
SILENT = 10.0


class Histogram(NamedTuple):
    """
    How long something took, how often; the buckets are :data:`BOUNDS`'s, and one more.

    .. versionadded:: 0.1.0
    """

    buckets: tuple[int, ...]
    #: All of it together, in seconds.
    seconds: float

    @property
    def total(self) -> int:
        """How often."""
        return sum(self.buckets)

    def __add__(self, other: object) -> "Histogram":
        if not isinstance(other, Histogram):
            return NotImplemented
        buckets = tuple(one + another for one, another in zip(self.buckets, other.buckets, strict=True))
        return Histogram(buckets, self.seconds + other.seconds)

    def quantile(self, share: float) -> float | None:
        """
        Return in how many seconds a *share* of it was done, from 0 to 1; None if there was nothing.

        Within a bucket, which ends at twice its beginning, it is an estimate: off by a factor of two at the most.
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
    What has happened in some time. A job counts for the time when it did: it may begin in one hour and end in another.

    Since the beginning, ``accepted`` is ``withdrawn + succeeded + failed + revoked`` and what is unfinished.

    .. versionadded:: 0.1.0
    """

    accepted: int
    #: Accepted, but not published after all: whoever submitted them was told so.
    withdrawn: int
    #: Attempts that began.
    started: int
    #: Attempts that asked for another.
    retried: int
    #: Attempts whose worker was lost.
    lost: int
    #: Messages that were lost, or were thought to be, and published again.
    republished: int
    succeeded: int
    failed: int
    revoked: int
    #: From when an attempt was due until it began.
    waits: Histogram
    #: From the beginning of a job's last attempt to its end.
    runs: Histogram

    @classmethod
    def of(cls, found: Mapping[str, int]) -> Self:
        """Return the counts that *found* has as the scripts name them."""
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
    How many jobs there are now, in the ledger; of ended ones those that are not forgotten yet.

    .. versionadded:: 0.1.0
    """

    #: That have not begun, or are to be tried again, and are due: in a queue, held up by a limit or by other jobs.
    waiting: int
    #: That are not due yet.
    scheduled: int
    running: int
    succeeded: int
    failed: int
    revoked: int
    #: Of those that failed, the ones that were given up as their workers were lost.
    dead: int
    #: Of those that wait, the ones whose broker was away.
    unpublished: int


class QueueState(NamedTuple):
    """
    The jobs of a queue that have not begun.

    .. versionadded:: 0.1.0
    """

    name: str
    #: That are due.
    depth: int
    #: That are not due yet.
    scheduled: int
    #: Seconds for which the one that has waited for longest has; 0.0 if none does.
    oldest: float


class WorkerState(NamedTuple):
    """
    A worker that keeps the ledger, as it told of itself.

    .. versionadded:: 0.1.0
    """

    #: Its node name.
    name: str
    #: Seconds for which it was not heard of; it tells every two.
    silence: float
    #: How many tasks it runs at once.
    slots: int
    #: Names of the queues that it takes from.
    queues: list[str]
    #: Ids of the jobs that it runs.
    jobs: list[str]
    #: Bytes of memory that it and its processes have, in each what they share; None where that is not known.
    memory: int | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it was heard of lately: one that was not holds no jobs any more."""
        return self.silence < SILENT


class Monitor:
    """
    Reads what goes on; each call is one round trip to Redis, whose price does not depend on how many jobs there are.

    Args:
        ledger: Whose jobs.

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
            LedgerUnavailable: There was no answer.
            ValueError: More of them than are kept.
        """
        length, kept = PERIODS[period]
        slots = range(int(since // length) * length, int(until) + 1, length)
        if len(slots) > kept + 1:
            raise ValueError(f"more than {kept + 1} {period}s")
        names = [f"{period}:{slot // 60}" for slot in slots]
        answer = await self._redis.run(calls.history(queue=queue, task=task, slots=names))
        return await asyncio.to_thread(_history, answer, slots, length, queue, task)

    async def counts(self) -> dict[tuple[str, str], Counts]:
        """
        Return what has happened since the ledger's beginning, by queue and task.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        answer = await self._redis.run(calls.history(queue="", task="", slots=["all"]))
        return await asyncio.to_thread(_by_series, answer)

    async def totals(self) -> Totals:
        """
        Return how many jobs there are now.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        names = ("PENDING", "RETRY", "STARTED", "SUCCESS", "FAILURE", "REVOKED")
        keys = [*(f"index:state:{name}" for name in names), "index:dead", "outbox"]
        sizes = (self._redis.call("ZCARD", f"{self._redis.prefix}{key}") for key in keys)
        queues, pending, retry, running, succeeded, failed, revoked, dead, unpublished = await asyncio.gather(
            self.queues(), *sizes
        )
        scheduled = sum(queue.scheduled for queue in queues)
        waiting = max(0, pending + retry - scheduled)
        return Totals(waiting, scheduled, running, succeeded, failed, revoked, dead, unpublished)

    async def queues(self) -> list[QueueState]:
        """
        Return the queues in which there are jobs, in the order of their names.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        found: dict[str, QueueState] = {}
        for name, depth, scheduled, oldest in await self._redis.run(calls.queues()):
            queue = name.rpartition(":")[0]
            known = found.get(queue, QueueState(queue, 0, 0, 0.0))
            found[queue] = QueueState(
                queue, known.depth + depth, known.scheduled + scheduled, max(known.oldest, oldest / 1000)
            )
        return [found[name] for name in sorted(found)]

    async def workers(self) -> list[WorkerState]:
        """
        Return the workers that were heard of within an hour and have not ended, in the order of their names.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        found = []
        for name, silence, about, jobs in await self._redis.run(calls.workers()):
            told = json.loads(about)
            ids = [job_id for job_id in jobs.split(",") if job_id]
            known = (told["slots"], told["queues"], ids, told.get("memory"))
            found.append(WorkerState(name, max(0, silence) / 1000, *known))
        return sorted(found)


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
    """Yield series, what and how often of the minute that is open."""
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
