"""Makes the job that is a run of an entry."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from celery import Celery
from celery.exceptions import QueueNotFound

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.base.app import check_arguments
from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.store import MAX_INLINE
from tornado_celery_bridge.ledger.submission import new_job
from tornado_celery_bridge.schedules.calls import PastRun
from tornado_celery_bridge.schedules.entry import Entry, from_ms, refuse

#: The number of runs in an entry's history.
KEPT_RUNS = 100

_NAMESPACE = uuid.UUID("6f0f2b6e-6d0b-4b5e-9d7b-2f3d1f0a7c55")


class NewRun(NamedTuple):
    """A run that is about to begin."""

    job_id: str
    #: The record of the job, as the ledger's commands take it.
    record: str
    input: str
    #: The signature, as a mapping.
    message: dict[str, Any]
    note: str

    def row(self) -> PastRun:
        """Return the run as the commands take it."""
        return PastRun(self.job_id, self.record, self.input, encoding.dumps(self.message), self.note)


def run_id(key: str, slot: int) -> str:
    """Return the id of the job for an entry's run at *slot*. It is always the same, so that no slot can run twice."""
    return str(uuid.uuid5(_NAMESPACE, f"{key}@{slot}"))


def check_entry(app: Celery, entry: Entry) -> None:
    """
    Check what an entry can't know of itself: that a run of it could be made. For whoever stores it. Blocks.

    Raises:
        InvalidEntry: Its task does not take its input, the input is too large, the app does not have its queue, or an
            option is wrong. It says all of this.
    """
    if not isinstance(entry, Entry):
        raise TypeError(f"an Entry is needed, and {entry!r:.100} is none; Entry.of_mapping makes one of a dict")
    faults = list(_faults_of_input(app, entry))
    if (size := len(dumps(entry.input))) > MAX_INLINE:  # beat and each run carry it
        faults.append(("input", f"it has {size:,} bytes as JSON, and may have {MAX_INLINE:,}"))
    queues: Any = app.amqp.queues
    if (queue := entry.options.get("queue")) is not None and queue not in queues:
        if not queues.create_missing:
            faults.append(("options.queue", f"the app has no queue {queue!r}"))
        entry = replace(entry, options={name: value for name, value in entry.options.items() if name != "queue"})
    try:
        new_run(app, entry, run_id(entry.key, 0), slot=None, now=0)
    except QueueNotFound as exc:
        faults.append(("task", str(exc.args[0])))
    except (TypeError, ValueError) as exc:
        faults.append(("options", str(exc)))
    refuse(faults)


def check_input(app: Celery, entry: Entry) -> None:
    """
    Check that the entry's task takes the entry's input, if this app knows the task.

    Raises:
        InvalidEntry: It does not, so no worker could publish such a job.
    """
    refuse([*_faults_of_input(app, entry)])


def _faults_of_input(app: Celery, entry: Entry) -> Iterator[tuple[str, str]]:
    task: Any = app.tasks.get(entry.task)
    if task is not None:
        args, kwargs = _arguments(entry)
        try:
            check_arguments(task, args, kwargs)
        except TypeError as exc:
            yield "input", str(exc)


def new_run(app: Celery, entry: Entry, job_id: str, *, slot: int | None, now: int) -> NewRun:
    """
    Return a run of an entry.

    Args:
        slot: The time at which the run is due, in milliseconds since 1970; None for a run on demand.
        now: Milliseconds since 1970.

    Raises:
        QueueNotFound: The app does not have the entry's queue.
    """
    args, kwargs = _arguments(entry)
    # The first header is what Celery's beat sets. The slot is for tasks that do the work of that time, and not of now.
    told = {"celery_beat_task": True} | ({} if slot is None else {"schedule_slot": from_ms(slot).isoformat()})
    options = {**entry.options, "task_id": job_id, "headers": {**entry.options.get("headers", {}), **told}}
    record, message = new_job(
        app, entry.task, args, kwargs, options, now=now, owner=entry.owner, tags=entry.tags, schedule=entry.key
    )
    return NewRun(
        job_id,
        record.encode(),
        dumps(entry.input),
        message,
        dumps({"slot": slot, "at": now, "job": job_id}),
    )


def _arguments(entry: Entry) -> tuple[list[Any], dict[str, Any]]:
    return (entry.input, {}) if isinstance(entry.input, list) else ([], entry.input)
