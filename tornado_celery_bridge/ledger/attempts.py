"""
A job's attempts: when each began and ended, where, how, and what it said.

The attempt that has ended the job, or that is under way, is told by the job itself. Of those before it the ledger keeps
a line each, the last 20; most jobs have none. The lines of the log are the job's events, which are kept until an hour
after its end.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from celery import states

from tornado_celery_bridge.base.json import loads_safely
from tornado_celery_bridge.base.states import IGNORED
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Connection
from tornado_celery_bridge.ledger.records import Job

Outcome = Literal["running", "succeeded", "ignored", "failed", "cancelled", "retried", "given back", "lost"]

#: Bytes of events that are read.
MOST_BYTES = 512 * 1024


class Attempt(NamedTuple):
    """
    One attempt at a job. Times are milliseconds since 1970, by the server's clock.

    .. versionadded:: 0.1.0
    """

    #: Counted from 1.
    number: int
    started_at: int
    #: None while it runs; of a lost one, when that was seen.
    ended_at: int | None
    #: The node name of its worker.
    worker: str
    outcome: Outcome
    #: As ``Job.error``; None if it did not fail.
    error: dict[str, str] | None = None
    #: As text, its last part.
    traceback: str | None = None
    #: What its code logged: ``{"level", "message", "at"}`` each, as long as the job's events are kept.
    log: Sequence[Any] = ()


class Attempts(NamedTuple):
    """
    The attempts of a job, the first one first. Of more than 20 that have not ended the job, the first are missing.

    .. versionadded:: 0.1.0
    """

    job: Job
    attempts: Sequence[Attempt]
    #: How many lines of the log, the oldest, are kept and were left out.
    left_out: int


async def attempts_of(redis: Connection, job: Job) -> Attempts:
    """Return the attempts of a job that was read just now."""
    past, events, left_out = await redis.run(calls.attempts(job_id=job.record.id, most_bytes=MOST_BYTES))
    found = [_past(json.loads(each.decode("utf-8", "replace"))) for each in past]
    if job.started_at is not None and job.attempt > (found[-1].number if found else 0):
        found.append(_last(job))
    lines = _lines([each.decode("utf-8", "replace") for each in events], job.attempt)
    return Attempts(job, [each._replace(log=lines.get(each.number, ())) for each in found], left_out)


def _past(told: dict[str, Any]) -> Attempt:
    return Attempt(
        told["attempt"],
        told["started_at"],
        told["ended_at"],
        told["worker"],
        told["outcome"],
        told["error"],
        told["traceback"] or None,
    )


def _last(job: Job) -> Attempt:
    """Return the attempt that is under way, or that has ended the job."""
    outcomes: dict[str, Outcome] = {
        states.SUCCESS: "succeeded",
        IGNORED: "ignored",
        states.FAILURE: "failed",
        states.REVOKED: "cancelled",
    }
    is_lost = (job.error or {}).get("kind") == "dead-lettered"
    return Attempt(
        job.attempt,
        job.started_at or 0,
        job.finished_at,
        job.worker or "",
        "lost" if is_lost else outcomes.get(job.state, "running"),
        job.error if job.done else None,
        job.traceback,
    )


def _lines(events: Sequence[str], last: int) -> dict[int, list[Any]]:
    """Return the lines of the log, by attempts. The attempt before the first that is seen to begin has those before."""
    lines: dict[int | None, list[Any]] = {None: []}
    at: int | None = None
    first = None
    for event in events:
        kind, _, data = event.partition(" ")
        told = loads_safely(data)
        if kind == "log":
            lines.setdefault(at, []).append(told)
        elif isinstance(told, dict) and "attempt" in told:
            at = told["attempt"]
            first = at if first is None else first
    before = lines.pop(None)
    found = {number: its for number, its in lines.items() if number is not None}
    if before:
        number = last if first is None else first - 1
        found[number] = before + found.get(number, [])
    return found
