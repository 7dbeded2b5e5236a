"""What is wrapped around each task's ``run``: it begins only if the ledger lets it, within the task's limits."""

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from billiard.common import EX_SOFTWARE
from celery import Celery
from celery.app.trace import task_has_custom
from celery.exceptions import ImproperlyConfigured, TaskPredicate
from celery.utils.time import rate

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger.blocking import Limit
from tornado_celery_bridge.worker.attempt import Attempt, JobCancelled, current_attempt, ends_worker
from tornado_celery_bridge.worker.coroutines import await_code, is_told_to_end
from tornado_celery_bridge.worker.errors import CodeExited, ends_from_outside
from tornado_celery_bridge.worker.messages import mark_signature, name_queue
from tornado_celery_bridge.worker.models import taking_names
from tornado_celery_bridge.worker.values import loaded, run_with_values

#: Characters of a value of ``limit_by`` that is shown as it is; a longer one is counted by its hash.
MAX_KEY = 64


def guard(task: Any, app: Celery, *, can_end: bool = True) -> None:
    """
    Have *task* ask the ledger before its code runs, and its ends be what they mean; a guarded task stays as it is.

    Celery itself wraps ``run`` in this way for ``autoretry_for``.

    Args:
        task: The task.
        app: Its app.
        can_end: Whether the worker's pool can end it at a time limit.

    Raises:
        ImproperlyConfigured: The task's limits make no sense.
    """
    if hasattr(task.run, "guarded"):
        return
    run, before_start, on_replace = taking_names(task), task.before_start, task.on_replace
    limit_of = _limit_of(task, app)

    def begun(args: Any, kwargs: Any) -> Attempt | None:
        """Return the attempt that this call begins; None for a call within the code of one, or outside of a worker."""
        request = task.request
        if request.called_directly or request.is_eager:
            return None
        attempt = Attempt.of(app, request)
        if attempt.runs:  # a task that calls itself; Celery gives it the same request
            return None
        if not attempt.has_begun:
            name_queue(app, request)
            attempt.begin(task, request, limit_of(args, kwargs))
            if not can_end and any(request.timelimit or ()):
                attempt.note("WARNING", "its time limit does not hold: its worker's pool can't end a task")
        return attempt

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        attempt = begun(args, kwargs)
        if attempt is None:
            return run(*args, **kwargs)
        try:
            with attempt:
                value = run_with_values(run, args, kwargs, app, is_job=attempt.is_job)
            if is_told_to_end():
                raise SystemExit(EX_SOFTWARE)
            return value
        except JobCancelled:
            task.backend.mark_as_revoked(attempt.id, "cancelled", request=task.request)
            raise
        except TaskPredicate as exc:  # Ignore, Reject, Retry
            attempt.raised = exc
            raise
        except BaseException as exc:
            if is_told_to_end():
                # Whatever the code makes of it, its process was told to end. What that means for the task knows who
                # has told it: its time limit, a cancel, or a worker that stops.
                raise SystemExit(EX_SOFTWARE) from exc
            if ends_worker(exc):
                raise
            attempt.raised = exc
            if isinstance(exc, (Exception, *ends_from_outside())):
                raise
            raise CodeExited(exc) from exc

    def before(task_id: str, args: Any, kwargs: Any) -> Any:
        begun(args, kwargs)
        return before_start(task_id, args, kwargs)

    def replaced(signature: Any) -> Any:
        if (attempt := current_attempt()) is not None and attempt.id == task.request.id:
            attempt.is_replaced = True
            mark_signature(signature, task.request)
        return on_replace(signature)

    guarded.guarded = True  # type: ignore[attr-defined]
    task.run, task.on_replace = guarded, replaced
    if task_has_custom(task, "before_start"):
        task.before_start = before


def settle(app: Celery) -> None:
    """
    Have *app*'s tasks be such as Celery can publish and run; a second call does nothing.

    The code of a task may be ``async def``. A task whose own ``time_limit`` is below the app's ``task_soft_time_limit``
    has no soft limit: Celery refuses to publish a task whose soft limit is the higher one.
    """
    await_code(app)
    for task in app.tasks.values():
        if task.time_limit and task.soft_time_limit and task.soft_time_limit > task.time_limit:
            task.soft_time_limit = None


def _limit_of(task: Any, app: Celery) -> Callable[[Any, Any], Limit]:
    """Return what tells by which limit a call of *task* is counted."""
    most, per_second = getattr(task, "max_concurrency", None), getattr(task, "max_rate", None)
    name = getattr(task, "limit_by", None)
    interval = None if per_second is None else 1 / rate(per_second)
    signature = inspect.signature(task.run)
    if name is not None and name not in signature.parameters:
        raise ImproperlyConfigured(f"{task.name}: limit_by names no parameter: {name!r}")

    of_all = Limit("", most, interval)

    def limit_of(args: Any, kwargs: Any) -> Limit:
        if name is None:
            return of_all
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return Limit(_key_of(dumps(loaded(bound.arguments[name], app))), most, interval)

    return limit_of


def _key_of(value: str) -> str:
    """Return what the jobs with a value of ``limit_by``, as JSON, are counted by: itself, unless it is long."""
    return value if len(value) <= MAX_KEY else hashlib.sha256(value.encode()).hexdigest()[:32]
