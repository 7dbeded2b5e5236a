"""
What goes on, for whoever watches all jobs: statistics, queues, workers, metrics and health.

The scope ``monitor`` reads them. Queues and workers are everybody's, so only admins change them.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from itertools import chain
from typing import Annotated, ClassVar

from prometheus_client import Metric
from pydantic import ConfigDict, Field

from tornado_celery_bridge.ledger import PERIODS, LedgerUnavailable, Monitor, Period, WorkerState
from tornado_celery_bridge.service.http.endpoint import Answer, get, post
from tornado_celery_bridge.service.http.moments import MomentInQuery
from tornado_celery_bridge.service.http.problems import (
    BROKER_UNAVAILABLE,
    RESULT_BACKEND_UNAVAILABLE,
    SHUTTING_DOWN,
    Kind,
)
from tornado_celery_bridge.service.http.query import Name, Query
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint
from tornado_celery_bridge.service.resources.metrics import CONTENT_TYPE, render
from tornado_celery_bridge.service.resources.monitoring import documents, families

_log = logging.getLogger(__name__)

UNKNOWN_QUEUE = Kind("unknown-queue", 404, "There is no queue of this name.")
UNKNOWN_WORKER = Kind("unknown-worker", 404, "There is no living worker of this name.")
UNCONFIRMED = Kind("unconfirmed", 409, "`confirm` is not the queue's name. Nothing was done.")
WORKER_REFUSED = Kind("worker-refused", 409, "The worker can't: `detail` says why.")
NOT_READY = Kind("not-ready", 503, "`checks` says what cannot be reached.")
WORKER_TIMEOUT = Kind("worker-timeout", 504, "The worker did not answer in time; it may do so all the same.")

#: Steps that are shown when nobody says since when.
DEFAULT_STEPS: dict[Period, int] = {"minute": 60, "hour": 24, "day": 30}

QueueName = Annotated[str, Field(description="A queue's name.")]
WorkerName = Annotated[str, Field(description="A worker's node name.")]


class StatisticsQuery(Query):
    """Which statistics."""

    since: Annotated[
        MomentInQuery | None,
        Field(description="A moment in the first step; without it, there are 60 minutes, 24 hours or 30 days."),
    ] = None
    until: Annotated[MomentInQuery | None, Field(description="A moment in the last step; now, without it.")] = None
    step: Period = "minute"
    task: Annotated[Name, Field(description="Only jobs of this task.")] = ""
    queue: Annotated[Name, Field(description="Only jobs of this queue.")] = ""

    def period(self, now: float) -> tuple[float, float]:
        """
        Return since when and until when, in seconds since 1970. If the one is after the other, there are no statistics.

        Nothing is after *now*, and nothing before what is still kept.
        """
        length, kept = PERIODS[self.step]
        until = now if self.until is None else min(now, self.until.timestamp())
        since = until - length * (DEFAULT_STEPS[self.step] - 1) if self.since is None else self.since.timestamp()
        return max(since, now - length * (kept - 1)), until


class MonitorEndpoint(ResourceEndpoint):
    """A route that reads or changes what is everybody's."""

    @property
    def monitor(self) -> Monitor:
        """Reads what goes on."""
        return Monitor(self.jobs.ledger)

    async def queues(self) -> list[documents.Queue]:
        """Return all queues."""
        queues, workers, paused = await asyncio.gather(
            self.monitor.queues(), self.monitor.workers(), self.jobs.ledger.queues.paused()
        )
        return documents.queues(queues, workers, self.jobs.catalogue.queues, paused)

    async def queue(self, name: str) -> documents.Queue:
        """Return a queue as it is. 404 for an unknown name."""
        for queue in await self.queues():
            if queue["name"] == name:
                return queue
        raise UNKNOWN_QUEUE("There is no queue of this name.")

    async def worker(self, name: str) -> WorkerState:
        """Return the living worker of this name. 404 if there is none, and 409 if there are several."""
        match [each for each in await self.monitor.workers() if each.name == name and each.is_alive]:
            case []:
                raise UNKNOWN_WORKER("There is no living worker of this name.")
            case [worker]:
                return worker
            case several:
                raise WORKER_REFUSED(f"{len(several)} workers have this name, and each would obey: give each its own.")


