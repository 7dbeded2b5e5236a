"""
The ledger's commands, each declared once: see :mod:`tornado_celery_bridge.base.lua`, and ``lua/README.md``.

Whoever calls one, be it from the event loop or from blocking code, calls it by these names. Times are milliseconds.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from tornado_celery_bridge.base.lua import commands
from tornado_celery_bridge.ledger.records import (
    FIELDS,
    Acceptance,
    Claim,
    Delivery,
    FailureGroup,
    Gone,
    Job,
    Page,
    Workflow,
    WorkflowRecord,
    unpack_traceback,
)

__all__ = ("LUA", "LeasedJob", "UnderWay", "WorkflowJob")

#: Where the Lua files are.
LUA = Path(__file__).parent / "lua"
command = commands(LUA)

_FIELDS = ",".join(FIELDS)


# Accepting jobs.


@command("job:{job_id}", "input:{job_id}", "message:{job_id}", "open", "key:{key}", "unique:{unique}")
def accept(
    answer: list[bytes],
    *,
    job_id: str,
    record: str,
    input: str,
    owner: str,
    ttl: int,
    delay: int,
    most: int | None,
    key: str,
    fingerprint: str,
    key_ttl: int,
    key_lease: int,
    message: str,
    unique: str,
    callback: str,
) -> Acceptance:
    return Acceptance(answer[0].decode(), *answer[1:])


class WorkflowJob(NamedTuple):
    """A job of a workflow, for :func:`accept_workflow`."""

    job_id: str
    record: str
    input: str
    delay: int | None
    before: str | None
    callback: str
    message: str | None


@command("workflow:{workflow_id}", "message:{workflow_id}", "open", "key:{key}")
def accept_workflow(
    answer: list[bytes],
    *,
    workflow_id: str,
    record: bytes,
    owner: str,
    ttl: int,
    most: int | None,
    key: str,
    fingerprint: str,
    key_ttl: int,
    key_lease: int,
    after: str,
    message: str,
    on_error: str | None,
    jobs: Sequence[WorkflowJob],
) -> Acceptance:
    return Acceptance(answer[0].decode(), *answer[1:])


@command("job:{job_id}", "key:{key}")
def withdraw(answer: int, *, job_id: str, key: str) -> bool:
    return bool(answer)


@command("workflow:{workflow_id}", "message:{workflow_id}", "key:{key}")
def withdraw_workflow(answer: int, *, workflow_id: str, key: str) -> bool:
    return bool(answer)


# A job that runs.


@command("job:{job_id}", "events:{job_id}")
def start(
    answer: bytes,
    *,
    job_id: str,
    task: str,
    token: str,
    replaced: bool,
    worker: str,
    retries: int,
    limit: str,
    most: int | None,
    interval: int | None,
    result_key: str | bytes,
    result: str | bytes,
    result_ttl: int,
) -> str:
    return answer.decode()


@command("job:{job_id}", "events:{job_id}", "value:{job_id}")
def report(answer: bytes, *, job_id: str, kind: str, data: str, state: str, value: str, retries: int | None) -> str:
    return answer.decode()


@command("job:{job_id}", "events:{job_id}", "value:{job_id}", "traceback:{job_id}")
def finish(
    answer: int,
    *,
    job_id: str,
    state: str,
    value: str,
    stored: bool,
    token: str,
    traceback: bytes,
    traceparent: str,
    result_key: str | bytes,
    result: str | bytes,
    result_ttl: int,
    exception: bytes,
    detail: bytes,
    place: bytes,
) -> bool:
    return bool(answer)


@command("job:{job_id}", "events:{job_id}")
def cancel(answer: bytes | None, *, job_id: str, unless_begun: bool, grace: int) -> str | None:
    return None if answer is None else answer.decode()


@command("workflow:{workflow_id}")
def cancel_workflow(answer: None, *, workflow_id: str, whole: bool, grace: int, job_ids: Sequence[str]) -> None:
    return None


# What workers do for all jobs.


@command("job:{job_id}", "message:{job_id}", "retry:{job_id}")
def keep(answer: int, *, job_id: str, message: str, due: int | None, why: str | None) -> bool:
    return bool(answer)


@command("job:{job_id}", "outbox", "wake")
def defer(answer: int, *, job_id: str, most: int, place: int | None = None) -> bool:
    return bool(answer)


@command("later", "outbox", "leader")
def take(answer: list[Any], *, most: int, me: str) -> tuple[float | None, list[tuple[str, str]]]:
    pause, *found = answer
    return None if pause == b"" else int(pause) / 1000, _pairs(found)


class LeasedJob(NamedTuple):
    """A job that a worker runs, or ran, for :func:`lease`."""

    job_id: str
    runs: bool


@command("held", "workers", "worker:{worker}")
def lease(answer: list[bytes], *, worker: str, about: str | None, jobs: Sequence[LeasedJob]) -> list[str]:
    return _texts(answer)


@command("leader", "held", "reached")
def reconcile(
    answer: list[bytes], *, me: str, leadership: int, most: int, queues: Sequence[str]
) -> tuple[list[tuple[str, str]], set[str]]:
    end = answer.index(b"") if b"" in answer else len(answer)
    return _pairs(answer[:end]), set(_texts(answer[end + 1 :]))


@command("due")
def sweep(answer: int, *, remembered: int, most: int) -> int:
    return answer


# Reading.


@command("job:{job_id}", "value:{job_id}")
def read(answer: list[Any], *, job_id: str, fields: str = _FIELDS) -> Job | Gone | None:
    if len(answer) < 2:
        return Gone(answer[0].decode()) if answer else None
    *values, depth, packed = answer
    traceback = None if packed is None else unpack_traceback(packed)
    return dataclasses.replace(Job.of_fields(job_id, values), queue_depth=depth, traceback=traceback)


@command("workflow:{workflow_id}")
def read_workflow(answer: list[Any], *, workflow_id: str, fields: str = _FIELDS) -> Workflow | Gone | None:
    if len(answer) < 2:
        return Gone(answer[0].decode()) if answer else None
    stored, cancelled, *rows = answer
    jobs = [Job.of_fields(job_id.decode(), values) for job_id, *values in rows]
    return Workflow(WorkflowRecord.decode(stored), {job.record.id: job for job in jobs}, bool(cancelled))


@command("index:all")
def find(
    answer: list[Any],
    *,
    most: int,
    looks: int,
    newest: str,
    after: str,
    oldest: str | int,
    fields: str = _FIELDS,
    indexes: Sequence[str],
) -> Page:
    head, *rows = answer
    jobs = [Job.of_fields(job_id.decode(), values) for job_id, *values in rows]
    return Page(jobs, "~".join(_texts(head)) if head else None)


@command("job:{job_id}", "events:{job_id}")
def events(answer: list[Any], *, job_id: str, after: int, most: int) -> tuple[int, int, list[str]]:
    last, first, *kept = answer
    return last, first, _texts(kept)


# Failures.


@command("failures")
def failures(answer: list[list[Any]], *, of_one: bool, owner: str) -> list[FailureGroup]:
    return [FailureGroup.of_row(row) for row in answer]


@command("failures", "failure:{group_id}", "index:failure:{group_id}")
def resolve(answer: None, *, group_id: str) -> None:
    return None


# Queues.


@command("paused")
def pause(answer: None, *, queue: str) -> None:
    return None


@command("index:state:{state}")
def purge(
    answer: list[bytes], *, queue: str, state: str, cursor: str, error: str, until_then: int
) -> tuple[str, list[str]]:
    cursor, *job_ids = _texts(answer)
    return cursor, job_ids


# Callbacks.


class UnderWay(NamedTuple):
    """How many callbacks to a receiver are under way, for :func:`claim_callbacks`."""

    receiver: str
    many: int


@command("callbacks")
def claim_callbacks(
    answer: list[list[bytes]], *, most: int, share: int, lease: int, looks: int, under_way: Sequence[UnderWay]
) -> list[Claim]:
    claims = []
    for job_id, callback, tries, ends in map(_texts, answer):
        delivery_id, _, receiver = callback.partition(" ")
        claims.append(Claim(job_id, delivery_id, receiver, int(tries), ends))
    return claims


@command("job:{job_id}", "attempts:{job_id}")
def record_attempt(
    answer: None, *, job_id: str, lease: str, attempt: str, kept: int, state: str, next_in: int | None
) -> None:
    return None


@command("job:{job_id}", "attempts:{job_id}")
def delivery(answer: list[bytes], *, job_id: str) -> Delivery | None:
    if not answer:
        return None
    callback, state, due, *attempts = _texts(answer)
    return Delivery(
        id=callback.partition(" ")[0],
        state=cast("Literal['waiting', 'delivered', 'failed']", state),
        attempts=[json.loads(each) for each in attempts],
        next_attempt=int(due) if due else None,
    )


@command("job:{job_id}")
def replay(answer: None, *, job_id: str) -> None:
    return None


# Blobs.


@command("blobs")
def announce(answer: None, *, blob: str, grace: int) -> None:
    return None


@command("job:{job_id}", "blobs")
def adopt(answer: None, *, job_id: str, blob: str) -> None:
    return None


@command("blobs")
def orphans(answer: list[bytes], *, most: int) -> list[str]:
    return _texts(answer)


# Watching.


@command("history:open")
def history(answer: list[Any], *, queue: str, task: str, slots: Sequence[str]) -> list[Any]:
    return answer


@command("reached")
def queues(answer: list[Any]) -> list[tuple[str, int, int, int]]:
    return [(name.decode(), due, later, oldest) for name, due, later, oldest in answer]


@command("workers")
def workers(answer: list[Any]) -> list[tuple[str, int, str, str]]:
    return [(name.decode(), silence, about.decode(), jobs.decode()) for name, silence, about, jobs in answer]


def _texts(found: Sequence[bytes]) -> list[str]:
    return [text.decode() for text in found]


def _pairs(found: Sequence[bytes]) -> list[tuple[str, str]]:
    texts = _texts(found)
    return list(zip(texts[::2], texts[1::2], strict=True))
