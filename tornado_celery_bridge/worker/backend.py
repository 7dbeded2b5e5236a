"""
What the app's result backend stores, told to the ledger as well.

The backend is a subclass of the app's own, which Celery's loader finds by ``override_backends``. So whatever ends a
task for Celery ends the job: a return, an exception, a retry, a time limit, an expiry, a revoke. Where results and
ledger are in one Redis, both are written in one step.
"""

import copy
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery import Celery, states
from celery.app.backends import by_name
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.utils.time import get_exponential_backoff_interval
from redis.exceptions import OutOfMemoryError

from tornado_celery_bridge.base.app import forget_backend
from tornado_celery_bridge.base.errors import TEXT, rebuilt, text_of, traceback_of
from tornado_celery_bridge.base.redis import blocking_pool
from tornado_celery_bridge.base.states import ENDED, ITEM
from tornado_celery_bridge.base.store import Stored
from tornado_celery_bridge.base.versions import seconds_kept
from tornado_celery_bridge.ledger.blocking import ResultEntry
from tornado_celery_bridge.worker.attempt import Attempt, item_text
from tornado_celery_bridge.worker.coroutines import current_run, off_loop, pause, stored_in_order
from tornado_celery_bridge.worker.errors import as_raised
from tornado_celery_bridge.worker.values import load

log = logging.getLogger(__name__)

#: Whether what is read goes on to somebody else, so that references in it stay as they are.
_passes_on: ContextVar[bool] = ContextVar("passes_on", default=False)


@contextmanager
def _passing_on() -> Iterator[None]:
    before = _passes_on.set(True)
    try:
        yield
    finally:
        _passes_on.reset(before)


