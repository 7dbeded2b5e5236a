"""
Whether a worker's work goes on, which is more than that its main process does.

A worker whose pool takes no task any more, or whose channel to the broker is closed, has a main process that runs, and
looks alive. So a worker gives the supervisor a sign of life (:mod:`tornado_celery_bridge.base.heartbeat`) only if
neither is so. Else the supervisor starts it again, and monitors no longer show it.
"""

import logging
import time
from typing import Any

from celery import bootsteps
from celery.concurrency import solo
from celery.worker import state as worker_state

from tornado_celery_bridge.base.heartbeat import INTERVAL, answers, of_environment

log = logging.getLogger(__name__)

#: Seconds for which a worker may have a free slot and a task at hand, and begin none: a process may have to be started.
PATIENCE = 30.0


class Work:
    """
    Tells whether a worker's work goes on. Ask it every few seconds: it remembers since when it does not.

    Args:
        worker: Celery's ``WorkController``.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._begun: int | None = None
        self._since = 0.0

    def fault(self) -> str:
        """Return why the work does not go on; '' if it does."""
        if self._is_disconnected():
            return "its channel to the broker is closed"
        return "its pool takes no task" if self._has_stopped() else ""

    def _is_disconnected(self) -> bool:
        consumer: Any = getattr(self._worker, "consumer", None)  # it comes last
        channel = getattr(getattr(consumer, "task_consumer", None), "channel", None)
        if channel is None or consumer.connection is None:  # it connects
            return False
        return bool(getattr(channel, "closed", False)) or not getattr(channel, "is_open", True)

    def _has_stopped(self) -> bool:
        running = len(worker_state.active_requests)
        waits = len(worker_state.reserved_requests) > running
        begun = sum(worker_state.total_count.values())
        now = time.monotonic()
        if not waits or running >= slots_of(self._worker) or begun != self._begun:
            self._begun, self._since = begun, now
        return now - self._since > PATIENCE


def slots_of(worker: Any) -> int:
    """Return how many tasks a worker runs at once: in a pool that grows and shrinks, as many as there are now."""
    return int(getattr(worker.pool, "num_processes", None) or worker.concurrency)  # a pool that has ended has none


class WorkerHeartbeat(bootsteps.Step):
    """
    Ticks by the worker's timer, as long as the work goes on. The worker's event loop runs the timer; with threads or
    gevent a thread of its own does.

    Workers with the solo pool have no heartbeat. Their tasks run in the loop, so a long task looks like a hung one.
    """

    requires = ("celery.worker.components:Timer",)

    def include_if(self, worker: Any) -> bool:
        return not issubclass(worker.pool_cls, solo.TaskPool)

    def create(self, worker: Any) -> None:
        def ends() -> bool:
            return worker.blueprint.human_state() in ("closing", "terminating")

        def is_excused() -> bool:
            return ends() or worker.consumer.connection is None or not (told or answers(worker.app))

        def tick() -> None:
            fault = "" if ends() else work.fault()
            if not fault:
                heartbeat.tick()
            elif not told:
                log.critical("this worker runs nothing any more: %s", fault)
            told[:] = [fault] if fault else []

        work, told = Work(worker), list[str]()
        heartbeat: Any = of_environment(is_excused)
        if heartbeat:
            worker.timer.call_repeatedly(INTERVAL / 2, tick)
