"""Limits that are changed while jobs run and wait, and tasks that are switched off: the real commands."""

import asyncio

import pytest

from tests.ledger.records import NOW, Wait, accept, begin, end, found, job, keys, record
from tornado_celery_bridge import TaskSwitchedOff
from tornado_celery_bridge.ledger import Ledger, Step, WorkflowRecord
from tornado_celery_bridge.ledger.blocking import NO_LIMIT, Limit, WorkerLedger
from tornado_celery_bridge.ledger.limits import AllLimits, Declared, LimitTaken, NamedLimit, TaskLimit, Use

TEN_A_SECOND = Limit("", None, 0.1)


async def left(ledger: Ledger) -> set[str]:
    """Return the keys that are there only while jobs hold limits or wait for them."""
    kinds = ("slots:", "parked:", "limits:used", "lines")
    return {key for key in await keys(ledger) if key.removeprefix("pre.{tcb}").startswith(kinds)}


async def begun(worker: WorkerLedger, ids: str, limit: Limit = NO_LIMIT, *, task: str = "t") -> str:
    """Return which of the jobs may begin."""
    said = {each: await begin(worker, each, each, limit=limit, task=task) for each in ids}
    return "".join(each for each, verdict in said.items() if verdict == "go")


async def accepted(ledger: Ledger, ids: str, task: str = "t") -> None:
    for each in ids:
        await accept(ledger, record(each, task=task), {})


async def take(worker: WorkerLedger) -> tuple[float | None, str]:
    pause, more = await asyncio.to_thread(worker.take, "me", 100)
    return pause, "".join(job_id for job_id, _ in more)


async def use(ledger: Ledger, task: str = "t") -> list[Use]:
    return list((await ledger.limits.all()).tasks[task].uses)


async def test_what_runs_counts_when_a_limit_comes(ledger: Ledger, worker: WorkerLedger) -> None:
    await accepted(ledger, "abcdef")
    assert await begun(worker, "abc") == "abc"  # without any
    await ledger.limits.set_task("t", max_concurrency=2)
    assert await begun(worker, "de") == ""
    assert await use(ledger) == [Use(None, 3, 2)]
    await end(worker, "a")
    assert await take(worker) == (None, ""), "two still run"
    await end(worker, "b")
    assert await take(worker) == (None, "d")
    assert await begun(worker, "df") == "d"
    await ledger.limits.set_task("t", max_concurrency=None)
    assert await take(worker) == (None, "ef")
    assert await begun(worker, "ef") == "ef"
    for each in "cdef":
        await end(worker, each)
    assert not {
        key for key in await keys(ledger) if "slots" in key or "parked" in key or "used" in key or "line" in key
    }


async def test_nothing_begins_under_a_limit_of_nothing(ledger: Ledger, worker: WorkerLedger) -> None:
    await accepted(ledger, "ab")
    await ledger.limits.set_task("t", max_concurrency=0)
    assert await begun(worker, "ab", Limit("", 5)) == ""
    await ledger.limits.set_task("t", max_concurrency=1)
    assert await take(worker) == (None, "a")
    await ledger.limits.set_task("t", max_concurrency=0)
    assert await begun(worker, "a", Limit("", 5)) == "", "it was let through, and had not begun"
    await ledger.limits.set_task("t", max_concurrency=None)
    assert await take(worker) == (None, "ab")
    assert await begun(worker, "ab", Limit("", 5)) == "ab"


async def test_a_rate_that_rises_is_the_rate_of_those_that_wait(
    ledger: Ledger, worker: WorkerLedger, wait: Wait
) -> None:
    await accepted(ledger, "abcdef")
    await ledger.limits.set_task("t", max_rate="1/h")
    assert await begun(worker, "abcdef", TEN_A_SECOND) == "a"
    pause, ids = await take(worker)
    assert (pause, ids) == (3600, "")
    await ledger.limits.set_task("t", max_rate="1/s")
    await wait(0.5)
    assert await take(worker) == (0.5, "")
    await wait(0.5)
    assert await take(worker) == (1, "b")
    assert await begun(worker, "b", TEN_A_SECOND) == "b"
    await ledger.limits.set_task("t", max_rate=None)  # the code's: ten a second
    await wait(0.1)
    assert await take(worker) == (0.1, "c")
    await wait(0.25)
    assert await take(worker) == (0.05, "de")
    assert await begun(worker, "cde", TEN_A_SECOND) == "cde"


