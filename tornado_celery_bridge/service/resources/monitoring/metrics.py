"""
Metrics in Prometheus's text format.

There are two kinds. A web process counts what it does itself (requests, dispatches, waits, its loop) in memory. With
``--processes N`` the processes count in files that they share (prometheus_client's multiprocess mode), so whichever
process answers a scrape reports for all of them. Numbers about the deployment (jobs, queues, workers) are read from the
ledger at each scrape, so every process on every machine reports the same: take one of them, or the ``max``.
"""

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from tornado_celery_bridge import BridgeError, BrokerUnavailable, DispatchSaturated, DispatchUncertain, schedules
from tornado_celery_bridge import ledger as ledgers
from tornado_celery_bridge.service.resources.monitoring import documents

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: The variable with the folder that several processes share. prometheus_client reads it when it is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: Seconds between two measurements of the loop and checks of the broker.
TICK = 0.5

_REQUEST_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_DISPATCH_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_OUTCOMES: dict[type[BridgeError | None], str] = {
    type(None): "sent",
    BrokerUnavailable: "unavailable",
    DispatchSaturated: "saturated",
    DispatchUncertain: "uncertain",
}

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters of this process."""

    def __init__(self) -> None:
        self._registry = made = CollectorRegistry()
        self._requests = Counter(
            "tcb_http_requests", "Requests that were answered.", ("method", "route", "status"), registry=made
        )
        self._request_seconds = Histogram(
            *("tcb_http_request_seconds", "From a request's beginning to its end, waits and streams included."),
            ("route",),
            buckets=_REQUEST_BOUNDS,
            registry=made,
        )
        self._dispatches = Counter("tcb_dispatches", "Messages that were to be published.", ("outcome",), registry=made)
        self._dispatch_seconds = Histogram(
            "tcb_dispatch_seconds", "Until the broker had a message.", buckets=_DISPATCH_BOUNDS, registry=made
        )
        self._lag = Histogram(
            *("tcb_loop_lag_seconds", f"How late the event loop is, looked at every {TICK} s."),
            buckets=_LAG_BOUNDS,
            registry=made,
        )

        def gauge(name: str, told: str) -> Gauge:
            return Gauge(name, told, registry=made, multiprocess_mode="livesum")

        #: Requests that wait for a job's end, and streams of events.
        self.waiters = gauge("tcb_waiters", "Requests that wait for a job's end.")
        self.streams = gauge("tcb_streams", "Streams of events and WebSockets that are open.")
        self._broker_down = gauge("tcb_broker_down", "Web processes whose breaker is open: no broker.")
        self._processes = gauge("tcb_web_processes", "Web processes that this scrape tells of.")
        self._processes.set(1)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    async def dispatch(self, publishing: Awaitable[BridgeError | None]) -> None:
        """Wait for ``Bridge.publish``, and count it by its outcome."""
        begun, outcome = time.monotonic(), "refused"
        try:
            outcome = _OUTCOMES.get(type(await publishing), outcome)
            if outcome == "sent":
                self._dispatch_seconds.observe(time.monotonic() - begun)
        except BridgeError as exc:
            outcome = _OUTCOMES.get(type(exc), outcome)
            raise
        finally:
            self._dispatches.labels(outcome).inc()

    async def watch(self, ping_broker: Callable[[], Awaitable[None]]) -> None:
        """Measure the loop and check the broker, for ever. *ping_broker* raises if it is away, and must not block."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self._lag.observe(max(0.0, loop.time() - due))
            try:
                await ping_broker()
            except BrokerUnavailable:
                self._broker_down.set(1)
            else:
                self._broker_down.set(0)

    def registry(self) -> CollectorRegistry:
        """Return the registry of this process, or of all processes that share its folder. Reading it blocks."""
        folder = os.environ.get(FOLDER)
        if folder is None:
            return self._registry
        shared = CollectorRegistry()
        MultiProcessCollector(shared, folder)  # type: ignore[no-untyped-call]
        return shared


def forget_process(pid: int, folder: str) -> None:
    """Stop counting what an ended process was doing at its end. What it had counted stays."""
    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def render(metrics: Metrics, families: Iterable[Metric]) -> bytes:
    """Return the answer to a scrape: *metrics*, then *families*. It reads files and takes some milliseconds."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(metrics.registry()) + generate_latest(registry)


# Of the deployment.


def ledger_is_up(answers: bool) -> Iterator[Metric]:
    """Yield whether the ledger answers."""
    yield GaugeMetricFamily("tcb_ledger_up", "Whether the ledger's Redis answers.", value=float(answers))


def ledger_families(
    counts: Mapping[tuple[str, str], ledgers.Counts],
    totals: ledgers.Totals,
    queues: Sequence[documents.Queue],
    workers: Sequence[ledgers.WorkerState],
) -> Iterator[Metric]:
    """Yield the ledger's metrics about jobs, queues and workers."""
    yield from _job_families(counts)
    states = [((state,), many) for state, many in totals._asdict().items()]
    yield _gauge("tcb_jobs", "Jobs that there are now; of ended ones those that are kept.", ["state"], states)
    yield from _queue_families(queues)
    yield from _worker_families(workers)


