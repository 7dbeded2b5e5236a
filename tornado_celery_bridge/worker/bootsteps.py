"""What a worker and a beat do as they start: check their settings, guard the tasks, keep the jobs."""

import functools
import logging
import os
from typing import Any

from celery import Celery, bootsteps, signals
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import symbol_by_name

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.heartbeat import watch_beat
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.base.store import Store
from tornado_celery_bridge.ledger.checks import refuse_unsafe
from tornado_celery_bridge.worker.guard import guard
from tornado_celery_bridge.worker.keeper import Keeper
from tornado_celery_bridge.worker.loglines import LogLines
from tornado_celery_bridge.worker.messages import keep_message
from tornado_celery_bridge.worker.request import job_request

log = logging.getLogger(__name__)


class CheckSettings(bootsteps.Step):
    """Before anything is forked, and once the log is set up."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        try:
            refuse_unsafe(worker.app)
            tracing.set_up("worker")
        except (ImproperlyConfigured, SettingsError) as exc:
            raise _refused(exc) from exc


class GuardTasks(bootsteps.Step):
    """After the worker has imported the tasks, and before it builds what runs them."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        Store.of_app(worker.app)  # a store that can't be used is to be known now
        for task in worker.app.tasks.values():
            guard(task, worker.app)
            task.Request = job_request(symbol_by_name(task.Request))
        signals.task_postrun.connect(_close_attempt, weak=False, dispatch_uid=__name__)
        LogLines.install()


def _close_attempt(*, task: Any, state: str | None = None, retval: Any = None, **_: Any) -> None:
    request = task.request
    if (attempt := vars(request).get("attempt")) is not None:
        attempt.close(task, request, state, retval)


class KeepJobs(bootsteps.StartStopStep):
    """In the worker's main process, until the last of its tasks has ended: a warm shutdown waits for them."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        # Of a pool that grows and shrinks, as many as there are now.
        self._keeper = Keeper(
            worker.app, worker.hostname, lambda: getattr(worker.pool, "num_processes", None) or worker.concurrency
        )
        self._keeper.hold_back()
        keep = functools.partial(keep_message, worker.app)
        signals.before_task_publish.connect(keep, weak=False, dispatch_uid=f"keep-{id(worker.app)}")

    def start(self, worker: Any) -> None:
        """Begin, once the pool runs."""
        # Not stop(), which comes before the pool's, and so before the tasks have ended.
        signals.worker_shutdown.connect(self._end, weak=False)
        self._keeper.start()

    def terminate(self, worker: Any) -> None:
        """End, before the pool is ended with what it runs: a cold shutdown, of which Celery sends no signal."""
        self._keeper.stop()

    def _end(self, **_: Any) -> None:
        self._keeper.stop()


def begin_beat(app: Celery, *, sender: Any, **_: Any) -> None:
    """Check the settings of a beat, and have its supervisor see that it lives; connected to ``beat_init``."""
    if sender.app is app:
        try:
            refuse_unsafe(app)
        except SettingsError as exc:
            raise _refused(exc) from exc
        watch_beat(sender)


def _refused(why: Exception) -> SystemExit:
    """Log why a process does not start, and return what ends it: to start it again would not help."""
    log.critical("%s", why)
    return SystemExit(os.EX_CONFIG)
