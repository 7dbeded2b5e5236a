"""What is read and shown of what goes on."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge.ledger import Counts, Histogram, Period, QueueState, Totals, WorkerState
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Broker, Finding, Moment, rfc3339
from tornado_celery_bridge.service.resources.diagnosis import Diagnosis


class Purge(Body):
    """The confirmation that a queue shall be emptied."""

    confirm: Annotated[str, Field(description="The queue's name again.")]


class Resize(Body):
    """How many more, or fewer, tasks a worker shall run at once."""

    by: Annotated[int, Field(ge=1, le=100)] = 1


class Quantiles(TypedDict):
    """How long something took, in seconds: the median and the 95th percentile; null without any."""

    p50: float | None
    p95: float | None


class Counted(TypedDict):
    """What has happened in a period."""

    accepted: int
    withdrawn: Annotated[int, Field(description="Accepted but not published: the answer was a 503.")]
    started: Annotated[int, Field(description="Attempts that began.")]
    retried: Annotated[int, Field(description="Attempts that asked for another.")]
    lost: Annotated[int, Field(description="Attempts whose worker was lost.")]
    succeeded: int
    failed: int
    revoked: Annotated[int, Field(description="Cancelled, or expired.")]
    wait: Annotated[Quantiles, Field(description="From the time when an attempt was due until it began.")]
    run: Annotated[Quantiles, Field(description="The last attempt of each job that ended.")]


class Step(Counted):
    """What has happened in a minute, an hour or a day."""

    at: Annotated[Moment, Field(description="When it begins.")]


class Now(TypedDict):
    """How many jobs there are. Ended jobs count while they are kept."""

    waiting: Annotated[int, Field(description="In a queue, or waiting for a limit or for other jobs of a workflow.")]
    scheduled: Annotated[int, Field(description="Not due yet.")]
    running: int
    done: Annotated[int, Field(description="Jobs that have ended, in whatever way.")]
    succeeded: int
    failed: int
    revoked: int
    dead: Annotated[int, Field(description="The failed jobs that were given up, because worker after worker was lost.")]
    unpublished: Annotated[
        int, Field(description="The waiting jobs that are not published, because the broker was away.")
    ]


class Statistics(TypedDict):
    """What has happened, and what is true now."""

    step: Literal["minute", "hour", "day"]
    series: Annotated[list[Step], Field(description="The oldest first, without gaps. The last may not be over.")]
    summary: Annotated[Counted, Field(description="The sum of the series.")]
    now: Annotated[Now, Field(description="For all tasks and queues, whatever the query asks for.")]


class Queue(TypedDict):
    """The jobs of a queue that have not begun. Tasks that are not jobs do not count."""

    name: str
    depth: Annotated[int, Field(description="Jobs that are due.")]
    scheduled: Annotated[int, Field(description="Jobs that are not due yet.")]
    oldest: Annotated[float, Field(description="Seconds that the first due job has waited.")]
    consumers: Annotated[int, Field(description="Living workers that take from it.")]
    is_stuck: Annotated[bool, Field(description="There are jobs and no worker takes them, though it is not paused.")]
    paused_since: Moment | None


class Queues(TypedDict):
    """All queues that have settings, jobs or workers."""

    queues: list[Queue]
    next_cursor: str | None


class Worker(TypedDict):
    """A worker that keeps the ledger, as it last reported itself."""

    name: str
    alive: Annotated[bool, Field(description="It reported in the last 10 seconds. It does so every 2 seconds.")]
    last_seen: Moment
    slots: Annotated[int, Field(description="How many tasks it runs at once.")]
    queues: list[str]
    jobs: Annotated[list[str], Field(description="Ids of the jobs that it runs.")]
    memory: Annotated[
        int | None,
        Field(description="Bytes that its processes use, with shared memory counted in each; null if unknown."),
    ]


class WorkerAnswer(TypedDict):
    """A worker's answer to an order."""

    name: str
    answer: Annotated[str, Field(description="What it said, for people. A worker does not answer a shutdown.")]