class Recording:
    """Mixed into the app's result backend: what it stores goes into the ledger as well."""

    #: What :func:`tornado_celery_bridge.ledger.checks.is_installed` looks for.
    keeps_the_ledger = True

    app: Celery

    def _get_pool(self, **params: Any) -> Any:
        """Return Celery's pool of connections, for which a Redis Cluster is one server."""
        options = getattr(self, "_transport_options", {})
        return blocking_pool(self, params) if options.get("cluster") else super()._get_pool(**params)  # type: ignore[misc]

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether storing a state may be tried again after *exc*."""
        # A full Redis may have room soon; else Celery ends as a FAILURE what could not be said to have succeeded.
        return isinstance(exc, OutOfMemoryError) or bool(super().exception_safe_to_retry(exc))  # type: ignore[misc]

    def prepare_exception(self, exc: Any, serializer: str | None = None) -> Any:
        """Return what is stored of an exception: what Celery stores, and its message."""
        prepared = super().prepare_exception(exc, serializer)  # type: ignore[misc]
        return {**prepared, TEXT: text_of(exc)} if isinstance(prepared, dict) else prepared

    def exception_to_python(self, exc: Any) -> Any:
        """Return an exception for what is stored, whatever that is; None for nothing."""
        return rebuilt(exc, super().exception_to_python) if exc else None  # type: ignore[misc]

    def mark_as_failure(self, task_id: str, exc: Any, traceback: Any = None, request: Any = None, **kwargs: Any) -> Any:
        """Note that a task failed, by what its code has raised."""
        exc, traceback = _as_raised(exc, traceback, request)
        return super().mark_as_failure(task_id, exc, traceback, request, **kwargs)  # type: ignore[misc]

    def mark_as_retry(self, task_id: str, exc: Any, traceback: Any = None, request: Any = None, **kwargs: Any) -> Any:
        """Note that a task asks for a retry, by what its code has raised."""
        exc, traceback = _as_raised(exc, traceback, request)
        return super().mark_as_retry(task_id, exc, traceback, request, **kwargs)  # type: ignore[misc]

    def meta_from_decoded(self, meta: Any) -> Any:
        """Return a stored state with a large result in it, where only a reference was stored."""
        meta = super().meta_from_decoded(meta)  # type: ignore[misc]
        if isinstance(meta["result"], Stored) and not _passes_on.get():
            meta["result"] = load(meta["result"], self.app)
        return meta

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> Any:
        """Count a part of a chord; the body gets references to large results."""
        with _passing_on():
            return off_loop(functools.partial(super().on_chord_part_return, *args, **kwargs))  # type: ignore[misc]

    def return_chord_part(self, request: Any) -> None:
        """Tell its chord how a task ended: the worker that ran it may have died before it did. Twice does no harm."""
        backend: Any = self
        with _passing_on():
            meta = off_loop(functools.partial(backend.get_task_meta, request.id, cache=False))
        if meta["status"] in states.READY_STATES:
            self.on_chord_part_return(request, meta["status"], meta["result"])

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """
        Store a state, and tell the ledger.

        Raises:
            JobCancelled: The task tells of its progress, and its job was cancelled.
        """
        # Of a task that the worker does not have, Celery gives a request without an id.
        is_attempts = getattr(request, "id", None) == task_id
        attempt = Attempt.of(self.app, request) if is_attempts else Attempt(self.app, task_id)
        entry = None
        is_codes = attempt.runs and state in (*ENDED, states.RETRY)  # the code's own word; its end is to come
        if state in (*ENDED, states.STARTED, states.RETRY) and not is_codes and has_results_beside(self.app):
            stored = self.encode_result(result, state)  # type: ignore[attr-defined]
            entry = self._result_entry(task_id, stored, state, traceback, request)
        else:
            if attempt.runs and current_run.get() is not None:
                result = copy.deepcopy(result)  # it may be stored later, and the code goes on with it
            store = functools.partial(super().store_result, task_id, result, state, traceback, request=request)  # type: ignore[misc]
            with _passing_on():
                stored = stored_in_order(functools.partial(store, **kwargs))
        if is_codes:
            attempt.stored = None if state == states.RETRY else (state, result, traceback)
        elif state == states.STARTED:
            attempt.entry_at_begin = entry
        elif state in ENDED:
            self._retried(functools.partial(attempt.finish, state, result, traceback, entry))
        elif state == states.RETRY:
            attempt.retry(result, entry, traceback)
        elif state != states.PENDING:
            attempt.report(state, result)
        return stored

    def store_item(self, number: int, value: Any, request: Any) -> None:
        """
        Store an item that a task's code has yielded, as a state is stored, and tell the ledger. This blocks.

        Raises:
            JobCancelled: The job was cancelled.
            ValueError: The item is too large.
            EncodeError: It can't be stored.
        """
        attempt, text, entry = Attempt.of(self.app, request), item_text(value), None
        told = {"number": number, "value": value, "of": attempt.token[:8]}
        if has_results_beside(self.app):
            stored = self.encode_result(told, ITEM)  # type: ignore[attr-defined]
            entry = self._result_entry(request.id, stored, ITEM, None, request)
        else:
            with _passing_on():
                super().store_result(request.id, told, ITEM, request=request)  # type: ignore[misc]
        attempt.tell_item(number, text, entry)

    def _retried(self, call: Callable[[], None]) -> None:
        """Call, and call again as the settings ``result_backend_...retry`` say, which is how Celery stores results."""
        backend: Any = self
        for retries in itertools.count(1):
            try:
                return call()
            except Exception as exc:
                is_safe = backend.always_retry and backend.exception_safe_to_retry(exc)
                if not is_safe or retries > backend.max_retries:
                    raise
                log.warning("a result can't be stored, and is tried again: %s", exc)
            pauses = backend.base_sleep_between_retries_ms, retries, backend.max_sleep_between_retries_ms
            pause(get_exponential_backoff_interval(*pauses, full_jitter=True) / 1000, backend._sleep)

    def _result_entry(self, task_id: str, stored: Any, state: str, traceback: Any, request: Any) -> ResultEntry:
        """Return what Celery would write; whether it may is asked where it is written."""
        backend: Any = self
        meta = backend._get_result_meta(result=stored, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        return ResultEntry(backend.get_key_for_task(task_id), backend.encode(meta), seconds_kept(backend, state))


def _as_raised(exc: Any, traceback: Any, request: Any) -> tuple[Any, Any]:
    attempt: Attempt | None = getattr(request, "__dict__", {}).get("attempt")
    raised = as_raised(exc, None if attempt is None else attempt.raised)
    return raised, traceback if raised is exc else traceback_of(raised)


@functools.cache
def has_results_beside(app: Celery) -> bool:
    """Return whether *app*'s results are where its ledger is, and as Celery's own Redis backends write them."""
    conf: Any = app.conf
    is_celerys = type(app.backend).__bases__[-1] in (RedisBackend, SentinelBackend)
    return is_celerys and conf.result_serializer == "json" and conf.get("job_ledger_url") in (None, conf.result_backend)


def record_states(app: Celery) -> None:
    """Have *app*'s loader find a recording subclass under the name of the app's result backend."""
    scheme = (app.conf.result_backend or "disabled").partition("://")[0].partition("+")[0]
    try:
        cls = by_name(scheme, app.loader)
    except Exception:  # there is no such backend, which no-results says
        return
    if not issubclass(cls, Recording):
        # The loader has names of classes, so the class needs one, in this module.
        name = f"Recording{cls.__name__}"
        while (known := globals().get(name)) is not None and known.__bases__[-1] is not cls:
            name += "_"  # a class of the same name, of another app
        globals().setdefault(name, type(name, (Recording, cls), {}))
        app.loader.override_backends = {**app.loader.override_backends, scheme: f"{__name__}:{name}"}
    made: Any = app
    if made._backend is not None and not isinstance(made._backend, Recording):  # made before: it tells nobody
        forget_backend(app)
