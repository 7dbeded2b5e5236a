"""A run of an entry: the job that it is."""

import uuid
from datetime import timedelta
from typing import Any, NamedTuple

from celery import Celery
from celery.utils.time import maybe_timedelta
from kombu.utils.json import dumps as kombu_dumps

from tornado_celery_bridge._json import dumps
from tornado_celery_bridge.ledger._ledger import reverses_priority
from tornado_celery_bridge.ledger._records import JobRecord
from tornado_celery_bridge.schedules._entry import Entry, from_ms

__all__ = ("KEPT_RUNS", "NewRun", "new_run", "run_id", "ttl_of")

#: Runs of an entry that are remembered.
KEPT_RUNS = 100

_NAMESPACE = uuid.UUID("6f0f2b6e-6d0b-4b5e-9d7b-2f3d1f0a7c55")


class NewRun(NamedTuple):
    """A run that begins."""

    job_id: str
    #: As the ledger's scripts take them.
    fields: str
    input: str
    #: The signature, as a mapping.
    message: dict[str, Any]
    note: str

    def for_script(self) -> tuple[str, ...]:
        """Return it as RUN takes it."""
        return self.job_id, self.fields, self.input, kombu_dumps(self.message), self.note


def run_id(name: str, slot: int) -> str:
    """Return the id of the job that is an entry's run at *slot*: the same whoever asks, so that it can't run twice."""
    return str(uuid.uuid5(_NAMESPACE, f"{name}@{slot}"))


def new_run(app: Celery, entry: Entry, job_id: str, *, slot: int | None, now: int) -> NewRun:
    """
    Return the run of an entry.

    Args:
        app: The Celery app.
        entry: The entry.
        job_id: Its job's id.
        slot: The time, in milliseconds since 1970, that it is due at; None for one on demand.
        now: Milliseconds since 1970.

    Raises:
        QueueNotFound: Its queue is none of the app's.
    """
    args, kwargs = (entry.input, {}) if isinstance(entry.input, list) else ([], entry.input)
    options = {**entry.options, "task_id": job_id}
    # As beat says of its own; and a worker says nothing of the end of a task without a result.
    options |= {"headers": {**options.get("headers", {}), "celery_beat_task": True}, "ignore_result": False}
    if isinstance(expires := options.get("expires"), int | float):  # not anew each time that it is published
        options["expires"] = from_ms(now) + timedelta(seconds=expires)
    asked = dict(entry.options)
    if isinstance(priority := asked.get("priority"), int) and reverses_priority(app):
        asked["priority"] = 9 - priority
    record = JobRecord(
        id=job_id,
        task=entry.task,
        owner=entry.owner,
        queue=_queue(app, entry),
        created_at=now,
        priority=asked.get("priority"),
        tags=entry.tags,
        options=asked,
        schedule=entry.name,
    )
    return NewRun(
        job_id,
        record.encode(),
        dumps(entry.input),
        {"task": entry.task, "args": args, "kwargs": kwargs, "options": options},
        dumps({"slot": slot, "at": now, "job": job_id}),
    )


def ttl_of(app: Celery) -> int:
    """Return for how many milliseconds a job is kept after its end: as long as its result."""
    expires = maybe_timedelta(app.conf.result_expires)
    return round(expires.total_seconds() * 1000) if expires else 86_400_000


def _queue(app: Celery, entry: Entry) -> str:
    task: Any = app.tasks.get(entry.task)
    route: dict[str, Any] = app.amqp.router.route(dict(entry.options), entry.task, (), {}, task)
    queue = route.get("queue") or app.conf.task_default_queue
    return str(getattr(queue, "name", queue))
