"""
The worker's side of the ledger: ``install(app)``, one line beside the Celery app.

What it adds to a stock worker, and where:

- before a task's code: a job that was cancelled, has ended, or came a second time is not run; else it is STARTED
  (each task's ``run`` is wrapped as a worker starts, as Celery itself does for ``autoretry_for``);
- whenever the worker stores a state: the same goes into the ledger (the result backend is a subclass of the app's
  own, found by the loader's ``override_backends``), where both are in one Redis in one step. So what ends a task ends
  the job, be it a return, an exception, a retry, a hard time limit, an expiry or a revoke;
- around a task's code: what stands for a large argument is loaded, and a large result goes to the store, with a
  reference in its place for all that Celery does with it (see :mod:`.._store`). Who reads a result by this app gets it;
- while a task runs: what it logs by ``get_task_logger`` becomes the job's events; with ``LOG_FORMAT=json`` all that a
  worker or beat logs is JSON (see :mod:`..logs`), and each attempt is a span of OpenTelemetry's, where that is
  installed (see :mod:`..tracing`);
- before a worker publishes a job's message, be it of a retry or of what comes next in a chain: the ledger keeps it;
- beside all of that, in the worker's main process: a :class:`Keeper`, which finds what was lost and leaves queues
  that are paused, and a heartbeat for its supervisor (see :mod:`..heartbeat`; beat has one, too).

A worker or a beat whose settings or servers are unsafe does not start: see :mod:`.checks`.

A task says of its jobs, by options of its own, over all workers:

- ``max_concurrency``: how many may run at once;
- ``max_rate``: how many may begin in a time, as ``"10/s"``, spelt as Celery spells ``rate_limit``;
- ``limit_by``: the parameter by whose value both are counted, each for itself;
- ``unique``: a job is not accepted twice while it is unfinished (for who accepts it, see ``Ledger.accept``).

A task that is no job's costs one question to Redis when it starts and one when it ends.
"""

import functools
import hashlib
import inspect
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from celery import Celery, bootsteps, signals, states
from celery.app.backends import by_name
from celery.app.task import Context
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import Ignore, ImproperlyConfigured, Reject
from celery.utils.time import rate
from kombu.utils import json
from redis.exceptions import OutOfMemoryError, RedisError

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.heartbeat import WorkerHeartbeat, watch_beat
from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.logs import follow_environment
from tornado_celery_bridge.base.store import Store, Stored
from tornado_celery_bridge.exceptions import StoreUnavailable
from tornado_celery_bridge.ledger.blocking import Limit, Told, WorkerLedger
from tornado_celery_bridge.ledger.checks import refuse_unsafe
from tornado_celery_bridge.progress import STATE as PROGRESS
from tornado_celery_bridge.worker.keeper import Keeper, is_keeper

__all__ = ("JobCancelled", "install")

log = logging.getLogger(__name__)

#: What Celery puts before a routing key for RabbitMQ to hold a message back: its delay in seconds, bit by bit.
_DELAY = re.compile(r"^(?:[01]\.)+")

#: A frame in a traceback: the last two parts of the file's path, as folders differ from worker to worker; the function.
_FRAME = re.compile(r'^  File "(?:[^"\n]*?/)??((?:[^"/\n]+/)?[^"/\n]+)", line \d+, in (.+)$', re.MULTILINE)
#: Characters of a traceback's end that it is looked for in.
MAX_TRACEBACK = 20_000

#: Characters of one log line that become an event.
MAX_LINE = 4_000

#: ``job``: the id and the app of what runs in this thread; ``attempt``: the id and the token of what ran last.
_running = threading.local()


class JobCancelled(Ignore):
    """
    Raised by ``progress()`` in a job that was cancelled: clean up, and let it pass.

    .. versionadded:: 0.1.0
    """


def install(app: Celery) -> None:
    """
    Have *app*'s workers keep the ledger. Call it once, beside the app; with the ledger's URL in ``job_ledger_url``.

    .. versionadded:: 0.1.0
    """
    follow_environment()
    tracing.follow_publishing()  # before what keeps messages
    tracing.follow_tasks()
    app.steps["worker"].update((_CheckSettings, _GuardTasks, _KeepJobs, WorkerHeartbeat))
    signals.beat_init.connect(functools.partial(_begin_beat, app), weak=False, dispatch_uid=f"beat-{id(app)}")
    if app.configured:  # type: ignore[attr-defined]
        _record_states(app)
    else:
        app.on_after_configure.connect(lambda **_: _record_states(app), weak=False)


@functools.cache
def _ledger_of(app: Celery) -> WorkerLedger:
    return WorkerLedger(app)


@functools.cache
def _store_of(app: Celery) -> Store | None:
    return Store.of_app(app)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Whenever a state is stored.