class ReadStatistics(MonitorEndpoint):
    """
    See what has happened to everybody's jobs.

    By minute (of the last 2 hours), hour (8 days) or day (400 days), UTC. What is no longer kept is left out.
    """

    route = get("/v1/statistics", scope="monitor", tag="monitoring")
    answers: ClassVar = {200: Answer("The statistics.")}

    async def answer(self, query: StatisticsQuery) -> documents.Statistics:
        history, now = await asyncio.gather(
            self.monitor.history(query.step, *query.period(time.time()), task=query.task, queue=query.queue),
            self.monitor.totals(),
        )
        return documents.statistics(query.step, history, now)


class ListQueues(MonitorEndpoint):
    """List the queues: how deep, and who takes from them."""

    route = get("/v1/queues", scope="monitor", tag="monitoring")
    answers: ClassVar = {200: Answer("The queues.")}

    async def answer(self) -> documents.Queues:
        return {"queues": await self.queues(), "next_cursor": None}


class PauseQueue(MonitorEndpoint):
    """
    Have no worker take from a queue.

    Now or later: workers that are started meanwhile do not either. What they have taken they run.
    """

    route = post("/v1/queues/{queue}/pause", scope="admin", tag="monitoring")
    answers: ClassVar = {200: Answer("The queue.")}
    problems: ClassVar = (UNKNOWN_QUEUE,)

    async def answer(self, queue: QueueName) -> documents.Queue:
        await self.queue(queue)
        await self.jobs.ledger.queues.pause(queue)
        return await self.queue(queue)


class ResumeQueue(MonitorEndpoint):
    """Have the workers take from a paused queue again."""

    route = post("/v1/queues/{queue}/resume", scope="admin", tag="monitoring")
    answers: ClassVar = {200: Answer("The queue.")}
    problems: ClassVar = (UNKNOWN_QUEUE,)

    async def answer(self, queue: QueueName) -> documents.Queue:
        await self.queue(queue)
        await self.jobs.ledger.queues.resume(queue)
        return await self.queue(queue)


class PurgeQueue(MonitorEndpoint):
    """
    End all jobs of a queue that have not begun.

    They are `REVOKED`, those too that are not due yet; then the broker's queue is emptied.
    """

    route = post("/v1/queues/{queue}/purge", scope="admin", tag="monitoring")
    answers: ClassVar = {200: Answer("What was in it.")}
    problems: ClassVar = (UNKNOWN_QUEUE, UNCONFIRMED, BROKER_UNAVAILABLE, RESULT_BACKEND_UNAVAILABLE)

    async def admit(self, **path: str) -> None:
        await self.queue(path["queue"])

    async def answer(self, queue: QueueName, body: documents.Purge) -> documents.Purged:
        if body.confirm != queue:
            raise UNCONFIRMED("`confirm` should be the queue's name: nothing was done.")
        by = f"{self.caller.owner} (key {self.caller.key_id})" if self.caller.key_id else "somebody"
        done = await self.jobs.bridge.purge(queue, f"queue {queue} was purged by {by}")
        return {"name": queue, "jobs": done.jobs, "messages": done.messages}


class ListWorkers(MonitorEndpoint):
    """List the workers, and what they run."""

    route = get("/v1/workers", scope="monitor", tag="monitoring")
    answers: ClassVar = {200: Answer("The workers.")}

    async def answer(self) -> documents.Workers:
        now = time.time()
        workers = [documents.worker(each, now) for each in await self.monitor.workers()]
        return {"workers": workers, "next_cursor": None}


class ShutDownWorker(MonitorEndpoint):
    """Have a worker end once its tasks have."""

    route = post("/v1/workers/{worker}/shutdown", scope="admin", tag="monitoring")
    answers: ClassVar = {202: Answer("It was told.")}
    problems: ClassVar = (UNKNOWN_WORKER, WORKER_REFUSED, BROKER_UNAVAILABLE)

    async def answer(self, worker: WorkerName) -> documents.WorkerAnswer:
        await self.worker(worker)
        await self.jobs.bridge.shut_down_worker(worker)
        return {"name": worker, "answer": "told to end once its tasks have"}


