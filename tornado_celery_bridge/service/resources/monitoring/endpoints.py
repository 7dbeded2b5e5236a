"""What goes on, for whoever watches all jobs: statistics, queues and workers, by the scope ``monitor``."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, ClassVar, NamedTuple

from prometheus_client import Metric
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from tornado_celery_bridge.ledger import PERIODS, LedgerUnavailable, Monitor, Period
from tornado_celery_bridge.service.http.handler import ApiHandler
from tornado_celery_bridge.service.http.query import parse_query
from tornado_celery_bridge.service.resources import documents, representation
from tornado_celery_bridge.service.resources.monitoring import metrics

__all__ = ("MetricsHandler", "MonitorHandler", "QueuesHandler", "StatisticsHandler", "WorkersHandler")

_log = logging.getLogger(__name__)

#: Steps that are shown when nobody says since when.
DEFAULT_STEPS: dict[Period, int] = {"minute": 60, "hour": 24, "day": 30}

Moment = Annotated[AwareDatetime, BeforeValidator(datetime.fromisoformat)]


class StatisticsQuery(BaseModel):
    """Which statistics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: Moment | None = None
    until: Moment | None = None
    step: Period = "minute"
    task: Annotated[str, Field(max_length=500)] = ""
    queue: Annotated[str, Field(max_length=500)] = ""


class Selection(NamedTuple):
    """Which statistics, with moments in seconds since 1970; there are none if *since* is after *until*."""

    step: Period
    since: float
    until: float
    task: str
    queue: str


def parse_selection(query: Mapping[str, Sequence[bytes]], now: float) -> Selection:
    """
    Return what a query asks for, of what there may be: nothing after *now*, nor what is no longer kept.

    Raises:
        Problem: 400, with what is unknown or does not fit.
    """
    asked = parse_query(StatisticsQuery, query)
    length, kept = PERIODS[asked.step]
    until = now if asked.until is None else min(now, asked.until.timestamp())
    since = until - length * (DEFAULT_STEPS[asked.step] - 1) if asked.since is None else asked.since.timestamp()
    return Selection(asked.step, max(since, now - length * (kept - 1)), until, asked.task, asked.queue)


class MonitorHandler(ApiHandler):
    """What they share."""

    scopes: ClassVar = {"GET": "monitor"}

    @property
    def monitor(self) -> Monitor:
        """Reads what goes on."""
        return Monitor(self.jobs.ledger)

    async def queues(self) -> list[documents.Queue]:
        """Return all queues."""
        queues, workers, paused = await asyncio.gather(
            self.monitor.queues(), self.monitor.workers(), self.jobs.ledger.queues.paused()
        )
        return representation.queues(queues, workers, self.jobs.catalogue.queues, paused)

    def write_list(self, name: str, found: Sequence[Any]) -> None:
        """Answer with a list that has one page."""
        self.write_json({name: found, "next_cursor": None})


class StatisticsHandler(MonitorHandler):
    """``/v1/statistics``"""

    async def get(self) -> None:
        step, since, until, task, queue = parse_selection(self.request.query_arguments, time.time())
        history, now = await asyncio.gather(
            self.monitor.history(step, since, until, task=task, queue=queue), self.monitor.totals()
        )
        self.write_json(representation.statistics(step, history, now))


class QueuesHandler(MonitorHandler):
    """``/v1/queues``"""

    async def get(self) -> None:
        self.write_list("queues", await self.queues())


class WorkersHandler(MonitorHandler):
    """``/v1/workers``"""

    async def get(self) -> None:
        now = time.time()
        self.write_list("workers", [representation.worker(each, now) for each in await self.monitor.workers()])


class MetricsHandler(MonitorHandler):
    """``/metrics``; without the ledger what this process, and those beside it, can tell by themselves."""

    needs_ledger = False

    async def get(self) -> None:
        try:
            counts, totals, queues, workers, runs = await asyncio.gather(
                *(self.monitor.counts(), self.monitor.totals(), self.queues(), self.monitor.workers()),
                self.jobs.bridge.schedules.statistics(),
            )
        except LedgerUnavailable as exc:
            _log.info("%s", exc)
            families: Iterable[Metric] = metrics.ledger_is_up(False)
        else:
            families = chain(
                metrics.ledger_is_up(True),
                metrics.ledger_families(counts, totals, queues, workers),
                metrics.schedule_families(runs),
            )
        body = await asyncio.to_thread(metrics.render, self.jobs.metrics, families)
        self.set_header("Content-Type", metrics.CONTENT_TYPE)
        self.finish(body)