_Rows = Iterable[tuple[Sequence[str], float]]


def _gauge(name: str, text: str, labels: Sequence[str], rows: _Rows) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def _counter(name: str, text: str, labels: Sequence[str], rows: _Rows) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: _Rows) -> Metric:
    for values, many in rows:
        family.add_metric(values, many)
    return family


def _job_families(counts: Mapping[tuple[str, str], ledgers.Counts]) -> Iterator[Metric]:
    labels = ["queue", "task"]
    told = {
        "accepted": "Jobs that were accepted.",
        "withdrawn": "Jobs that were accepted and could not be published: the answer was a 503.",
        "started": "Attempts that began.",
        "retried": "Attempts that asked for another.",
        "lost": "Attempts whose worker was lost.",
        "republished": "Messages that were published again, as they or their worker seemed lost.",
    }
    for name, text in told.items():
        rows = [(series, getattr(each, name)) for series, each in counts.items()]
        yield _counter(f"tcb_jobs_{name}", text, labels, rows)
    outcomes = ("succeeded", "failed", "revoked")
    ended = [((*series, name), getattr(each, name)) for series, each in counts.items() for name in outcomes]
    yield _counter("tcb_jobs_finished", "Jobs that have ended.", [*labels, "outcome"], ended)
    for name, attribute, text in (
        ("wait", "waits", "From when an attempt was due until it began."),
        ("run", "runs", "From the beginning of a job's last attempt to its end."),
    ):
        histogram = HistogramMetricFamily(f"tcb_job_{name}_seconds", text, labels=labels)
        for series, each in counts.items():
            histogram.add_metric([*series], *_cumulative(getattr(each, attribute)))
        yield histogram


def _cumulative(histogram: ledgers.Histogram) -> tuple[list[tuple[str, float]], float]:
    bounds = [*map(str, ledgers.BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.buckets)), strict=True)), histogram.seconds


def _queue_families(queues: Sequence[documents.Queue]) -> Iterator[Metric]:
    told: dict[str, tuple[str, Callable[[documents.Queue], float]]] = {
        "depth": ("Jobs in a queue that are due and have not begun.", lambda queue: queue["depth"]),
        "scheduled": ("Jobs in a queue that are not due yet.", lambda queue: queue["scheduled"]),
        "oldest_seconds": ("For how long the first job of a queue has waited.", lambda queue: queue["oldest"]),
        "consumers": ("Living workers that take from a queue.", lambda queue: queue["consumers"]),
        "paused": ("Whether no worker is to take from a queue.", lambda queue: queue["paused_since"] is not None),
    }
    for name, (text, value) in told.items():
        rows = [((queue["name"],), float(value(queue))) for queue in queues]
        yield _gauge(f"tcb_queue_{name}", text, ["queue"], rows)


def _worker_families(workers: Sequence[ledgers.WorkerState]) -> Iterator[Metric]:
    alive = [worker for worker in workers if worker.is_alive]
    label, up = ["worker"], [((worker.name,), float(worker.is_alive)) for worker in workers]
    slots = [((worker.name,), worker.slots) for worker in alive]
    jobs = [((worker.name,), len(worker.jobs)) for worker in alive]
    yield _gauge("tcb_worker_up", "Whether a worker was heard of in the last 10 s.", label, up)
    yield _gauge("tcb_worker_slots", "Tasks that a living worker runs at once.", label, slots)
    yield _gauge("tcb_worker_jobs", "Jobs that a living worker runs.", label, jobs)


def schedule_families(told: schedules.Statistics) -> Iterator[Metric]:
    """Yield the metrics about schedules."""
    made = told.entries - told.static - told.quarantined
    kinds = [(("made",), made), (("static",), told.static), (("quarantined",), told.quarantined)]
    yield _gauge("tcb_schedules", "Schedule entries.", ["kind"], kinds)
    leads = float(told.leader is not None)
    yield GaugeMetricFamily("tcb_beat_leader", "Whether a beat leads.", value=leads)
    yield CounterMetricFamily("tcb_beat_leaders", "Beats that came to lead, one after another.", value=told.leaders)
    overdue = "For how long the first entry that is due has been: no beat leads, or it does not keep up."
    yield GaugeMetricFamily("tcb_schedule_overdue_seconds", overdue, value=told.overdue)
    runs = [(("begun",), told.runs), (("missed",), told.missed), (("skipped",), told.skipped)]
    yield _counter("tcb_schedule_runs", "Runs that were due, and what came of them.", ["outcome"], runs)
    yield CounterMetricFamily("tcb_schedules_halted", "Entries that were halted by their failures.", value=told.paused)
    buckets = [("+Inf" if bound == math.inf else str(bound), float(many)) for bound, many in told.lateness.items()]
    late = "How late runs began."
    yield HistogramMetricFamily("tcb_schedule_lateness_seconds", late, buckets, told.lateness_sum)
