"""What is wrapped around each task's ``run``: it begins only if the ledger lets it, within the task's limits."""

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import ImproperlyConfigured
from celery.utils.time import rate

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger.blocking import Limit
from tornado_celery_bridge.worker.attempt import Attempt, JobCancelled
from tornado_celery_bridge.worker.messages import name_queue
from tornado_celery_bridge.worker.values import run_with_values

__all__ = ("guard",)


def guard(task: Any, app: Celery) -> None:
    """
    Have *task* ask the ledger before its code runs; a task that is guarded stays as it is.

    Celery itself wraps ``run`` in this way for ``autoretry_for``.

    Raises:
        ImproperlyConfigured: The task's limits make no sense.
    """
    run = task.run
    if hasattr(run, "guarded"):
        return
    limit_of = _limit_of(task)

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        if request.called_directly or request.is_eager:
            return run(*args, **kwargs)
        attempt = Attempt.of(app, request)
        if attempt.has_begun:  # a task that calls itself; Celery gives it the same request
            return run(*args, **kwargs)
        name_queue(app, request)
        attempt.begin(task, request, limit_of(args, kwargs) if limit_of else None)
        try:
            with attempt.running():
                return run_with_values(run, args, kwargs, app, is_job=attempt.is_job)
        except JobCancelled:
            task.backend.mark_as_revoked(request.id, "cancelled", request=request)
            raise

    guarded.guarded = True  # type: ignore[attr-defined]
    task.run = guarded


def _limit_of(task: Any) -> Callable[[Any, Any], Limit] | None:
    """Return what tells by which limit a call of *task* is counted; None for a task that has none."""
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
