"""What a worker and a beat do as they start: check their settings, guard the tasks, keep the jobs."""

import atexit
import functools
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps, signals, states
from celery.concurrency import solo
from celery.exceptions import ImproperlyConfigured, WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state
from celery.worker.state import Persistent
from kombu.exceptions import DecodeError

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.forks import mend_locks
from tornado_celery_bridge.base.heartbeat import watch_beat
from tornado_celery_bridge.base.logs import hide_passwords
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.base.shelf import put_aside
from tornado_celery_bridge.base.store import Store
from tornado_celery_bridge.base.versions import CANCEL_REQUESTS, SAYS_COLD_SHUTDOWN, acknowledge_at_once
from tornado_celery_bridge.ledger.checks import Unsafe, refuse_unsafe
from tornado_celery_bridge.transports.core import SetupRefused
from tornado_celery_bridge.transports.rabbitmq import TIMED_OUT
from tornado_celery_bridge.transports.redis import acknowledging_together
from tornado_celery_bridge.worker.guard import guard, settle
from tornado_celery_bridge.worker.keeper import Keeper
from tornado_celery_bridge.worker.loglines import LogLines
from tornado_celery_bridge.worker.messages import keep_message
from tornado_celery_bridge.worker.pool import EndsTasks, can_end_tasks, telling
from tornado_celery_bridge.worker.request import TAKEN, fail_long_ones, job_request

log = logging.getLogger(__name__)


class CheckSettings(bootsteps.Step):
    """Before anything is forked, and once the log is set up."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        hide_passwords(worker.app)
        if worker.statedb and (said := put_aside(Path(worker.statedb), read_revoked)):
            log.warning("%s", said)
        try:
            refuse_unsafe(worker.app, "worker")
            Store.of_app(worker.app)  # a store that can't be used is to be known now
            tracing.set_up("worker")
        except (ImproperlyConfigured, SettingsError) as exc:
            raise _refused(exc) from exc


class _Revoked(Persistent):
    """Which tasks were revoked, as Celery reads it later."""

    def merge(self) -> None:
        try:
            super().merge()
        finally:  # else the collector closes it, and writes to what was put aside
            self.close()


def read_revoked(name: str) -> None:
    """Read a worker's file of state."""
    _Revoked(worker_state, name)