class Purged(TypedDict):
    """What was in a queue that was purged."""

    name: str
    jobs: Annotated[int, Field(description="Jobs that ended because of it.")]
    messages: Annotated[int, Field(description="Messages that the broker had, by its own count.")]


class Workers(TypedDict):
    """The workers that were heard of in the last hour, without those that ended in an orderly way."""

    workers: list[Worker]
    next_cursor: str | None


class Health(TypedDict):
    """The process is alive."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """The servers that the service needs can be used."""

    status: Literal["ready"]
    checks: dict[str, str]
    broker: NotRequired[Broker]
    findings: NotRequired[list[Finding]]


def statistics(step: Period, history: Mapping[int, Counts], now: Totals) -> Statistics:
    """Return what has happened in each *step*, by its first second since 1970, and what is true now."""
    series: list[Step] = [{"at": rfc3339(at * 1000), **_counted(counts)} for at, counts in history.items()]
    return {
        "step": step,
        "series": series,
        "summary": _counted(sum(history.values(), start=Counts.of({}))),
        "now": {**now._asdict(), "done": now.succeeded + now.failed + now.revoked},  # type: ignore[typeddict-item]
    }


def _counted(counts: Counts) -> Counted:
    return {
        "accepted": counts.accepted,
        "withdrawn": counts.withdrawn,
        "started": counts.started,
        "retried": counts.retried,
        "lost": counts.lost,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "revoked": counts.revoked,
        "wait": _quantiles(counts.waits),
        "run": _quantiles(counts.runs),
    }


def _quantiles(histogram: Histogram) -> Quantiles:
    p50, p95 = (
        None if (found := histogram.quantile(share)) is None else float(f"{found:.3g}") for share in (0.5, 0.95)
    )
    return {"p50": p50, "p95": p95}


def queues(
    found: Sequence[QueueState], workers: Sequence[WorkerState], known: Collection[str], paused: Mapping[str, int]
) -> list[Queue]:
    """
    Return the queues in which there are jobs, or that workers take from, or that are *known* by the settings, or
    *paused*, since then in milliseconds since 1970.
    """
    states = {queue.name: queue for queue in found}
    taken = [name for worker in workers if worker.is_alive for name in worker.queues]
    return [
        _queue(states.get(name) or QueueState(name, 0, 0, 0.0), taken.count(name), paused.get(name))
        for name in sorted({*states, *taken, *known, *paused})
    ]


def _queue(queue: QueueState, consumers: int, paused: int | None) -> Queue:
    return {
        "name": queue.name,
        "depth": queue.depth,
        "scheduled": queue.scheduled,
        "oldest": queue.oldest,
        "consumers": consumers,
        "is_stuck": queue.depth > 0 and consumers == 0 and paused is None,
        "paused_since": None if paused is None else rfc3339(paused),
    }


def worker(shown: WorkerState, now: float) -> Worker:
    """Return a worker; *now* is in seconds since 1970."""
    return {
        "name": shown.name,
        "alive": shown.is_alive,
        "last_seen": rfc3339(round((now - shown.silence) * 1000)),
        "slots": shown.slots,
        "queues": shown.queues,
        "jobs": shown.jobs if shown.is_alive else [],
        "memory": shown.memory if shown.is_alive else None,
    }


def readiness(checks: Mapping[str, str | None], found: Diagnosis | None) -> Readiness:
    """Return which servers can be used, or why not, and what a diagnosis found, if there was one."""
    told: Readiness = {"status": "ready", "checks": {name: reason or "ok" for name, reason in checks.items()}}
    if found is not None:
        broker = found.broker
        told["broker"] = {"url": broker.url, "server": broker.server, "capabilities": dict(broker.capabilities)}
        told["findings"] = [
            {"name": each.name, "verdict": each.verdict, "what": each.what, "remedy": each.remedy}
            for each in found.findings
        ]
    return told
