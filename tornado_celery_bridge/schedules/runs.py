"""A run of an entry: the job that it is."""

import uuid
from typing import Any, NamedTuple

from celery import Celery
from celery.utils.time import maybe_timedelta
from kombu.utils.json import dumps as kombu_dumps

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger.submission import new_job
from tornado_celery_bridge.schedules.calls import PastRun
from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry, from_ms

__all__ = ("KEPT_RUNS", "NewRun", "check_input", "new_run", "run_id", "ttl_of")

#: Runs of an entry that are remembered.
KEPT_RUNS = 100

_NAMESPACE = uuid.UUID("6f0f2b6e-6d0b-4b5e-9d7b-2f3d1f0a7c55")


class NewRun(NamedTuple):
    """A run that begins."""

    job_id: str
    #: Its job's record, as the ledger's commands take it.
    record: str
    input: str
    #: The signature, as a mapping.
    message: dict[str, Any]
    note: str

    def row(self) -> PastRun:
        """Return it as the commands take it."""
        return PastRun(self.job_id, self.record, self.input, kombu_dumps(self.message), self.note)


def run_id(name: str, slot: int) -> str:
    """Return the id of the job that is an entry's run at *slot*: the same whoever asks, so that it can't run twice."""
    return str(uuid.uuid5(_NAMESPACE, f"{name}@{slot}"))


def check_input(app: Celery, entry: Entry) -> None:
    """
    Return if the entry's task takes its input, as far as this app knows the task.

    Raises:
        InvalidEntry: It does not: no worker could publish such a job.
    """
    task: Any = app.tasks.get(entry.task)
    if task is not None and task.typing:
        args, kwargs = _arguments(entry)
        try:
            task.__header__(*args, **kwargs)
        except TypeError as exc:
            raise InvalidEntry("input", str(exc)) from exc


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
    args, kwargs = _arguments(entry)
    # As beat says of its own; and the slot, for a task that is to do what was due then, and not what is due now.
    told = {"celery_beat_task": True} | ({} if slot is None else {"schedule_slot": from_ms(slot).isoformat()})
    options = {**entry.options, "task_id": job_id, "headers": {**entry.options.get("headers", {}), **told}}
    record, message = new_job(
        app, entry.task, args, kwargs, options, now=now, owner=entry.owner, tags=entry.tags, schedule=entry.name
    )
    return NewRun(
        job_id,
        record.encode(),
        dumps(entry.input),
        message,
        dumps({"slot": slot, "at": now, "job": job_id}),
    )


def ttl_of(app: Celery) -> int:
    """Return for how many milliseconds a job is kept after its end: as long as its result."""
    expires = maybe_timedelta(app.conf.result_expires)
    return round(expires.total_seconds() * 1000) if expires else 86_400_000


def _arguments(entry: Entry) -> tuple[list[Any], dict[str, Any]]:
    return (entry.input, {}) if isinstance(entry.input, list) else ([], entry.input)
