"""
Metrics of the deployment (jobs, queues, workers, schedules), which are read from the ledger at each scrape.

Every process on every machine reports the same: take one of them, or the ``max``.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from tornado_celery_bridge import ledger as ledgers
from tornado_celery_bridge import schedules
from tornado_celery_bridge.service.resources.monitoring import documents


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
    label = ["worker"]
    up = _by_name({worker.name: float(worker.is_alive) for worker in workers})
    slots, jobs = Counter[str](), Counter[str]()  # of several with one name, all together
    for worker in alive:
        slots[worker.name] += worker.slots
        jobs[worker.name] += len(worker.jobs)
    behind = {worker.name: worker.behind for worker in alive}
    yield _gauge("tcb_worker_up", "Whether a worker was heard of in the last 10 s.", label, up)
    yield _gauge("tcb_worker_slots", "Tasks that a living worker runs at once.", label, _by_name(slots))
    yield _gauge("tcb_worker_jobs", "Jobs that a living worker runs.", label, _by_name(jobs))
    about = "Seconds by which a living worker's clock is behind the ledger's Redis; negative if it is ahead."
    yield _gauge("tcb_worker_clock_behind_seconds", about, label, _by_name(behind))


def _by_name(values: Mapping[str, float]) -> list[tuple[tuple[str], float]]:
    return [((name,), value) for name, value in values.items()]


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