class _Recording:
    """Mixed into the app's result backend: what it stores goes into the ledger as well."""

    #: What :func:`tornado_celery_bridge.ledger.checks.is_installed` looks for.
    keeps_the_ledger = True

    app: Celery

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        # Else Celery ends as a FAILURE what could not be said to have started, or to have succeeded.
        return isinstance(exc, OutOfMemoryError) or bool(super().exception_safe_to_retry(exc))  # type: ignore[misc]

    def meta_from_decoded(self, meta: Any) -> Any:
        meta = super().meta_from_decoded(meta)  # type: ignore[misc]
        if isinstance(meta["result"], Stored) and not getattr(_running, "passes_on", False):
            meta["result"] = _loaded(meta["result"], self.app)
        return meta

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> Any:
        with _passing_on():
            return super().on_chord_part_return(*args, **kwargs)  # type: ignore[misc]

    def store_result(self, task_id: str, result: Any, state: str, traceback: Any = None, **kwargs: Any) -> Any:
        ledger = _ledger_of(self.app)
        told: dict[str, Any] = {}
        if state in _TOLD_BY_THE_LEDGER and _has_results_beside(self.app):
            stored = self.encode_result(result, state)  # type: ignore[attr-defined]
            telling = self._telling(task_id, stored, state, traceback, kwargs.get("request"))
            if state == states.STARTED:  # which `_begin` says, if the task is to run
                _running.started = task_id, telling
                return stored
            told["told"] = telling
        else:
            with _passing_on():
                stored = super().store_result(task_id, result, state, traceback, **kwargs)  # type: ignore[misc]
        if state in states.READY_STATES:
            attempt = getattr(_running, "attempt", None)
            token = attempt[1] if attempt and attempt[0] == task_id else ""
            value = result if state == states.SUCCESS else _error(result)
            trace = tracing.current_headers().get("traceparent", "")
            place = _place(traceback)
            more = {"traceback": traceback, "place": place, "traceparent": trace, **told}
            self._ensure_retryable(ledger.finish, task_id, state, value, token, **more)  # type: ignore[attr-defined]
        elif state == states.RETRY:
            error = _error(result)
            told = {"state": state, "error": error}
            retries = getattr(kwargs.get("request"), "retries", None)
            ledger.report(task_id, "state", told, state, error, retries=retries)
        elif state not in (states.STARTED, states.PENDING):
            kind = "progress" if state == PROGRESS else "state"
            data = result if state == PROGRESS else {"state": state}
            if ledger.report(task_id, kind, data, state, result) == "cancelled":
                raise JobCancelled(f"job {task_id} was cancelled")
        return stored

    def _telling(self, task_id: str, stored: Any, state: str, traceback: Any, request: Any) -> Told:
        """Return what Celery would write, without the question whether it may: that is asked where it is written."""
        backend: Any = self
        meta = backend._get_result_meta(result=stored, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        seconds = backend.failure_expires if state == states.FAILURE else None
        seconds = backend.expires if seconds is None else seconds
        return Told(backend.get_key_for_task(task_id), backend.encode(meta), seconds or 0)


#: States that are stored once in each attempt.
_TOLD_BY_THE_LEDGER = states.READY_STATES | {states.STARTED}


@functools.cache
def _has_results_beside(app: Celery) -> bool:
    """Return whether *app*'s results are where its ledger is, and as Celery's own Redis backends write them."""
    conf: Any = app.conf
    is_celerys = type(app.backend).__bases__[-1] in (RedisBackend, SentinelBackend)
    return is_celerys and conf.result_serializer == "json" and conf.get("job_ledger_url") in (None, conf.result_backend)


@contextmanager
def _passing_on() -> Iterator[None]:
    """Leave references among results as they are: what this thread reads goes on to somebody else."""
    before, _running.passes_on = getattr(_running, "passes_on", False), True
    try:
        yield
    finally:
        _running.passes_on = before


def _loaded(value: Any, app: Celery) -> Any:
    """
    Return *value* with what references in it stand for.

    Raises:
        BlobLost, StoreUnavailable: It can't be had.
    """
    store = _store_of(app)
    if store is None:
        raise StoreUnavailable("this app has no job_store_url, where large values are")
    return store.load(value)


def _record_states(app: Celery) -> None:
    """Have the loader find a recording subclass under the name of the app's result backend."""
    scheme = (app.conf.result_backend or "disabled").partition("://")[0].partition("+")[0]
    cls = by_name(scheme, app.loader)
    if not issubclass(cls, _Recording):
        # The loader has names of classes, so the class needs one, in this module.
        name = f"Recording{cls.__name__}"
        globals().setdefault(name, type(name, (_Recording, cls), {}))
        app.loader.override_backends = {**app.loader.override_backends, scheme: f"{__name__}:{name}"}


def _error(result: Any) -> dict[str, str]:
    """Return why a task did not succeed as text, whatever its exception is."""
    exc = getattr(result, "exc", None) or result  # a Retry has its cause
    if not isinstance(exc, BaseException):
        return {"type": "Exception", "module": "builtins", "message": str(exc)}
    cls: type = type(exc)
    try:
        message = ", ".join(map(str, exc.args)) if exc.args else str(exc)
    except Exception:
        message = "(its message can't be shown)"
    return {"type": cls.__qualname__, "module": cls.__module__, "message": message}


def _place(traceback: Any) -> str:
    """Return the file and the function that a traceback ends in, without lines, which any change moves; '' if none."""
    frames = _FRAME.findall(str(traceback)[-MAX_TRACEBACK:]) if traceback else []
    return "{} in {}".format(*frames[-1]) if frames else ""


# As a worker or beat starts.


class _CheckSettings(bootsteps.Step):
    """Before anything is forked, and with the log set up."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        refuse_unsafe(worker.app)
        try:
            tracing.set_up("worker")
        except ImproperlyConfigured as exc:
            log.critical("%s", exc)
            raise SystemExit(os.EX_CONFIG) from exc


def _begin_beat(app: Celery, *, sender: Any, **_: Any) -> None:
    if sender.app is app:
        refuse_unsafe(app)
        watch_beat(sender)


# Before a task's code.


class _GuardTasks(bootsteps.Step):
    """As a worker starts, after it has imported the tasks and before it builds what runs them."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        Store.of_app(worker.app)  # one that can't be used is to be known now
        for task in worker.app.tasks.values():
            if not hasattr(task.run, "guarded"):
                task.run = _guard(task, worker.app)
            if task.Request == "celery.worker.request:Request":
                task.Request = "tornado_celery_bridge.worker.request:JobRequest"
        logger = logging.getLogger("celery.task")
        if not any(isinstance(handler, _LogLines) for handler in logger.handlers):
            logger.addHandler(_LogLines())


class _KeepJobs(bootsteps.StartStopStep):
    """In the worker's main process, until the last of its tasks has ended: a warm shutdown waits for them."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        # Of a pool that grows and shrinks, as many as there are now.
        self._keeper = Keeper(
            worker.app, worker.hostname, lambda: getattr(worker.pool, "num_processes", None) or worker.concurrency
        )
        self._keeper.hold_back()
        keep = functools.partial(_keep_message, worker.app)
        signals.before_task_publish.connect(keep, weak=False, dispatch_uid=f"keep-{id(worker.app)}")

    def start(self, worker: Any) -> None:
        # Not stop(), which comes before the pool's, and so before the tasks have ended.
        signals.worker_shutdown.connect(self._end, weak=False)
        self._keeper.start()

    def _end(self, **_: Any) -> None:
        self._keeper.stop()


def _guard(task: Any, app: Celery) -> Callable[..., Any]:
    run = task.run
    limit_of = _limit_of(task)

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        # Celery runs a task that calls itself with the same request (celery.app.trace: "stack protection").
        calls_itself = getattr(_running, "job", None) == (request.id, app)
        if request.called_directly or request.is_eager or calls_itself:
            return run(*args, **kwargs)
        _name_queue(app, request)
        limit = limit_of(args, kwargs) if limit_of else None
        job_id = _begin(task, request, app, limit)
        request.is_job = job_id is not None
        before, _running.job = getattr(_running, "job", None), job_id and (job_id, app)
        try:
            return _run(run, args, kwargs, app, is_job=job_id is not None)
        except JobCancelled:
            task.backend.mark_as_revoked(request.id, "cancelled", request=request)
            raise
        finally:
            _running.job = before

    guarded.guarded = True  # type: ignore[attr-defined]
    return guarded


def _run(run: Callable[..., Any], args: Any, kwargs: dict[str, Any], app: Celery, *, is_job: bool) -> Any:
    """Return what a task returns, of a job a reference to it if it is large; what it is given is loaded before."""
    store = _store_of(app)
    has_references = any(isinstance(value, Stored) for value in (*args, *kwargs.values()))
    if store is None:
        if has_references:
            raise StoreUnavailable("this worker has no job_store_url, where the task's input is")
        return run(*args, **kwargs)
    if is_job or has_references:
        args, kwargs = store.load_arguments(args, kwargs)
    value = run(*args, **kwargs)
    return store.keep(value, _ledger_of(app).announce) if is_job else value


def _limit_of(task: Any) -> Callable[[Any, Any], Limit] | None:
    """
    Return what tells by which limit a call of *task* is counted; None for a task that has none.

    Raises:
        ImproperlyConfigured: Its options can't be meant.
    """
    most, per_second = getattr(task, "max_concurrency", None), getattr(task, "max_rate", None)
    name = getattr(task, "limit_by", None)
    if most is None and per_second is None:
        return None
    interval = None if per_second is None else 1 / rate(per_second)
    signature = inspect.signature(task.run)
    if name is not None and name not in signature.parameters:
        raise ImproperlyConfigured(f"{task.name}: limit_by names no parameter: {name!r}")

    def limit_of(args: Any, kwargs: Any) -> Limit:
        if name is None:
            return Limit(task.name, most, interval)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        value = hashlib.sha256(dumps(bound.arguments[name]).encode()).hexdigest()[:32]
        return Limit(f"{task.name}:{value}", most, interval)

    return limit_of


def _begin(task: Any, request: Any, app: Celery, limit: Limit | None = None) -> str | None:
    """
    Note that a task begins, and return its id if it is a job's.

    Raises:
        Ignore: It must not run, or not now; then the ledger has it published again when it may.
        Reject: Whether it may is not known, as Redis is away: back into its queue with it.
    """
    replaced = bool(request.get("replaced_task_nesting"))
    worker, retries, token = request.hostname or "", request.retries or 0, uuid.uuid4().hex
    _running.attempt = (request.id, token)
    started, telling = _running.__dict__.pop("started", (None, None))
    told = {"told": telling} if started == request.id else {}
    try:
        verdict = _ledger_of(app).start(
            request.id, task.name, token, worker=worker, replaced=replaced, retries=retries, limit=limit, **told
        )
    except RedisError as exc:
        raise Reject(exc, requeue=True) from exc
    if verdict in ("go", "unknown"):
        return request.id if verdict == "go" else None
    log.info("task %s[%s] is not run: %s", task.name, request.id, verdict)
    if verdict == states.REVOKED:  # for whoever waits by the result backend
        task.backend.mark_as_revoked(request.id, "cancelled", request=request)
    elif verdict in states.READY_STATES and request.chord:
        _return_chord_part(task.backend, request)
    raise Ignore


def _keep_message(
    app: Celery,
    *,
    headers: dict[str, Any],
    body: Any,
    properties: dict[str, Any],
    exchange: Any,
    routing_key: Any,
    **_: Any,
) -> None:
    """Have the ledger keep what is about to be published, if it is a job's: as the signature that it comes from."""
    if is_keeper() or not isinstance(body, tuple):
        return
    args, kwargs, embed = body
    options = Context(headers, **embed).as_execution_options() | _destination(app, exchange, routing_key)
    options["priority"] = properties.get("priority")
    eta = headers.get("eta")
    due = None if eta is None else datetime.fromisoformat(eta)
    given = {name: value for name, value in options.items() if value is not None} | ({"eta": due} if due else {})
    message = {"task": headers["task"], "args": args, "kwargs": kwargs, "options": given}
    seconds = None if due is None else (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp()
    _ledger_of(app).keep(headers["id"], json.dumps(message), seconds)


def _name_queue(app: Celery, request: Any) -> None:
    """Tell a task from which queue it came: else Celery, on RabbitMQ, delays its retry into the default queue."""
    info = request.delivery_info or {}
    if info.get("exchange"):
        info.update(_destination(app, info["exchange"], info.get("routing_key") or ""))


def _destination(app: Celery, exchange: Any, routing_key: str) -> dict[str, str]:
    """Return where a message goes, as options of a signature: a queue, unless this app does not know it."""
    name = str(getattr(exchange, "name", exchange) or "")
    if not name:
        return {"queue": routing_key}
    if name.startswith("celery_delayed"):  # RabbitMQ holds it back, until the eta that it has
        routing_key = _DELAY.sub("", routing_key)
    for queue in app.amqp.queues.values():
        if queue.routing_key == routing_key and (name == queue.exchange.name or name.startswith("celery_delayed")):
            return {"queue": queue.name}
    return {"exchange": name, "routing_key": routing_key}


def _return_chord_part(backend: Any, request: Any) -> None:
    """Say to its chord how a task ended: the worker that ran it may have died before it did. Twice does no harm."""
    with _passing_on():
        meta = backend.get_task_meta(request.id, cache=False)
    if meta["status"] in states.READY_STATES:
        backend.on_chord_part_return(request, meta["status"], meta["result"])


class _LogLines(logging.Handler):
    """Makes the lines that a job logs its events."""

    def emit(self, record: logging.LogRecord) -> None:
        job = getattr(_running, "job", None)
        if job is None:
            return
        job_id, app = job
        message = self.format(record)[:MAX_LINE]
        _ledger_of(app).report(job_id, "log", {"level": record.levelname, "message": message, "at": _now()})
