"""An id may be of any spelling up to the documented length, and a job that is missing stops nothing."""

import uuid
from dataclasses import replace

import pytest

from tests.ledger.records import Wait, accept, begin, end, found, job, keys, record
from tornado_celery_bridge.ledger import Gone, Ledger, Step, WorkflowRecord, error_mark
from tornado_celery_bridge.ledger.blocking import NO_LIMIT, Limit, WorkerLedger
from tornado_celery_bridge.ledger.records import MAX_ID

A_UUID = "0fe1a1b2-c3d4-45e6-8788-99aabbccddee"
IDS = (
    A_UUID,
    A_UUID.upper(),
    A_UUID.replace("a", "A"),
    A_UUID.replace("-", ""),
    f"0fe1a1b2c-3d4-45e6-8788-{A_UUID[-12:]}",  # the hyphens elsewhere
    "x" * 15,
    "x" * 16,
    "x" * 17,
    "é" * 8,  # 16 bytes
    "=x",
    "~xxxxxxxxxxxxxx",
    "~x~",
    f"workflow:{A_UUID}",
    "workflow:x",
    "job:1/2?a=b#c",
    "1",
    "x" * MAX_ID,
    str(uuid.UUID(bytes=b"workflow:x......")),
)


async def test_of_any_spelling(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    """All at once: each is begun, lost, put aside, listed, ended and forgotten under its own name."""
    for job_id in IDS:
        await accept(ledger, record(job_id), {})
        assert await begin(worker, job_id, "1") == "go"
    await wait(11)
    assert sorted(await found(worker)) == sorted(IDS)
    await wait(9)
    assert sorted(await found(worker, "q")) == sorted(IDS), "the message was lost"
    for job_id in IDS:
        await ledger.jobs.defer(job_id, 100)
    assert await found(worker) == list(IDS)
    listed, cursor = [], None
    while True:
        page = await ledger.jobs.find(limit=2, cursor=cursor)
        listed += [each.record.id for each in page.jobs]
        if (cursor := page.cursor) is None:
            break
    assert sorted(listed) == sorted(IDS)
    for job_id in IDS:
        assert await begin(worker, job_id, "2") == "go"
        assert (await job(ledger, job_id)).attempt == 2
        await end(worker, job_id)
    await wait(86_401)
    while await ledger.jobs.sweep():
        pass
    assert {key.partition("{tcb}")[2] for key in await keys(ledger)} <= {
        *("leader", "wake", "clock", ""),
        *(f"gone:{job_id}" for job_id in IDS),
    }
    for job_id in IDS:
        assert isinstance(await ledger.jobs.get(job_id), Gone)
        assert await begin(worker, job_id, "3") == "forgotten"


async def test_a_workflow_and_a_job_of_its_name(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    name = str(uuid.uuid4())
    workflow = WorkflowRecord(id=name, owner="", tags=[], created_at=1, tree={"chain": ["a"]})
    steps = [Step(replace(record("a"), workflow=name), {}, 0.0, None)]
    assert (await ledger.workflows.accept(workflow, steps, {}, message={})).kind == "accepted"
    await accept(ledger, record(f"workflow:{name}"), {})
    await end(worker, f"workflow:{name}")
    await wait(86_401)
    assert await ledger.jobs.sweep() == 1
    assert (await job(ledger, "a")).state == "PENDING", "the workflow stays"
    assert not isinstance(await ledger.workflows.get(name), Gone)


@pytest.mark.parametrize("wrong", ["", "x" * (MAX_ID + 1), "é" * 128, "a b", "a,b", "a\n", "\x00", "\udc80"])
async def test_what_is_no_id(ledger: Ledger, wrong: str) -> None:
    with pytest.raises(ValueError, match="is not one of a job"):
        await accept(ledger, record(wrong), {})
    assert not await keys(ledger)


async def test_jobs_that_somebody_deleted(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    """Each is in another set when its hash goes; all others are found, begun and ended."""
    limit, gone = Limit("one", 1, None), []

    async def delete(job_id: str) -> None:
        gone.append(job_id)
        await ledger.redis.client.delete(f"pre.{{tcb}}job:{job_id}")

    async def add(job_id: str) -> None:
        await accept(ledger, record(job_id), {})

    for job_id in ("queued", "queued-too", "held", "held-too", "aside", "aside-too", "slot", "parked", "parked-too"):
        await add(job_id)
    for job_id in ("held", "held-too"):
        assert await begin(worker, job_id, "1") == "go"
    for job_id in ("aside", "aside-too"):
        await ledger.jobs.defer(job_id, 100)
    assert await begin(worker, "slot", "1", limit=limit) == "go"
    for job_id in ("parked", "parked-too"):
        assert await begin(worker, job_id, "1", limit=limit) == "parked"
    for job_id in ("queued", "held", "aside", "parked"):
        await delete(job_id)
    await end(worker, "slot")
    await wait(11)
    assert sorted(await found(worker, "q")) == ["aside-too", "held-too", "parked-too", "queued-too"]
    for job_id in ("queued-too", "held-too", "aside-too", "parked-too"):
        assert await begin(worker, job_id, "2", limit=limit if job_id == "parked-too" else NO_LIMIT) == "go"
        await end(worker, job_id)
    left = {key.partition("{tcb}")[2].partition(":")[0] for key in await keys(ledger)}
    assert not left & {"held", "queued", "later", "outbox", "parked", "slots", "reached"}, left
    for job_id in gone:
        assert await ledger.jobs.get(job_id) is None
    await wait(86_401)
    while await ledger.jobs.sweep():
        pass


@pytest.mark.parametrize("missing", ["workflow:w", "job:e", "message:e", "job:b"])
@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
async def test_a_workflow_of_which_a_part_is_missing(
    ledger: Ledger, worker: WorkerLedger, missing: str, state: str
) -> None:
    """A job of it ends all the same."""
    workflow = WorkflowRecord(id="w", owner="", tags=[], created_at=1, tree={"chain": ["a", "b"]}, on_error="e")
    message = {"task": "t", "args": [error_mark("w")], "kwargs": {}, "options": {"task_id": "e"}}
    steps = [
        Step(replace(record("a"), workflow="w"), {}, 0.0, "0"),
        Step(replace(record("b"), workflow="w"), {}, None, None),
        Step(replace(record("e"), workflow="w"), {}, None, None, message=message),
    ]
    await ledger.workflows.accept(workflow, steps, {"0": ["b"]}, message={})
    await ledger.redis.client.delete(f"pre.{{tcb}}{missing}")
    assert await begin(worker, "a", "1") == "go"
    await end(worker, "a", state, 1 if state == "SUCCESS" else {"type": "E", "module": "m", "message": "no"})
    assert (await job(ledger, "a")).state == state
    if missing != "job:b" and state == "SUCCESS":
        assert await begin(worker, "b", "1") == "go"
        await end(worker, "b")
        assert (await job(ledger, "b")).state == "SUCCESS"
