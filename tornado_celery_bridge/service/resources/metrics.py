"""
Metrics in Prometheus's text format.

A web process counts what it does itself (requests, dispatches, waits, its loop) in memory. With ``--processes N`` the
processes count in files that they share (prometheus_client's multiprocess mode), so whichever process answers a scrape
reports for all of them. What is read from the ledger is in ``monitoring.families``.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from tornado_celery_bridge import BridgeError, BrokerUnavailable, DispatchSaturated, DispatchUncertain

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
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def render(metrics: Metrics, families: Iterable[Metric]) -> bytes:
    """Return the answer to a scrape: *metrics*, then *families*. It reads files and takes some milliseconds."""
    return generate_latest(metrics.registry()) + generate_latest(_Families(families))
