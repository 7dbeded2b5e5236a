"""Every way in which a task's code or its process can end, by the table in docs/states.md."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.servers import wait_for
from tests.worker.processes import ROOT
from tornado_celery_bridge import Bridge, TaskFailed, TaskRevoked
from tornado_celery_bridge.ledger import Job

#: By which task of the sample what is said in the table's first column is done.
TASKS = {
    "returns": "returns",
    "returns, with `ignore_result`": "returns_silently",
    "raises an exception": "raises",
    "raises `Ignore`": "ignores",
    "raises `Ignore` in `before_start`": "ignores_early",
    "stores FAILURE by `update_state`, and raises `Ignore`": "stores_failure",
    "stores RETRY by `update_state`, and raises `Ignore`": "stores_retry",
    "raises `Reject(requeue=False)`": "rejects",
    "raises `Reject(requeue=True)`": "requeues",
    "raises `self.retry()`": "retries",
    "raises `Retry()` itself": "raises_retry",
    "returns `self.replace()` by a task": "replaces",
    "returns `self.replace()` by a chord": "replaces_by_chord",
    "calls `sys.exit()`": "exits",
    "raises `KeyboardInterrupt`": "interrupts",
    "raises `WorkerShutdown`": "shuts_down",
    "raises `asyncio.CancelledError`": "cancels",
    "raises any other `BaseException`": "raises_unusual",
    "raises `MemoryError`": "runs_out_of_memory",
    "exceeds its `soft_time_limit`": "exceeds_soft_limit",
    "exceeds its `time_limit`": "exceeds_limit",
    "exceeds its `time_limit`, and returns a value then": "exceeds_limit_and_returns",
    "is ended by a cancel": "terminated",
    "is ended by a cancel, and returns a value then": "terminated_and_returns",
    "is ended by a cancel, and raises an exception then": "terminated_and_raises",
    "is ended by a cancel, and goes on": "terminated_and_goes_on",
    "its process dies once": "dies_once",
    "its process dies each time": "dies",
}


class Row(NamedTuple):
    what: str
    state: str
    get: str
    begins: int


def rows() -> list[Row]:
    text = (ROOT / "docs/states.md").read_text().partition("## How a task ends")[2]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [Row(what, state.strip("`"), get, int(begins)) for what, state, get, begins, _ in cells[2:]]


ROWS = rows()


def test_the_table_has_every_end() -> None:
    assert [row.what for row in ROWS] == list(TASKS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: TASKS[row.what])
async def test_it_ends_as_the_table_says(ends: Bridge, tmp_path: Path, row: Row) -> None:
    assert await ended(ends, tmp_path / "marks", row) == row


@pytest.mark.parametrize("pool_worker", ["threads", "solo", "asyncio"], indirect=True)
async def test_it_ends_so_in_the_pools_that_can_end_nothing(pools: Bridge, tmp_path: Path) -> None:
    """And in asyncio's, which can't end these tasks either."""
    hold = [row for row in ROWS if not re.search("time_limit|by a cancel|process dies", row.what)]
    assert len(hold) == len(TASKS) - 9
    told = await asyncio.gather(*(ended(pools, tmp_path / TASKS[row.what], row) for row in hold))
    assert told == hold


async def ended(bridge: Bridge, path: Path, row: Row) -> Row:
    """Have a task end in a row's way; return what is told of it."""
    result = await bridge.submit(bridge.app.tasks[f"e.{TASKS[row.what]}"].s(str(path)))
    if "by a cancel" in row.what:
        await asyncio.to_thread(wait_for, path.exists)
        await bridge.ledger.jobs.cancel(result.id, grace=0.001)
    got = await said_of(bridge, result)
    async with asyncio.timeout(10):
        with bridge.ledger.events.follow(result.id) as events:
            assert [event.kind async for event in events][-1] == "end"
    job, state = await bridge.ledger.jobs.get(result.id), (await bridge.state(result)).state
    assert isinstance(job, Job)
    begins = len(await asyncio.to_thread(path.read_text))
    return Row(row.what, job.state if job.state == state else f"{job.state} and {state}", got, begins)


async def test_what_takes_a_tasks_place_begins_before_that_has_ended(ends: Bridge, tmp_path: Path) -> None:
    path = tmp_path / "marks"
    result = await ends.submit(ends.app.tasks["e.replaces_often"].s(str(path), 3))
    assert await ends.get(result, timeout=60) == "done"
    job = await ends.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    assert (job.state, await asyncio.to_thread(path.read_text)) == ("SUCCESS", "xxxx")


async def test_a_task_that_is_no_job_is_given_up_as_well(ends: Bridge, tmp_path: Path) -> None:
    path = tmp_path / "marks"
    result = await ends.dispatch(ends.app.tasks["e.dies"].s(str(path)))
    with pytest.raises(TaskFailed, match="it began 3 times, and the process that ran it died each time"):
        await ends.get(result, timeout=30)
    assert len(await asyncio.to_thread(path.read_text)) == 3


async def test_a_task_that_is_no_job_may_always_put_its_message_back(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.dispatch(ends.app.tasks["e.requeues_often"].s(str(tmp_path / "marks")))
    assert await ends.get(result, timeout=30) == "done"


async def test_what_is_cancelled_before_it_begins_is_told(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit(ends.app.tasks["e.returns"].s(str(tmp_path / "marks")), countdown=60)
    waits = asyncio.ensure_future(ends.get(result, timeout=30))
    await ends.ledger.jobs.cancel(result.id)
    with pytest.raises(TaskRevoked, match="cancelled"):
        await waits
    done = (await ends.state(result)).date_done
    assert done is not None
    assert abs((datetime.now(UTC) - datetime.fromisoformat(done)).total_seconds()) < 30


async def said_of(bridge: Bridge, result: Any) -> str:
    """Return what `get` gives, as the table spells it."""
    try:
        return f"`{await bridge.get(result, timeout=60)!r}`"
    except TaskFailed as exc:
        words = re.sub(r"^task \S+ failed: ", "", str(exc))
        return f"`TaskFailed`: {words}"
    except TaskRevoked as exc:
        words = re.sub(r"^task \S+ ", "", str(exc))
        return f"`TaskRevoked`: {words}"