async def test_each_value_of_a_parameter(ledger: Ledger, worker: WorkerLedger) -> None:
    """They are counted from the first job on, limited or not, so a limit that comes holds for each value."""
    await accepted(ledger, "abcxyz")
    assert await begun(worker, "ab", Limit('"ada"')) == "ab"
    assert await begun(worker, "x", Limit('"bob"')) == "x"
    await ledger.limits.set_task("t", max_concurrency=1)
    assert await begun(worker, "c", Limit('"ada"')) == ""
    assert await begun(worker, "yz", Limit('"bob"')) == ""
    await end(worker, "x")
    assert await take(worker) == (None, "y")
    assert await use(ledger) == [Use('"ada"', 2, 1), Use('"bob"', 1, 1)]


async def test_a_limit_over_several_tasks(ledger: Ledger, worker: WorkerLedger) -> None:
    await accepted(ledger, "abc")
    await accepted(ledger, "xyz", task="u")
    assert await begun(worker, "a") == "a"
    await ledger.limits.set_named("heavy", ["t", "u"], max_concurrency=2)
    assert await begun(worker, "xy", Limit("", 1), task="u") == "x", "y waits for the task's own"
    assert await begun(worker, "b") == ""
    await end(worker, "x")
    assert await take(worker) == (None, "by"), "who waits the longest has the slot that both need"
    assert await begun(worker, "y", Limit("", 1), task="u") == ""
    assert await begun(worker, "b") == "b"
    assert (await ledger.limits.all()).named == [NamedLimit("heavy", ["t", "u"], 2, None, Use(None, 2, 1))]
    with pytest.raises(LimitTaken, match="u is under the limit heavy"):
        await ledger.limits.set_named("other", ["v", "u"])
    assert (await ledger.limits.all()).tasks["u"] == TaskLimit(
        "u", limit="heavy", code=Declared(1), uses=[Use(None, 1, 0)]
    )
    assert await ledger.limits.remove_named("heavy")
    assert await take(worker) == (None, "y")
    assert await begun(worker, "y", Limit("", 1), task="u") == "y"
    assert not await ledger.limits.remove_named("heavy")
    for each in "aby":
        await end(worker, each)
    assert (await ledger.limits.all()).named == []
    assert not {
        key for key in await keys(ledger) if "slots" in key or "parked" in key or "used" in key or "line" in key
    }


async def test_a_job_may_end_while_it_waits(ledger: Ledger, worker: WorkerLedger) -> None:
    await accepted(ledger, "abc")
    await ledger.limits.set_task("t", max_concurrency=1)
    assert await begun(worker, "abc") == "a"
    await ledger.jobs.cancel("b")
    await end(worker, "a")
    assert await found(worker) == ["c"]
    await ledger.jobs.cancel("c")
    assert await ledger.limits.all() == AllLimits({"t": TaskLimit("t", 1)}, [])


async def test_a_deploy_with_another_limit_in_the_code(ledger: Ledger, worker: WorkerLedger) -> None:
    await accepted(ledger, "abcd")
    assert await begun(worker, "ab", Limit("", 1)) == "a"
    assert await begun(worker, "c", Limit("", 3)) == "", "b is before it"
    assert await take(worker) == (None, "bc")
    assert await begun(worker, "bcd", Limit("", 3)) == "bc"


async def test_a_task_that_is_switched_off(ledger: Ledger, worker: WorkerLedger) -> None:
    await accepted(ledger, "a")
    await ledger.limits.set_task("t", enabled=False, reason="closed", by="ada")
    with pytest.raises(TaskSwitchedOff, match="closed") as caught:
        await accept(ledger, record("b"), {})
    assert (caught.value.http_status_hint, caught.value.retry_after) == (503, None)
    assert await ledger.jobs.get("b") is None
    await accept(ledger, record("x", task="u"), {})
    flow = WorkflowRecord(id="f", owner="", tags=[], created_at=NOW, tree={"chain": ["f1"]})
    with pytest.raises(TaskSwitchedOff, match="closed"):
        await ledger.workflows.accept(flow, [Step(record("f1"), {}, 0.0, None)], {}, message={})
    assert await begun(worker, "a") == "a", "what was accepted runs"
    off = (await ledger.limits.of_tasks(["t", "u"]))["t"].off
    assert off is not None
    assert (off.reason, off.by) == ("closed", "ada")
    await ledger.limits.set_task("t", enabled=True)
    await accept(ledger, record("b"), {})
    assert (await job(ledger, "b")).state == "PENDING"


@pytest.mark.parametrize("rate", ["", "0", "0/s", "x", "-1/s", "1/y", "inf"])
async def test_a_rate_that_is_none(ledger: Ledger, rate: str) -> None:
    with pytest.raises(ValueError, match="10/s"):
        await ledger.limits.set_task("t", max_rate=rate)
