"""Filters, deleting a job, and operations on all jobs that a filter fits; before a real Redis."""

import asyncio
import dataclasses
from typing import Any

import pytest

from tests.ledger.records import NOW, Wait, accept, begin, end, job, keys, record
from tornado_celery_bridge import Stored
from tornado_celery_bridge.ledger import Filter, Gone, Ledger, Operation, Step, Waits, WorkflowRecord, operations
from tornado_celery_bridge.ledger.blocking import WorkerLedger

ERROR = {"type": "E", "module": "m", "message": "no"}


async def nobody(operation: Operation, job_id: str, made_id: str) -> str | None:
    raise AssertionError("nothing is to be submitted")


async def ids(ledger: Ledger, **narrowed: Any) -> list[str]:
    return sorted(each.record.id for each in (await ledger.jobs.find(Filter(**narrowed))).jobs)


async def begun(ledger: Ledger, action: operations.Action, filter: Filter, **more: Any) -> Operation:
    made = await ledger.operations.begin(action, filter, **more)
    assert made is not None
    return made


async def carried(ledger: Ledger, operation: Operation, retry: operations.Retry = nobody) -> Operation:
    """Return an operation that has ended."""
    await ledger.operations.carry(operation, retry, seconds=60)
    found = await ledger.operations.get(operation.id)
    assert found is not None
    return found


async def made_jobs(ledger: Ledger, worker: WorkerLedger) -> None:
    """A job in each of some states, with an hour between one and the next."""
    for number, name in enumerate(("waits", "runs", "failed", "lost", "done")):
        its = dataclasses.replace(record(name, owner="o"), created_at=NOW + number * 3_600_000, queue=f"q{number % 2}")
        await accept(ledger, its, {"n": number})
        if number:
            await begin(worker, name, name)
    await end(worker, "failed", "FAILURE", ERROR)
    await end(worker, "lost", "FAILURE", ERROR)
    await end(worker, "done")


