"""The history: what is counted, when and how it is added up; and what is told of queues and workers."""

import asyncio
import time

import pytest
from celery import Celery

from tests.ledger.records import accept, begin, end, keys, record
from tests.lua import read_the_time_from_a_key
from tests.servers import Server
from tornado_celery_bridge.ledger import BOUNDS, PERIODS, Histogram, Ledger, Monitor, QueueState, Totals, calls
from tornado_celery_bridge.ledger.blocking import WorkerLedger

MINUTE, HOUR, DAY = 60, 3_600, 86_400
#: Tomorrow, 10:58: what is kept ends by the server's own clock.
BEGUN = (int(time.time()) // DAY + 1) * DAY + 11 * HOUR - 2 * MINUTE


class Clock:
    """The scripts' clock, as milliseconds since BEGUN."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def at(self, seconds: float) -> None:
        await self._ledger.redis.call("SET", "clock", round((BEGUN + seconds) * 1000))


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Clock:
    read_the_time_from_a_key(monkeypatch, calls)
    made = Clock(ledger)
    await made.at(0)
    return made


def test_quantiles() -> None:
    none = Histogram((0,) * 24, 0.0)
    assert none.quantile(0.5) is None
    assert BOUNDS[:4] == (0.001, 0.002, 0.004, 0.008)
    same = Histogram((0, 0, 0, 100, *(0,) * 20), 0.6)
    found = [same.quantile(share) for share in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.004, 0.004 * 2**0.25, 0.004 * 2**0.5, 0.008])
    spread = Histogram((10, *(0,) * 22, 10), 0.6)
    assert spread.quantile(0.25) == pytest.approx(0.0005)
    assert spread.quantile(0.99) == BOUNDS[-1]


async def test_what_is_counted(ledger: Ledger, clock: Clock, worker: WorkerLedger) -> None:
    monitor = Monitor(ledger)
    for job_id in ("good", "bad", "cancelled", "again", "withdrawn"):
        await accept(ledger, record(job_id), {})
    await ledger.jobs.withdraw("withdrawn")
    await ledger.jobs.cancel("cancelled")
    await clock.at(0.5)
    for job_id in ("good", "bad", "again"):
        assert await begin(worker, job_id, "1") == "go"
    await clock.at(2.5)
    await end(worker, "good")
    await end(worker, "bad", "FAILURE", {"type": "E", "module": "m", "message": "no"})
    await asyncio.to_thread(lambda: worker.retry("again", "1", {"message": "not yet"}, publish=False))
    found = await monitor.counts()
    assert list(found) == [("q", "t")]
    counts = found["q", "t"]
    assert (counts.accepted, counts.withdrawn, counts.started, counts.retried) == (5, 1, 3, 1)
    assert (counts.succeeded, counts.failed, counts.revoked, counts.lost) == (1, 1, 1, 0)
    assert (counts.waits.total, counts.waits.seconds, counts.waits.buckets[9]) == (3, 1.5, 3)
    assert (counts.runs.total, counts.runs.seconds, counts.runs.buckets[11]) == (2, 4.0, 2)
    assert await monitor.totals() == Totals(1, 0, 0, 1, 1, 1, 0, 0)


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 4, 5, 1_023, 1_024, 1_025, 4_194_304, 4_194_305, 9_000_000])
async def test_which_bucket(ledger: Ledger, clock: Clock, worker: WorkerLedger, milliseconds: int) -> None:
    await accept(ledger, record("a"), {})
    await clock.at(milliseconds / 1000)
    await begin(worker, "a", "1")
    counts = (await Monitor(ledger).counts())["q", "t"]
    (number,) = (number for number, many in enumerate(counts.waits.buckets) if many)
    assert number == sum(bound < milliseconds / 1000 for bound in BOUNDS)


async def test_minutes_become_hours_and_days(ledger: Ledger, clock: Clock, worker: WorkerLedger) -> None:
    monitor = Monitor(ledger)
    times = (0, 59, 60, 119, 120, 121, HOUR, 14 * HOUR)
    for number, seconds in enumerate(times):
        await clock.at(seconds)
        await accept(ledger, record(f"j{number}"), {})

    async def accepted(span: str, since: int, until: int) -> list[int]:
        found = await monitor.history(span, BEGUN + since, BEGUN + until)  # type: ignore[arg-type]
        assert list(found) == sorted(found)
        assert all(slot % PERIODS[span][0] == 0 for slot in found)  # type: ignore[index]
        return [counts.accepted for counts in found.values()]

    assert await accepted("minute", 0, 130) == [2, 2, 2]
    assert await accepted("hour", -HOUR, HOUR) == [0, 4, 3]  # it is two minutes to the hour
    assert await accepted("hour", 14 * HOUR, 14 * HOUR) == [1]
    assert await accepted("day", -DAY, DAY) == [0, 7, 1]
    assert (await monitor.counts())["q", "t"].accepted == 8
    with pytest.raises(ValueError, match="more than 121 minutes"):
        await accepted("minute", 0, 3 * HOUR)


async def test_by_task_and_queue(ledger: Ledger, clock: Clock, worker: WorkerLedger) -> None:
    monitor = Monitor(ledger)
    tasks = ("a", "b", "x b", "b")
    for minute in (0, 1):  # of which one is closed, and one is open
        await clock.at(minute * MINUTE)
        for number, task in enumerate(tasks):
            await accept(ledger, record(f"{minute}.{number}", task=task), {})

    async def accepted(**given: str) -> list[int]:
        found = await monitor.history("minute", BEGUN, BEGUN + MINUTE, **given)
        return [counts.accepted for counts in found.values()]

    assert await accepted() == [4, 4]
    assert await accepted(task="b") == [2, 2]
    assert await accepted(queue="q") == [4, 4]
    assert await accepted(queue="q", task="x b") == [1, 1]
    assert await accepted(queue="p", task="b") == [0, 0]
    assert await accepted(task="none") == [0, 0]
    assert await accepted(queue="none") == [0, 0]


async def test_a_clock_that_goes_back(ledger: Ledger, clock: Clock, worker: WorkerLedger) -> None:
    """As when another Redis takes over: nothing is counted twice, or not at all."""
    monitor = Monitor(ledger)
    for number, seconds in enumerate((59, 60, 59, 61, 120)):
        await clock.at(seconds)
        await accept(ledger, record(f"j{number}"), {})
    found = await monitor.history("minute", BEGUN, BEGUN + 120)
    assert [counts.accepted for counts in found.values()] == [1, 3, 1]
    assert (await monitor.counts())["q", "t"].accepted == 5


async def test_the_history_ends(ledger: Ledger, worker: WorkerLedger) -> None:
    """By itself, after so many minutes, hours and days; the beginning is years ago."""
    await accept(ledger, record("a"), {})
    minute = int(time.time()) // 60 - 1  # as if what was counted had been counted a minute ago
    await ledger.redis.call("HSET", "pre.{tcb}history:open", "minute", minute)
    await accept(ledger, record("b"), {})
    left = {
        key.decode().split(":")[1]: int(await ledger.redis.call("PTTL", key)) / 1000
        async for key in ledger.redis.client.scan_iter("pre.{tcb}history:*")
    }
    assert left.pop("all") == left.pop("open") == -0.001
    assert left.keys() == PERIODS.keys()
    for span, (length, kept) in PERIODS.items():
        assert (kept - 1) * length - MINUTE <= left[span] <= (kept + 1) * length


async def test_it_outlasts_a_restart(own_server: Server) -> None:
    app = Celery("monitor", broker=own_server.url, backend=own_server.url, set_as_current=False)
    ledger = await asyncio.to_thread(Ledger, app)
    await accept(ledger, record("a"), {})
    own_server.kill()
    await asyncio.to_thread(own_server.start)
    assert (await Monitor(ledger).counts())["q", "t"].accepted == 1
    await ledger.close()
    app.close()


async def test_queues(ledger: Ledger, clock: Clock, worker: WorkerLedger) -> None:
    monitor = Monitor(ledger)
    assert await monitor.queues() == []
    await accept(ledger, record("a"), {})
    await accept(ledger, record("later"), {}, delay=60.0)
    await clock.at(10)
    await accept(ledger, record("b"), {})
    await clock.at(12)
    assert await monitor.queues() == [QueueState("q", 2, 1, 12.0)]
    assert await monitor.totals() == Totals(2, 1, 0, 0, 0, 0, 0, 0)
    for job_id in ("a", "b"):
        await begin(worker, job_id, "1")
    assert await monitor.queues() == [QueueState("q", 0, 1, 0.0)]
    await clock.at(61)
    assert await monitor.queues() == [QueueState("q", 1, 0, 1.0)]


async def test_workers(ledger: Ledger, clock: Clock, worker: WorkerLedger) -> None:
    monitor = Monitor(ledger)
    assert await monitor.workers() == []
    await accept(ledger, record("a"), {})
    await begin(worker, "a", "1")

    async def tell(name: str, *running: tuple[str, str]) -> None:
        about = {"slots": 2, "queues": ["q"]}
        await asyncio.to_thread(worker.lease, name, running, [], about)

    await tell("w@here", ("a", "1"), ("no job of the ledger's", "2"))
    await tell("v@there")
    first, second = await monitor.workers()
    assert (first.name, first.slots, first.queues, first.jobs, first.is_alive) == ("v@there", 2, ["q"], [], True)
    assert (second.name, second.jobs) == ("w@here", ["a"])
    await clock.at(11)
    await tell("w@here")
    assert [(each.name, each.silence, each.is_alive) for each in await monitor.workers()] == [
        ("v@there", 11.0, False),
        ("w@here", 0.0, True),
    ]
    await asyncio.to_thread(worker.lease, "w@here", [], [("a", "1")])  # it ends, and says so
    await clock.at(HOUR)
    assert [each.name for each in await monitor.workers()] == ["v@there"]
    await clock.at(HOUR + 1)
    await tell("w@here")
    assert [each.name for each in await monitor.workers()] == ["w@here"]
    assert {key for key in await keys(ledger) if ":worker" in key} <= {
        *("pre.{tcb}workers", "pre.{tcb}worker:w@here", "pre.{tcb}worker:v@there")
    }