class GuardTasks(bootsteps.Step):
    """After the worker has imported the tasks, and before it builds what runs them."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        worker.pool_cls = telling(worker.pool_cls)
        TIMED_OUT.append(lambda seconds: fail_long_ones(worker.pool, seconds))
        mend_locks()  # processes are forked while the keeper's threads run
        if not can_end_tasks(worker.pool_cls):
            log.warning(
                "%s can't end a task: time limits do not hold, and a cancel with terminate waits for the task's code. "
                "A worker with --pool prefork can",
                worker.pool_cls.__module__,
            )
        settle(worker.app)  # of tasks that were made late, too
        for task in worker.app.tasks.values():
            try:
                guard(task, worker.app, can_end=can_end_tasks(worker.pool_cls, task))
            except ImproperlyConfigured as exc:
                raise _refused(exc) from exc
            task.Request = job_request(symbol_by_name(task.Request))
        signals.task_postrun.connect(_close_attempt, weak=False, dispatch_uid=__name__)
        LogLines.install()


def _close_attempt(*, task: Any, state: str | None = None, retval: Any = None, **_: Any) -> None:
    request = task.request
    if (attempt := vars(request).get("attempt")) is not None:
        attempt.close(task, request, state, retval)


class EndUnreadable(bootsteps.Step):
    """
    In the consumer: a task whose message nobody can read fails, with the reason.

    Celery drops such a message without telling anybody. If it is not a message of Celery's at all, Celery ends the
    worker, and with it each one that takes the message after that.
    """

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        decode_error, invalid_task = consumer.on_decode_error, consumer.on_invalid_task
        create_task_handler = consumer.create_task_handler

        def on_decode_error(message: Any, exc: Exception) -> None:
            decode_error(message, exc)
            _fail(consumer.app, message, exc)

        def on_invalid_task(body: Any, message: Any, exc: Exception) -> None:
            invalid_task(body, message, exc)
            _fail(consumer.app, message, exc)

        def create(**options: Any) -> Callable[[Any], Any]:
            handle = create_task_handler(**options)

            def on_task_received(message: Any) -> Any:
                return handle(message) if _is_task(message) else consumer.on_unknown_message(None, message)

            return on_task_received

        consumer.on_decode_error, consumer.on_invalid_task = on_decode_error, on_invalid_task
        consumer.create_task_handler = create


class AcknowledgeTogether(bootsteps.Step):
    """In the consumer: messages that are acknowledged in one turn of the worker's event loop share a round trip."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        hub, waiting = consumer.hub, deque[Callable[[], object]]()
        if hub is None:
            acknowledge_at_once(consumer)
            return
        is_asked = False

        def acknowledge() -> None:
            nonlocal is_asked
            is_asked = False  # in this order: what comes from now on asks again
            with acknowledging_together():
                while waiting:
                    waiting.popleft()()

        def call_soon(call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
            nonlocal is_asked
            waiting.append(functools.partial(call, *args, **kwargs))  # from any thread: of the threads pool
            if not is_asked:
                is_asked = True
                hub.call_soon(acknowledge)

        setattr(consumer, "call_soon_ack" if hasattr(consumer, "call_soon_ack") else "call_soon", call_soon)


class EndForGood(bootsteps.Step):
    """In the consumer: a worker whose broker will not serve it as it is set up ends, and says why in one line."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        start = consumer.start

        def started() -> None:
            try:
                start()
            except SetupRefused as exc:
                raise _refused(exc) from exc

        consumer.start = started


class StopTasks(bootsteps.Step):
    """In the consumer: a worker that stops at once (QUIT) ends each task that it has given to its pool."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        pool = consumer.pool

        def stop() -> None:
            if isinstance(pool, solo.TaskPool):
                if not vars(pool).pop("has_time", False) and worker_state.active_requests:
                    worker_state.should_terminate = EX_FAILURE  # type: ignore[assignment]  # 5.6 does so after this
                    raise WorkerTerminate(EX_FAILURE)  # in the task's code, as a signal's handler calls this
                return
            for request in list(TAKEN):
                request.stop(pool)
            if not SAYS_COLD_SHUTDOWN:
                worker_state.should_terminate = True  # type: ignore[assignment]

        setattr(consumer, CANCEL_REQUESTS, stop)


def _is_task(message: Any) -> bool:
    """Return whether *message* has the shape of a task's, or can't be read."""
    try:
        headers, payload = message.headers or {}, message.payload
    except Exception:
        return True  # which is told as what it is
    match headers, payload:
        case {"task": str(), "id": str()}, [list() | tuple(), dict(), _] | {"args": _}:
            return True
        case _, {"task": str(), "id": str()} if "task" not in headers:  # of Celery's first protocol
            return True
    return False


def _fail(app: Celery, message: Any, exc: Exception) -> None:
    """End the task of a message that can't be read."""
    task_id = (message.headers or {}).get("id")
    if isinstance(task_id, str):
        told = DecodeError(f"the worker can't read the task's message: {exc}")
        app.backend.store_result(task_id, told, states.FAILURE)


class KeepJobs(bootsteps.StartStopStep):
    """In the worker's main process, until the last of its tasks has ended: a warm shutdown waits for them."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        worker.wait_for_soft_shutdown = functools.partial(_wait_for_running, worker)
        self._keeper = Keeper(worker.app, worker)
        self._keeper.hold_back()
        self._keep = functools.partial(keep_message, worker.app)
        signals.before_task_publish.connect(self._keep, weak=False)

    def start(self, worker: Any) -> None:
        """Begin, once the pool runs."""
        # Not stop(), which comes before the pool's, and so before the tasks have ended.
        signals.worker_shutdown.connect(self._end, weak=False)
        self._keeper.start()

    def terminate(self, worker: Any) -> None:
        """End, once the pool has ended with what it runs: a cold shutdown, of which Celery sends no signal."""
        worker.pool.terminate()
        if not all(can_end_tasks(type(worker.pool), each.task) for each in worker_state.active_requests):
            # What runs in threads ends with this process, and not before. Python would wait for it.
            at_exit: Any = threading
            at_exit._register_atexit(functools.partial(self._end_process, worker))
        else:
            self._end()

    def _end_process(self, worker: Any) -> None:
        self._end()
        atexit._run_exitfuncs()
        os._exit(worker.exitcode or os.EX_OK)

    def _end(self, **_: Any) -> None:
        self._keeper.stop()
        signals.before_task_publish.disconnect(self._keep)
        signals.worker_shutdown.disconnect(self._end)


def _wait_for_running(worker: Any) -> None:
    """
    Wait, in the place of Celery's soft shutdown, in which running tasks may end: until the signal comes once more.

    Celery's own waits for all of ``worker_soft_shutdown_timeout``, also where nothing runs any more, and no time limit
    holds meanwhile: this is called by the signal's handler, and the worker's event loop stands still.
    """
    timeout, pool = worker.app.conf.get("worker_soft_shutdown_timeout") or 0, worker.pool
    if timeout <= 0 or not worker_state.active_requests:
        return
    log.warning("running tasks have %g s to end; once more ends them now", timeout)
    if isinstance(pool, solo.TaskPool):  # the task runs in this thread, and goes on as this returns
        vars(pool)["has_time"] = True
        once_more = threading.Timer(timeout, os.kill, (os.getpid(), signal.SIGQUIT))
        once_more.daemon = True
        once_more.start()
        return
    handler, until = signal.getsignal(signal.SIGQUIT), time.monotonic() + timeout
    while time.monotonic() < until and signal.getsignal(signal.SIGQUIT) is handler:
        if not (pool.look_after() if isinstance(pool, EndsTasks) else worker_state.active_requests):
            break
        time.sleep(0.1)


def begin_beat(app: Celery, *, sender: Any, **_: Any) -> None:
    """Check the settings of a beat, and have its supervisor see that it lives; connected to ``beat_init``."""
    if sender.app is app:
        try:
            refuse_unsafe(app, "beat")
        except SettingsError as exc:
            raise _refused(exc) from exc
        watch_beat(sender)


def _refused(why: Exception) -> SystemExit:
    """Log why a process does not start, and return what ends it: to start it again would not help."""
    for each in why.findings if isinstance(why, Unsafe) else [why]:  # a log's line is one line
        log.critical("%s", each)
    return SystemExit(os.EX_CONFIG)