async def test_what_no_index_tells(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    await ledger.redis.client.set("clock", NOW)
    await made_jobs(ledger, worker)
    await wait(5)
    hour, start = 3_600, NOW / 1000
    for narrowed, fit in (
        ({"queue": "q1"}, ["lost", "runs"]),
        ({"queue": "q1", "state": "STARTED"}, ["runs"]),
        ({"worker": "w@here"}, ["done", "failed", "lost", "runs"]),
        ({"worker": "another"}, []),
        ({"min_duration": 5.0}, ["runs"]),
        ({"min_duration": 0.0}, ["done", "failed", "lost", "runs"]),
        ({"min_wait": 5.0}, ["waits"]),
        ({"min_attempt": 1}, ["done", "failed", "lost", "runs"]),
        ({"min_attempt": 2}, []),
        ({"since": start + hour, "until": start + 3 * hour}, ["failed", "runs"]),
        ({"until": start}, []),
    ):
        assert await ids(ledger, **narrowed) == fit, narrowed
        asked = Filter(**narrowed)
        assert Filter.decode(asked.encode()) == asked
        counted = await carried(ledger, await begun(ledger, "delete", asked, dry_run=True))
        assert (counted.state, counted.matched) == ("DONE", len(fit)), narrowed


async def test_texts_are_searched(ledger: Ledger, worker: WorkerLedger) -> None:
    own = dataclasses.replace(record("own", tags=("Urgent",)), options={"metadata": {"customer": "Ada {42}"}})
    await accept(ledger, own, {"order": 12345, "note": 'Run of order 12345, "soon"'})
    for name, given, value in (
        ("done", {"n": 1}, {"total": "SEVENTY"}),
        ("empty", {}, None),
        ("long", {"text": "x" * 16_384 + "beyond"}, None),
    ):
        await accept(ledger, record(name), given)
        await begin(worker, name, name)
        await end(worker, name, value=value)
    await accept(ledger, record("failed"), ["Zürich"])
    await begin(worker, "failed", "1")
    await end(worker, "failed", "FAILURE", {"type": "ValueError", "module": "builtins", "message": "no such order"})
    for text, fit in (
        ('"run of order 12345"', ["own"]),
        ("ORDER", ["failed", "own"]),
        ("order 12345", ["own"]),
        ("order such", ["failed"]),
        ("seventy", ["done"]),
        ("Zürich valueerror", ["failed"]),
        ("urgent ada", ["own"]),
        ("{42}", ["own"]),
        ("beyond", []),  # the first 16 KiB are searched
        ("nowhere", []),
        ('" "', ["failed", "own"]),
        ("%d+", []),  # no pattern
    ):
        assert await ids(ledger, q=text) == fit, text
    assert await ids(ledger, q="order", state="FAILURE") == ["failed"]
    assert await ids(ledger, q='\\"soon') == []
    assert (await carried(ledger, await begun(ledger, "cancel", Filter(q="order"), dry_run=True))).matched == 2


async def test_a_search_goes_on_for_as_long_as_it_may(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_celery_bridge.ledger.jobs.LOOKS", 20)
    for number in range(40):
        await accept(ledger, record(f"j{number:02}"), {"n": f"number {number}"})
    one_step = await ledger.jobs.find(Filter(q='"number 3"'))
    assert one_step.cursor is not None
    assert len(one_step.jobs) < 11
    patient = await ledger.jobs.find(Filter(q='"number 3"'), seconds=60)
    assert [each.record.id for each in patient.jobs] == [f"j{n}" for n in range(39, 29, -1)] + ["j03"]
    assert patient.cursor is None
    some = await ledger.jobs.find(Filter(q="number"), seconds=60, limit=25)
    assert len(some.jobs) == 25
    rest = await ledger.jobs.find(Filter(q="number"), seconds=60, cursor=some.cursor)
    assert len({each.record.id for each in (*some.jobs, *rest.jobs)}) == 40
    short = await ledger.jobs.find(Filter(q="number"), seconds=60, page_bytes=1)
    assert (len(short.jobs), short.cursor is None) == (1, False)


async def test_a_deleted_job_leaves_nothing(ledger: Ledger, worker: WorkerLedger) -> None:
    await asyncio.to_thread(worker.note_results, "celery-task-meta-", 60)
    blob = Stored.new(1_000_000)
    before = await keys(ledger)
    await ledger.blobs.announce(blob.name)
    its = record("a", owner="o", tags=("x",), callback_url="https://x.test/")
    await accept(ledger, its, blob)
    assert await ledger.jobs.delete("a") == "not-ended"
    await begin(worker, "a", "1")
    await asyncio.to_thread(worker.save_checkpoint, "a", "1", "t", "{}")
    assert await ledger.jobs.delete("a") == "not-ended"
    await asyncio.to_thread(lambda: worker.finish("a", "FAILURE", ERROR, "1", traceback="t"))
    await ledger.redis.client.set("celery-task-meta-a", "{}")
    assert await ledger.jobs.delete("a") == "callback-waiting"
    (claim,) = await ledger.callbacks.claim(10, owner_share=9, share=3, lease=60, under_way={})
    await ledger.callbacks.record_attempt(claim, {"status": 200}, "delivered", None)
    (group,) = await ledger.failures.groups()
    await ledger.failures.resolve(group.id)
    assert await ledger.jobs.delete("a") == ""
    assert await ledger.jobs.get("a") == Gone("o")
    assert await keys(ledger) - before - {"pre.{tcb}pace"} == {"pre.{tcb}gone:a", "pre.{tcb}blobs"}
    assert await ledger.blobs.orphans() == [blob.name]
    assert await begin(worker, "a", "2") == "forgotten"  # by a message that comes late
    assert await ledger.jobs.delete("a") == "gone"
    assert await ledger.jobs.delete("never") == "gone"


async def test_a_step_of_a_workflow_stays_until_all_have_ended(ledger: Ledger, worker: WorkerLedger) -> None:
    flow = WorkflowRecord(id="f", owner="", tags=[], created_at=NOW, tree={"group": ["f1", "f2"]})
    steps = [Step(dataclasses.replace(record(name), workflow="f"), {}, 0.0, None) for name in ("f1", "f2")]
    await ledger.workflows.accept(flow, steps, {}, message={})
    for name in ("f1", "f2"):
        assert await ledger.jobs.delete("f1") != ""
        await begin(worker, name, name)
        await end(worker, name)
    assert await ledger.jobs.delete("f1") == ""


@pytest.mark.parametrize("killed", [False, True])
async def test_all_that_fit_are_cancelled(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """In steps, each noted as it is done: whoever goes on after a kill counts none twice."""
    monkeypatch.setattr(operations, "STEP", 7)
    monkeypatch.setattr(operations, "LOOKS", 20)
    for number in range(60):
        await accept(ledger, record(f"j{number:02}", task="t" if number % 2 else "u"), {})
    await ledger.jobs.cancel("j01")
    asked = Filter(task="t")
    counted = await carried(ledger, await begun(ledger, "cancel", asked, dry_run=True))
    assert (counted.matched, counted.done, counted.skipped) == (30, 29, {"ended": 1})
    assert len(await ids(ledger, state="PENDING")) == 50  # a page; nothing was cancelled
    made = await begun(ledger, "cancel", asked)
    assert (made.state, made.total, made.dry_run) == ("RUNNING", 30, False)
    if killed:
        with monkeypatch.context() as patch:
            calls = 0
            run = ledger.redis.run

            async def dies(call: Any) -> Any:
                nonlocal calls
                calls += call.command.name == "operate"
                answer = await run(call)
                if calls == 2:
                    raise RuntimeError("killed")
                return answer

            patch.setattr(ledger.redis, "run", dies)
            with pytest.raises(RuntimeError):
                await ledger.operations.carry(made, nobody, seconds=60)
        assert await ledger.operations.claim() is None  # the lease of the one that died
        halfway = await ledger.operations.get(made.id)
        assert halfway is not None
        assert (halfway.state, halfway.done) == ("RUNNING", 14)
    done = await carried(ledger, made)
    assert (done.state, done.matched, done.done, done.skipped) == ("DONE", 30, 29, {"ended": 1})
    assert done.finished_at is not None
    assert await ids(ledger, task="t", state="PENDING") == []
    assert len(await ids(ledger, task="u", state="PENDING")) == 30
    assert await ledger.operations.claim() is None


async def test_all_that_fit_are_tried_again_once(
    ledger: Ledger, worker: WorkerLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the one that submits them has to wait in the middle of a step, which is then done again."""
    monkeypatch.setattr(operations, "STEP", 4)
    await made_jobs(ledger, worker)
    for number in range(10):
        await accept(ledger, record(f"j{number}"), {})
        await begin(worker, f"j{number}", "1")
        await end(worker, f"j{number}", "FAILURE", ERROR)
    patience = 6

    async def retry(operation: Operation, job_id: str, made_id: str) -> str | None:
        nonlocal patience
        patience -= 1
        if patience == 0:
            raise Waits("the broker is away")
        if job_id == "lost":
            return "unknown-task"
        again = dataclasses.replace(record(made_id), retry_of=job_id, created_at=NOW + 86_400_000)
        await accept(ledger, again, {})
        return None

    made = await begun(ledger, "retry", Filter())
    waiting = await carried(ledger, made, retry)
    assert (waiting.state, waiting.why) == ("RUNNING", "the broker is away")
    assert await ledger.operations.claim() is None  # for a while
    done = await carried(ledger, made, retry)
    assert (done.state, done.why, done.done) == ("DONE", None, 11)
    assert done.skipped == {"succeeded": 1, "not-ended": 2, "unknown-task": 1}
    jobs = (await ledger.jobs.find(Filter(), limit=200)).jobs
    retried = [each.record.retry_of for each in jobs if each.record.retry_of]
    assert sorted(retried) == sorted(["failed", *(f"j{number}" for number in range(10))])
    # And not once more by another operation: what was made of them has not ended.
    after = await carried(ledger, await begun(ledger, "retry", Filter(state="FAILURE")), retry)
    assert (after.done, after.skipped) == (0, {"retried-before": 11, "unknown-task": 1})


async def test_an_operation_is_cancelled_and_listed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MOST_KEPT", 2)
    await accept(ledger, record("a"), {})
    first = await begun(ledger, "cancel", Filter(tags=("x",)), owner="o", by="key")
    assert await ledger.operations.cancel(first.id, "enough")
    assert not await ledger.operations.cancel(first.id, "once more")
    stopped = await carried(ledger, first)
    assert (stopped.state, stopped.why, stopped.by, stopped.filter.tags) == ("CANCELLED", "enough", "key", ("x",))
    assert await ledger.operations.claim() is None
    second, third = [await begun(ledger, "cancel", Filter(), owner="o") for _ in range(2)]
    assert await ledger.operations.get(first.id) is None  # the two last ones are kept
    assert await ledger.operations.begin("cancel", Filter(), owner="o") is None  # both are under way
    other = await begun(ledger, "cancel", Filter(), owner="p")
    assert {each.id for each in await ledger.operations.last("o")} == {second.id, third.id}
    assert {each.id for each in await ledger.operations.last()} == {second.id, third.id, other.id}
    claimed = [await ledger.operations.claim() for _ in range(4)]
    assert {each.id for each in claimed if each} == {second.id, third.id, other.id}
    assert claimed[3] is None
    assert (await job(ledger, "a")).state == "PENDING"
