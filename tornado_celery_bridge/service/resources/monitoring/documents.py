"""What is read and shown of what goes on."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge.ledger import Counts, Histogram, Period, QueueState, Totals, WorkerState
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Broker, Finding, Moment, rfc3339
from tornado_celery_bridge.service.resources.monitoring.diagnosis import Diagnosis


class Purge(Body):
    """That a queue is really to be emptied."""

    confirm: Annotated[str, Field(description="The queue's name, once more.")]


class Resize(Body):
    """By how many tasks at once a worker is to grow or shrink."""

    by: Annotated[int, Field(ge=1, le=100)] = 1


class Quantiles(TypedDict):
    """How long something took: in so many seconds half of it was done, and 95 of 100; null if there was nothing."""

    p50: float | None
    p95: float | None


class Counted(TypedDict):
    """What has happened in some time."""

    accepted: int
    withdrawn: Annotated[int, Field(description="Accepted, but not published after all: the answer was a 503.")]
    started: Annotated[int, Field(description="Attempts that began.")]
    retried: Annotated[int, Field(description="Attempts that asked for another.")]
    lost: Annotated[int, Field(description="Attempts whose worker was lost.")]
    succeeded: int
    failed: int
    revoked: Annotated[int, Field(description="Cancelled, or expired.")]
    wait: Annotated[Quantiles, Field(description="From when an attempt was due until it began.")]
    run: Annotated[Quantiles, Field(description="Of the last attempt of each job that ended.")]


class Step(Counted):
    """What has happened in a minute, an hour or a day."""

    at: Annotated[Moment, Field(description="When it begins.")]


class Now(TypedDict):
    """How many jobs there are; of ended ones those that are still kept."""

    waiting: Annotated[int, Field(description="In a queue, or held up by a limit or by other jobs of a workflow.")]
    scheduled: Annotated[int, Field(description="Not due yet.")]
    running: int
    done: Annotated[int, Field(description="Ended, one way or another.")]
    succeeded: int
    failed: int
    revoked: int
    dead: Annotated[int, Field(description="Of those that failed: given up, as worker after worker was lost.")]
    unpublished: Annotated[int, Field(description="Of those that wait: their broker was away.")]


class Statistics(TypedDict):
    """What has happened, and how it stands."""

    step: Literal["minute", "hour", "day"]
    series: Annotated[list[Step], Field(description="The oldest first, without gaps; the last one may be under way.")]
    summary: Annotated[Counted, Field(description="Of all of the series.")]
    now: Annotated[Now, Field(description="Of all tasks and queues, whatever was asked for.")]


class Queue(TypedDict):
    """The jobs of a queue that have not begun. Tasks that are no jobs are not among them."""

    name: str
    depth: Annotated[int, Field(description="That are due.")]
    scheduled: Annotated[int, Field(description="That are not due yet.")]
    oldest: Annotated[float, Field(description="Seconds for which the one that has waited for longest has.")]
    consumers: Annotated[int, Field(description="Living workers that take from it.")]
    is_stuck: Annotated[bool, Field(description="There are jobs, and nobody takes any, though it is not paused.")]
    paused_since: Moment | None


class Queues(TypedDict):
    """All queues that there are settings for, or jobs, or workers."""

    queues: list[Queue]
    next_cursor: str | None


class Worker(TypedDict):
    """A worker that keeps the ledger, as it last told of itself."""

    name: str
    alive: Annotated[bool, Field(description="It was heard of in the last 10 seconds. It tells every 2.")]
    last_seen: Moment
    slots: Annotated[int, Field(description="How many tasks it runs at once.")]
    queues: list[str]
    jobs: Annotated[list[str], Field(description="Ids of the jobs that it runs.")]
    memory: Annotated[
        int | None,
        Field(description="Bytes that its processes have, in each what they share; null where that is not known."),
    ]


class WorkerAnswer(TypedDict):
    """What became of telling a worker something."""

    name: str
    answer: Annotated[str, Field(description="What it said, for people; to a shutdown a worker says nothing.")]


class Purged(TypedDict):
    """What was in a queue that was purged."""

    name: str
    jobs: Annotated[int, Field(description="Jobs that have ended by it.")]
    messages: Annotated[int, Field(description="Messages that the broker had, as it counts them.")]


class Workers(TypedDict):
    """The workers that were heard of in the last hour, but for those that ended by themselves."""

    workers: list[Worker]
    next_cursor: str | None


class Health(TypedDict):
    """The process is alive."""

    status: Literal["alive"]


class Grounds(TypedDict):
    """What the service stands on."""

    broker: Broker
    findings: list[Finding]


class Readiness(TypedDict):
    """What the service stands on can be used."""

    status: Literal["ready"]
    checks: dict[str, str]
    broker: NotRequired[Broker]
    findings: NotRequired[list[Finding]]


def statistics(step: Period, history: Mapping[int, Counts], now: Totals) -> Statistics:
    """Return what has happened in each *step*, by its first second since 1970, and how it stands."""
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


def diagnosis(found: Diagnosis) -> Grounds:
    """Return what the service stands on, as a part of whether it is ready."""
    findings: list[Finding] = [
        {"name": each.name, "verdict": each.verdict, "what": each.what, "remedy": each.remedy}
        for each in found.findings
    ]
    broker: Broker = {
        "url": found.broker.url,
        "server": found.broker.server,
        "capabilities": dict(found.broker.capabilities),
    }
    return {"broker": broker, "findings": findings}
