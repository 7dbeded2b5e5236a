"""Large values: loaded from the store before a task's code, and kept there after it."""

import functools
import logging
from collections.abc import Callable
from typing import Any

from celery import Celery

from tornado_celery_bridge.base.store import Store, Stored
from tornado_celery_bridge.exceptions import BlobLost, StoreUnavailable
from tornado_celery_bridge.worker.attempt import ledger_of
from tornado_celery_bridge.worker.coroutines import off_loop, pause

log = logging.getLogger(__name__)

#: Seconds to wait before each further try to keep a result: a store that is away for a moment costs no result.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


class _Store(Store):
    """The store, for runs of a pool with a loop as well: what it reads and writes does not block that."""

    def _do(self, name: str, do: Callable[[Any, str], Any]) -> Any:
        return off_loop(functools.partial(super()._do, name, do))


@functools.cache
def store_of(app: Celery) -> Store | None:
    """Return *app*'s store, one for each process; None for an app that has none."""
    return _Store.of_app(app)


def load(value: Stored, app: Celery) -> Any:
    """
    Return what a reference stands for.

    Raises:
        BlobLost, StoreUnavailable: It can't be had.
    """
    store = store_of(app)
    if store is None:
        raise StoreUnavailable("this app has no job_store_url, where large values are")
    return store.load(value)


def loaded(value: Any, app: Celery) -> Any:
    """Return an argument with what a reference stands for; as it is if that can't be had, which its task is told."""
    if not isinstance(value, Stored):
        return value
    try:
        return load(value, app)
    except (BlobLost, StoreUnavailable):
        return value


def run_with_values(run: Callable[..., Any], args: Any, kwargs: dict[str, Any], app: Celery, *, is_job: bool) -> Any:
    """
    Run a task's code with what references among its arguments stand for, and return what it returns.

    A large value that a job returns is kept in the store, and a reference is returned in its place. If the store does
    not work, that is tried for some 15 s: the code has run, and its result is not to be lost for a moment's fault.

    Raises:
        BlobLost, StoreUnavailable: An argument can't be had, or the result can't be kept.
    """
    store = store_of(app)
    has_references = any(isinstance(value, Stored) for value in (*args, *kwargs.values()))
    if store is None:
        if has_references:
            raise StoreUnavailable("this worker has no job_store_url, where the task's input is")
        return run(*args, **kwargs)
    if is_job or has_references:
        args, kwargs = store.load_arguments(args, kwargs)
    value = run(*args, **kwargs)
    return _kept(value, store, app) if is_job else value


def _kept(value: Any, store: Store, app: Celery) -> Any:
    announce = ledger_of(app).announce
    for seconds in PAUSES:
        try:
            return store.keep(value, announce)
        except StoreUnavailable as exc:
            log.warning("a result is kept in %g s, if the store works then: %s", seconds, exc)
            pause(seconds)
    try:
        return store.keep(value, announce)
    except StoreUnavailable as exc:
        raise StoreUnavailable(f"the code of the task succeeded, but its result is lost: {exc}") from exc