class ResizingEndpoint(MonitorEndpoint):
    """Changes how many tasks a worker runs at once."""

    answers: ClassVar = {200: Answer("What it said.")}
    problems: ClassVar = (UNKNOWN_WORKER, WORKER_REFUSED, WORKER_TIMEOUT, BROKER_UNAVAILABLE)
    #: 1 for more tasks, -1 for fewer.
    sign: ClassVar[int]

    async def answer(self, worker: WorkerName, body: documents.Resize = documents.Resize()) -> documents.WorkerAnswer:
        by, slots = self.sign * body.by, (await self.worker(worker)).slots
        if slots + by < 1:
            raise WORKER_REFUSED(f"It runs {slots} at once, and would run none: shut it down.")
        answer = await self.jobs.bridge.resize_pool(worker, by)
        if answer is None:
            raise WORKER_TIMEOUT("The worker did not answer; it may do so all the same.")
        if "ok" not in answer:
            raise WORKER_REFUSED(f"The worker says: {answer.get('error', answer)}")
        return {"name": worker, "answer": answer["ok"]}


class GrowWorker(ResizingEndpoint):
    """Have a worker run more tasks at once."""

    route = post("/v1/workers/{worker}/grow", scope="admin", tag="monitoring")
    sign = 1


class ShrinkWorker(ResizingEndpoint):
    """Have a worker run fewer tasks at once."""

    route = post("/v1/workers/{worker}/shrink", scope="admin", tag="monitoring")
    sign = -1


class ReadMetrics(MonitorEndpoint):
    """
    Metrics for Prometheus.

    Without the ledger, there are those that this process and those beside it count themselves.
    """

    route = get("/metrics", scope="monitor", tag="monitoring")
    answers: ClassVar = {200: Answer("Its text format, 0.0.4.", str, media_types=("text/plain",))}
    needs_ledger = False

    async def answer(self) -> None:
        try:
            counts, totals, queues, workers, runs = await asyncio.gather(
                *(self.monitor.counts(), self.monitor.totals(), self.queues(), self.monitor.workers()),
                self.jobs.bridge.schedules.statistics(),
            )
        except LedgerUnavailable as exc:
            _log.info("%s", exc)
            shown: Iterable[Metric] = families.ledger_is_up(False)
        else:
            shown = chain(
                families.ledger_is_up(True),
                families.ledger_families(counts, totals, queues, workers),
                families.schedule_families(runs),
            )
        body = await asyncio.to_thread(render, self.jobs.metrics, shown)
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(body)


class CheckHealth(ResourceEndpoint):
    """Is the process alive?"""

    route = get("/healthz", is_public=True, tag="service")
    answers: ClassVar = {200: Answer("Its loop turns.")}

    async def answer(self) -> documents.Health:
        return {"status": "alive"}


class Verbosity(Query):
    """How much to tell."""

    model_config = ConfigDict(extra="ignore")

    verbose: Annotated[
        str | None,
        Field(description="With it, whatever its value, admins are told of the broker and of what is unsafe."),
    ] = None


class CheckReadiness(ResourceEndpoint):
    """Can jobs be accepted and read?"""

    route = get("/readyz", is_public=True, tag="service")
    answers: ClassVar = {200: Answer("Now they can.")}
    problems: ClassVar = (NOT_READY, SHUTTING_DOWN)

    async def answer(self, query: Verbosity) -> documents.Readiness:
        if self.service.lifecycle.closing.is_set():
            raise SHUTTING_DOWN("This process is about to end.")
        checks, caller = await self.jobs.check(), await self.known_caller()
        if caller is None or not caller.may("monitor"):  # why names servers and their addresses
            checks = {name: reason and "not reachable" for name, reason in checks.items()}
        is_verbose = query.verbose is not None and caller is not None and caller.is_admin
        told = documents.readiness(checks, await self.jobs.diagnose() if is_verbose else None)
        if down := ", ".join(name for name, reason in checks.items() if reason):
            members = {name: value for name, value in told.items() if name != "status"}
            raise NOT_READY(f"Not reachable: {down}.", headers={"Retry-After": "1"}, members=members)
        return told
