"""
The ledger's commands, each with what decodes its answer; ``lua/`` has what they do and their arguments by name.

Whoever calls one, be it from an event loop or from blocking code, calls it from here: see
:mod:`tornado_celery_bridge.base.lua`. Times are milliseconds.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from tornado_celery_bridge.base.json import loads_safely
from tornado_celery_bridge.base.lua import Commands, as_it_is, nothing
from tornado_celery_bridge.ledger.records import (
    BRIEF_BYTES,
    FIELDS,
    Acceptance,
    Checkpoint,
    Claim,
    Delivery,
    FailureGroup,
    Gone,
    Job,
    JobItem,
    Page,
    Workflow,
    WorkflowRecord,
    brief_of,
    unpack_traceback,
)
from tornado_celery_bridge.ledger.schema import GUARD


class WorkflowJob(NamedTuple):
    """A row of ``accept_workflow``."""

    job_id: str
    task: str
    record: str
    input: str
    delay: int | None
    before: str | None
    callback: str
    message: str | None


class LeasedJob(NamedTuple):
    """A row of ``lease``: an attempt."""

    job_id: str
    token: str
    runs: bool


class Cancelled(NamedTuple):
    """What ``lease`` answers: ids of jobs that the worker runs."""

    #: Those that were cancelled, and of them those that have not ended in time.
    all: list[str]
    late: list[str]


class FoundJobs(NamedTuple):
    """What ``operate`` answers of a step that is to try jobs again."""

    #: Where the step begins, and where the next one does; empty at both ends of the list.
    newest: str
    after: str
    next_newest: str
    next_after: str
    looked: int
    matched: int
    #: How many were left out for each reason.
    skipped: dict[str, int]
    #: The id of each job, and of the one to submit.
    jobs: list[tuple[str, str]]


class UnderWay(NamedTuple):
    """A row of ``claim_callbacks``."""

    receiver: str
    many: int


def _texts(found: Sequence[bytes]) -> list[str]:
    return [text.decode() for text in found]


def _text(found: bytes) -> str:
    return found.decode()


def _optional(found: bytes | None) -> str | None:
    return None if found is None else found.decode()


def _pairs(found: Sequence[bytes]) -> list[tuple[str, str]]:
    texts = _texts(found)
    return list(zip(texts[::2], texts[1::2], strict=True))


def _acceptance(answer: list[bytes]) -> Acceptance:
    return Acceptance(answer[0].decode(), *answer[1:])


def _taken(answer: list[Any]) -> tuple[float | None, list[tuple[str, str]]]:
    pause, *found = answer
    return None if pause == b"" else int(pause) / 1000, _pairs(found)


def _lost(answer: list[bytes]) -> tuple[list[tuple[str, str]], set[str]]:
    end = answer.index(b"") if b"" in answer else len(answer)
    return _pairs(answer[:end]), set(_texts(answer[end + 1 :]))


def _job(answer: list[Any]) -> Job | Gone | None:
    if len(answer) < 2:
        return Gone(answer[0].decode()) if answer else None
    *row, saved, depth, packed = answer
    traceback = None if packed is None else unpack_traceback(packed)
    checkpoint = Checkpoint(loads_safely(saved[0]), int(saved[1]), int(saved[2])) if saved else None
    return dataclasses.replace(Job.of_row(row), queue_depth=depth, traceback=traceback, checkpoint=checkpoint)


def _workflow(answer: list[Any]) -> Workflow | Gone | None:
    if len(answer) < 2:
        return Gone(answer[0].decode()) if answer else None
    stored, cancelled, *rows = answer
    jobs = map(Job.of_row, rows)
    return Workflow(WorkflowRecord.decode(stored), {job.record.id: job for job in jobs}, bool(cancelled))


def _listed(row: list[Any]) -> Job:
    *row, begin = row
    return dataclasses.replace(Job.of_row(row), brief=brief_of(begin))


def _page(answer: list[Any]) -> Page:
    head, *rows = answer
    newest, after, size = head
    return Page([_listed(row) for row in rows], f"{_text(newest)}~{_text(after)}" if newest else None, size)


def _events(answer: list[Any]) -> tuple[int, int, list[str]]:
    last, first, *kept = answer
    return last, first, _texts(kept)


def _purged(answer: list[bytes]) -> tuple[str, list[str]]:
    cursor, *job_ids = _texts(answer)
    return cursor, job_ids


def _step(answer: list[Any]) -> tuple[str | None, FoundJobs | None]:
    if not answer or answer[0] is None:
        return None, None
    state, *more = answer
    if not more:
        return _text(state), None
    newest, after, next_newest, next_after, looked, matched, skipped, *job_ids = more
    return _text(state), FoundJobs(
        newest=_text(newest),
        after=_text(after),
        next_newest=_text(next_newest),
        next_after=_text(next_after),
        looked=looked,
        matched=matched,
        skipped=dict(json.loads(skipped)),
        jobs=_pairs(job_ids),
    )


def _claims(answer: list[list[bytes]]) -> list[Claim]:
    claims = []
    for job_id, callback, tries, ends in map(_texts, answer):
        delivery_id, _, receiver = callback.partition(" ")
        claims.append(Claim(job_id, delivery_id, receiver, int(tries), ends))
    return claims


def _pace(answer: list[bytes]) -> tuple[float | None, float | None]:
    waited, ran = (int(ms) / 1000 if ms else None for ms in answer)
    return waited, ran


def _delivery(answer: list[bytes]) -> Delivery | None:
    if not answer:
        return None
    callback, state, due, *attempts = _texts(answer)
    known = cast("Literal['waiting', 'delivered', 'failed']", state)
    return Delivery(callback.partition(" ")[0], known, list(map(json.loads, attempts)), int(due) if due else None)


#: Where the Lua files are.
LUA = Path(__file__).parent / "lua"
command = Commands(LUA, first=GUARD)
_FIELDS = ",".join(FIELDS)

accept = command("accept", _acceptance, goes_on=None)
accept_workflow = command("accept_workflow", _acceptance)
withdraw = command("withdraw", bool)
withdraw_workflow = command("withdraw_workflow", bool)
defer = command("defer", bool, place=None)
# A job that runs.
start = command("start", _text, version=None)
report = command("report", _text)
item = command("item", _text)
checkpoint = command("checkpoint", _text)
retry = command("retry", bool)
give_back = command("give_back", bool)
hand_on = command("hand_on", bool)
finish = command("finish", bool)
cancel = command("cancel", _optional)
cancel_workflow = command("cancel_workflow", nothing)
delete_job = command("delete_job", _text)
amend = command("amend", _text)
# What workers do for all jobs.
keep = command("keep", bool)
take = command("take", _taken)
lease = command("lease", lambda found: Cancelled(*map(_texts, found)))
reconcile = command("reconcile", _lost)
in_hand = command("in_hand", nothing)
sweep = command("sweep", int)
expire = command("expire", int)
has_expired = command("has_expired", _text)
# Reading.
read = command("read", _job, fields=_FIELDS, most_bytes=None)
read_workflow = command("read_workflow", _workflow, fields=_FIELDS, most_bytes=None)
find = command("find", _page, fields=_FIELDS, brief=BRIEF_BYTES)
events = command("events", _events)
attempts = command("attempts", as_it_is)
items = command("items", lambda found: [JobItem.of_row(row) for row in found])
note_list = command("note_list", nothing)
failures = command("failures", lambda rows: [FailureGroup.of_row(row) for row in rows])
resolve = command("resolve", nothing)
# Operations on many jobs.
begin_operation = command("begin_operation", bool)
claim_operation = command("claim_operation", _optional)
operate = command("operate", _step)
note_step = command("note_step", bool)
let_operation = command("let_operation", nothing)
end_operation = command("end_operation", bool)
# Limits, queues, callbacks and blobs.
set_task = command("set_task", nothing)
set_limit = command("set_limit", _texts)
read_limits = command("read_limits", as_it_is)
pause = command("pause", nothing)
purge = command("purge", _purged)
claim_callbacks = command("claim_callbacks", _claims)
record_attempt = command("record_attempt", nothing)
delivery = command("delivery", _delivery)
replay = command("replay", nothing)
announce = command("announce", nothing)
adopt = command("adopt", nothing)
orphans = command("orphans", _texts)
# Watching.
history = command("history", as_it_is)
pace = command("pace", _pace)
queues = command("queues", as_it_is)
overdue = command("overdue", _pairs)
workers = command("workers", as_it_is)
