"""A job that is made from the arguments of ``Task.apply_async``."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery

from tornado_celery_bridge.base.app import moment
from tornado_celery_bridge.ledger.destinations import destination, priorities_of
from tornado_celery_bridge.ledger.records import JobRecord

#: The options of a message that a retry of the job is submitted with.
SENT_AGAIN = ("queue", "priority", "time_limit", "soft_time_limit")


def new_job(
    app: Celery,
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    now: int,
    **fields: Any,
) -> tuple[JobRecord, dict[str, Any]]:
    """
    Return a job's record, and the signature of its task as a mapping. The signature may be published more than once.

    It names the queue that the record has, so each message goes there, whoever publishes it.

    Args:
        app: The Celery app.
        task: The task's name.
        args: Positional arguments.
        kwargs: Named arguments.
        options: As ``Task.apply_async`` takes them, with a ``task_id``.
        now: Milliseconds since 1970.
        fields: Further fields of the record.

    Raises:
        QueueNotFound: The app has no such queue.
    """
    # A worker does not report the end of a task that ignores its result.
    options = {**options, "ignore_result": False}
    made, due = datetime.fromtimestamp(now / 1000, UTC), options.pop("eta", None)
    if countdown := options.pop("countdown", None):
        due = made + timedelta(seconds=countdown)
    if due is not None:
        options["eta"] = due = moment(app, due)
    if (expires := expiry(app, task, options, made)) is not None:
        options["expires"] = expires
    sent = {name: options[name] for name in SENT_AGAIN if options.get(name) is not None}
    if isinstance(sent.get("priority"), int):
        sent["priority"] = priorities_of(app).to_broker(sent["priority"])  # and back
    goes_to = destination(app, task, args, kwargs, options)
    record = JobRecord(
        id=options["task_id"],
        task=task,
        queue=goes_to.queue,
        created_at=now,
        eta=None if due is None else round(due.timestamp() * 1000),
        expires=None if expires is None else round(expires.timestamp() * 1000),
        priority=goes_to.priority,
        options=sent,
        **fields,
    )
    return record, {"task": task, "args": list(args), "kwargs": dict(kwargs), "options": options | goes_to.options}


def expiry(app: Celery, task: str, options: Mapping[str, Any], now: datetime) -> datetime | None:
    """
    Return when a task's message expires, by its options or by the task; None for never.

    It is a time, so that it is not counted anew each time that the message is published.

    Args:
        app: The Celery app.
        task: The task's name.
        options: As ``Task.apply_async`` takes them.
        now: From when on seconds are counted.
    """
    expires = options.get("expires", getattr(app.tasks.get(task), "expires", None))
    if isinstance(expires, int | float):
        return now + timedelta(seconds=expires)
    return None if expires is None else moment(app, expires)
