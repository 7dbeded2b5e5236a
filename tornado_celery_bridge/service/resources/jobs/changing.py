"""Changing a job that waits. It knows no request and no response."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tornado_celery_bridge import Stored
from tornado_celery_bridge.ledger import MAX_INLINE, Job, JobRecord
from tornado_celery_bridge.ledger.changes import Waiting
from tornado_celery_bridge.ledger.jobs import written
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.documents import milliseconds, rfc3339
from tornado_celery_bridge.service.http.faults import Fault
from tornado_celery_bridge.service.http.problems import INVALID_BODY
from tornado_celery_bridge.service.resources.catalogue import Arguments, ExposedTask
from tornado_celery_bridge.service.resources.jobs.documents import Change
from tornado_celery_bridge.service.resources.jobs.problems import INVALID_OPTIONS, JOB_BEGUN, JOB_CHANGING
from tornado_celery_bridge.service.resources.jobs.service import Jobs

#: How often a change is tried that others get ahead of.
TRIES = 3

#: Why a job is not changed, by what the ledger answers.
_WHY = {
    "begun": "The job has begun: cancel it, or wait for its end.",
    "step": "The job is a step of a workflow, which is published as a whole: cancel it, and submit another.",
    "unique": "The job is the only one with its input: cancel it, and submit another.",
}


async def change(jobs: Jobs, principal: Principal, job_id: str, asked: Change, *, size: int = 0) -> Job:
    """
    Change a job that waits, and return it as it is then.

    Args:
        jobs: Where it is.
        principal: Who asks.
        job_id: The job's id.
        asked: What is to be changed: the members that were given.
        size: The bytes of the request's body.

    Raises:
        Problem: It is not changed.
        LedgerUnavailable: It may have been changed all the same.
    """
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    if not given:
        raise INVALID_BODY("There is nothing to change: eta, priority, queue, input or held.")
    for _ in range(TRIES):
        job = await jobs.get(principal, job_id)
        before = await jobs.ledger.changes.read(job_id)
        if job.done or before is None:
            raise JOB_BEGUN(f"The job has ended as {job.state}." if job.done else _WHY["step"])
        answer = await _try(jobs, principal, job, before, given, size)
        if answer == "amended":
            return await jobs.get(principal, job_id)
        if answer not in ("changed", "gone"):
            raise JOB_BEGUN(_WHY.get(answer, f"The job has ended as {answer}."))
    raise JOB_CHANGING("Others change this job: try again.", headers={"Retry-After": "1"})


async def _try(jobs: Jobs, principal: Principal, job: Job, before: Waiting, given: Mapping[str, Any], size: int) -> str:
    record, message = job.record, dict(before.message)
    task = jobs.task(principal, record.task)
    stored: Stored | None = None
    more: dict[str, Any] = {"queue": record.queue, "priority": record.priority, "options": record.options}
    if "input" in given:
        new = given["input"]
        arguments, blob = (
            await asyncio.to_thread(lambda: (task.arguments(new), jobs.set_apart(new)))
            if (size > MAX_INLINE)
            else (task.arguments(new), None)
        )
        if blob is not None:
            stored = await jobs.keep(blob)
            arguments = task.called_with(stored.in_place_of(new))
        message["args"], message["kwargs"] = arguments
        more["input"] = written(new if stored is None else stored)
    if given.keys() & {"queue", "priority"}:
        more |= _place(jobs, task, message, record, given)
    if "eta" in given:
        due: datetime | None = given["eta"]
        more |= {"due": milliseconds(due or datetime.now(UTC)), "is_eta": due is not None}
    if "held" in given:
        more["held"] = given["held"]
    told = {
        name: rfc3339(milliseconds(value)) if isinstance(value, datetime) else value for name, value in given.items()
    }
    told |= {"input": None} if "input" in told else {}
    answer = await jobs.ledger.changes.amend(record.id, before, message=message, told=told, **more)
    if stored is not None and answer != "amended":
        await jobs.ledger.blobs.disown(stored.name)
    return answer


def _place(
    jobs: Jobs, task: ExposedTask, message: Mapping[str, Any], record: JobRecord, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return where the job goes. 422 if there is no such queue, or it has no priorities."""
    queue, priority = given.get("queue", record.queue), given.get("priority", record.priority)
    if "queue" in given and queue not in jobs.catalogue.queues:
        raise INVALID_OPTIONS("The options do not fit.", faults=[Fault("/queue", "There is no queue of this name.")])
    if priority is not None and not jobs.catalogue.priorities.are_served(queue):
        detail = "The broker has no priorities in this queue: send what is urgent to a queue of its own."
        raise INVALID_OPTIONS("The options do not fit.", faults=[Fault("/priority", detail)])
    asked = {"queue": queue} if "queue" in given else _where_it_goes(message)
    if priority is not None:
        asked["priority"] = jobs.catalogue.priorities.to_broker(priority)
    goes_to = jobs.destination(task, Arguments(message["args"], message["kwargs"]), asked)
    options = {**record.options, **{name: given[name] for name in ("queue", "priority") if name in given}}
    options = {name: value for name, value in options.items() if value is not None}
    return {
        "queue": goes_to.queue,
        "priority": goes_to.priority,
        "where": ({"priority": asked["priority"]} if priority is not None else {}) | goes_to.options,
        "options": options,
    }


def _where_it_goes(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message["options"].items() if name in ("queue", "exchange", "routing_key")}
