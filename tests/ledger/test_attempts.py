"""Each attempt at a job, whatever ended it: the real commands."""

import asyncio

from tests.ledger.records import Wait, accept, begin, end, found, keys, record
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.attempts import Attempts
from tornado_celery_bridge.ledger.blocking import WorkerLedger

ERROR = {"type": "OSError", "module": "builtins", "message": "not yet"}


async def attempts(ledger: Ledger, job_id: str = "a") -> Attempts:
    known = await ledger.jobs.attempts(job_id)
    assert isinstance(known, Attempts)
    return known


async def log(worker: WorkerLedger, token: str, message: str) -> None:
    await asyncio.to_thread(worker.report, "a", token, "log", {"message": message})


async def test_each_is_told(ledger: Ledger, worker: WorkerLedger, wait: Wait) -> None:
    await accept(ledger, record("a"), {})
    assert (await attempts(ledger)).attempts == []
    await begin(worker, "a", "1")
    await log(worker, "1", "one")
    (only,) = (await attempts(ledger)).attempts
    assert (only.number, only.outcome, only.ended_at, only.worker) == (1, "running", None, "w@here")
    await wait(1)
    await asyncio.to_thread(lambda: worker.retry("a", "1", ERROR, publish=True, traceback="x" * 5_000 + "Traceback"))
    await wait(2)
    await begin(worker, "a", "2")
    await asyncio.to_thread(worker.save_checkpoint, "a", "2", "t", '{"n":1}')
    await log(worker, "2", "two")
    await wait(11)
    assert set(await found(worker)) == {"a"}  # its worker was lost
    await begin(worker, "a", "3")
    await asyncio.to_thread(lambda: worker.give_back("a", "3", publish=True))
    await begin(worker, "a", "4")
    await log(worker, "4", "four")
    await wait(3)
    await end(worker, "a", "FAILURE", ERROR)
    told = await attempts(ledger)
    assert [each.outcome for each in told.attempts] == ["retried", "lost", "given back", "failed"]
    assert [each.number for each in told.attempts] == [1, 2, 3, 4]
    assert [[line["message"] for line in each.log] for each in told.attempts] == [["one"], ["two"], [], ["four"]]
    first, second, third, last = told.attempts
    begun = first.started_at
    assert [(each.started_at - begun, (each.ended_at or 0) - begun) for each in told.attempts] == [
        *((0, 1_000), (3_000, 14_000), (14_000, 14_000), (14_000, 17_000))
    ]
    assert first.error == last.error == ERROR
    assert first.traceback is not None
    assert (len(first.traceback), first.traceback[-9:]) == (2_000, "Traceback")
    assert (second.error, third.error) == (None, None)
    assert told.job.checkpoint is not None
    assert told.job.checkpoint.attempt == 2


async def test_a_job_that_begins_once_keeps_nothing_more(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")
    await end(worker, "a")
    assert not [key for key in await keys(ledger) if "past" in key]
    (only,) = (await attempts(ledger)).attempts
    assert (only.number, only.outcome, only.error) == (1, "succeeded", None)


async def test_it_has_a_bound(ledger: Ledger, worker: WorkerLedger) -> None:
    """However often a job is tried, and whatever it says."""
    await accept(ledger, record("a"), {})
    euros = "\N{EURO SIGN}" * 5_000

    def ask(token: str) -> None:
        worker.retry("a", token, {**ERROR, "message": euros}, publish=True, traceback=euros)

    for number in range(1, 31):
        assert await begin(worker, "a", str(number)) == "go"
        if number == 30:
            for _ in range(150):
                await log(worker, "30", "y" * 4_000)
        await asyncio.to_thread(ask, str(number))
    kept = await attempts(ledger)
    assert [each.number for each in kept.attempts] == list(range(11, 31))
    assert int(await ledger.redis.call("MEMORY", "USAGE", "pre.{tcb}past:a", "SAMPLES", 0)) < 20 * 8_000
    assert 100 < len(kept.attempts[-1].log) < 150
    assert kept.left_out == 150 - len(kept.attempts[-1].log)
    await ledger.jobs.cancel("a")
    (member,) = await ledger.redis.call("ZRANGE", "pre.{tcb}due", 0, -1)
    await ledger.redis.call("ZADD", "pre.{tcb}due", 0, member)
    await ledger.jobs.sweep()
    assert await ledger.jobs.attempts("a") is not None
    assert not [key for key in await keys(ledger) if "past" in key]
