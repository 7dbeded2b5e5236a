"""The two sides of the schedules against one Redis; beat's is asked by hand, so that time is what the test says."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from celery.schedules import crontab

from tests.ledger.records import begin, end
from tests.lua import check_slots
from tests.schedules.beats import Beat
from tests.schedules.entries import entry
from tests.servers import Database, free_port
from tornado_celery_bridge import Bridge, BridgeClosed
from tornado_celery_bridge.ledger import MAX_INLINE, Job, Ledger
from tornado_celery_bridge.ledger.blocking import WorkerLedger
from tornado_celery_bridge.ledger.connection import BlockingConnection
from tornado_celery_bridge.ledger.limits import Limits
from tornado_celery_bridge.schedules import (
    BackfillTooLarge,
    InvalidEntry,
    RunRefused,
    ScheduleConflict,
    ScheduleEntryNotFound,
    Scheduler,
    Schedules,
    TooManySchedules,
    calls,
)
from tornado_celery_bridge.schedules.entry import from_ms, to_ms
from tornado_celery_bridge.schedules.runs import run_id
from tornado_celery_bridge.schedules.static import static_entries
from tornado_celery_bridge.worker import install

HOURLY = {"name": "e", "task": "t", "crontab": "0 * * * *", "input": {"n": 1}, "tags": ["x"]}


@pytest.fixture
def app(database: Database) -> Iterator[Celery]:
    made = Celery("schedules", broker=database.url, backend=database.url, set_as_current=False)
    made.conf.update(result_backend_transport_options={"global_keyprefix": "pre."}, task_default_queue="q")
    install(made)
    yield made
    made.close()
    with database.client() as client:
        check_slots(client)


@pytest.fixture
async def schedules(app: Celery) -> AsyncIterator[Schedules]:
    ledger = await asyncio.to_thread(Ledger, app)
    yield Schedules(ledger, app)
    await ledger.close()


@pytest.fixture
def worker(app: Celery) -> WorkerLedger:
    return WorkerLedger(app)


@pytest.fixture
async def beat(app: Celery) -> AsyncIterator[Beat]:
    made = await asyncio.to_thread(Beat, app)
    assert await asyncio.to_thread(made.ask) == 1
    yield made
    await asyncio.to_thread(made.close)


async def look(beat: Beat) -> None:
    await asyncio.to_thread(beat.look)


async def messages(beat: Beat) -> list[str]:
    """Return the ids of the messages in the queue, the oldest first."""
    lists = ("q\x06\x169", "q")  # kombu's for what has no priority, and for the most urgent
    found = [each for name in lists for each in await asyncio.to_thread(beat._redis.client.lrange, name, 0, -1)]
    return [json.loads(message)["headers"]["id"] for message in reversed(found)]


async def be_due(schedules: Schedules, name: str = "e", *, ago: float = 0.0) -> int:
    """Have an entry be due for a run of so many seconds ago; return its slot."""
    slot = await schedules._now() - round(ago * 1000)
    prefix = schedules._redis.prefix
    await schedules._redis.call("HSET", f"{prefix}schedule:{name}", "slot", slot)
    await schedules._redis.call("ZADD", f"{prefix}schedules:due", slot, name)
    return slot


async def job(schedules: Schedules, job_id: str) -> Job:
    found = await schedules._jobs.get(job_id)
    assert isinstance(found, Job)
    return found


# Entries.


async def test_a_life(schedules: Schedules) -> None:
    made = await schedules.create(entry(**HOURLY))
    assert (made.version, made.runs, made.static) == (1, 0, False)
    assert made.next_run is not None
    assert timedelta(0) < made.next_run - datetime.now(UTC) <= timedelta(hours=1)
    assert await schedules.get("e") == made
    assert await schedules.find() == ([made], None)
    with pytest.raises(ScheduleConflict):
        await schedules.create(entry(**HOURLY))

    changed = await schedules.replace(entry(**HOURLY, note="n"), version=1)
    assert (changed.version, changed.entry.note) == (2, "n")
    with pytest.raises(ScheduleConflict):
        await schedules.replace(entry(**HOURLY), version=1)
    with pytest.raises(ScheduleConflict):
        await schedules.delete("e", version=1)

    paused = await schedules.pause("e")
    assert (paused.next_run, paused.entry.enabled, paused.version) == (None, False, 3)
    until = datetime(2126, 1, 1, tzinfo=UTC)
    assert (await schedules.pause("e", until=until)).next_run == until
    assert (await schedules.resume("e")).next_run == made.next_run
    assert (await schedules.next_runs("e", 2))[1] == made.next_run + timedelta(hours=1)

    await schedules.delete("e", version=5)
    for call in (schedules.get, schedules.delete, schedules.pause, schedules.run):
        with pytest.raises(ScheduleEntryNotFound):
            await call("e")
    left = await schedules._redis.call("KEYS", "*")
    assert {key.decode() for key in left} == {
        f"pre.{{tcb}}{name}" for name in ("schedules:wake", "schedules:deleted", "schema")
    }
    assert (await schedules.create(entry(**HOURLY))).version == 6  # so that a stale version is nobody's


async def test_what_is_never_due_is_refused(schedules: Schedules) -> None:
    with pytest.raises(InvalidEntry, match="never"):
        await schedules.create(entry(once=datetime(2020, 1, 1, tzinfo=UTC)))
    with pytest.raises(InvalidEntry, match="never"):
        await schedules.create(entry(end=datetime(2020, 1, 1, tzinfo=UTC)))


async def test_what_could_not_run_is_refused(schedules: Schedules, app: Celery) -> None:
    """All that is wrong at once, by the check that an import and HTTP have, too."""

    @app.task(name="known", shared=False)
    def known(n: int) -> None:
        raise NotImplementedError

    await asyncio.to_thread(lambda: app.conf.update(task_create_missing_queues=False))
    wrong = entry(**HOURLY | {"task": "known", "input": {"m": "x" * MAX_INLINE}, "options": {"queue": "nobody's"}})
    for change in (schedules.create, schedules.replace):
        with pytest.raises(InvalidEntry) as raised:
            await change(wrong)
        assert [field for field, _ in raised.value.faults] == ["input", "input", "options.queue"]
    with pytest.raises(InvalidEntry, match="options: Invalid isoformat string: 'soon'"):
        await schedules.create(entry(**HOURLY | {"options": {"expires": "soon"}}))
    assert await schedules.count() == 0


async def test_pages(schedules: Schedules) -> None:
    for name in ("b", "a", "d", "c"):
        await schedules.create(entry(name=name))
    assert await schedules.count() == 4
    first = await schedules.find(limit=3)
    assert [each.entry.name for each in first.schedules] == ["a", "b", "c"]
    last = await schedules.find(limit=3, cursor=first.cursor)
    assert ([each.entry.name for each in last.schedules], last.cursor) == (["d"], None)


async def test_an_owners_entries(schedules: Schedules) -> None:
    async def names(owner: str) -> list[str]:
        return [each.entry.name for each in (await schedules.find(owner=owner)).schedules]

    for name, owner in {"a": "me", "b": "you", "c": "me", "d": ""}.items():
        await schedules.create(entry(name=name, owner=owner))
    assert [await names(owner) for owner in ("me", "you", "")] == [["a", "c"], ["b"], ["d", "a", "c", "b"]]
    await schedules.create(entry(name="a", owner="you"))  # a name is its owner's
    await schedules.create(entry(name="a"))
    await schedules.delete("me~a")
    assert [await names(owner) for owner in ("me", "you", "")] == [["c"], ["a", "b"], ["a", "d", "c", "a", "b"]]
    with pytest.raises(TooManySchedules):
        await schedules.create(entry(name="e", owner="me"), most=1)
    assert (await schedules.create(entry(name="e", owner="me"), most=2)).entry.key == "me~e"
    for wrong in ({"name": "a~b"}, {"owner": "a~b"}):
        with pytest.raises(InvalidEntry, match="parts an owner from a name"):
            entry(**wrong)


async def test_through_a_bridge(app: Celery) -> None:
    async with Bridge(app) as bridge:
        made = await bridge.schedules.create(entry(name="a"))
        assert await bridge.schedules.get("a") == made
    with pytest.raises(BridgeClosed):
        _ = bridge.schedules
    elsewhere = Celery("elsewhere", broker="memory://", backend="cache+memory://", set_as_current=False)
    async with Bridge(elsewhere) as bridge:
        with pytest.raises(ImproperlyConfigured, match="set job_ledger_url"):
            _ = bridge.schedules
    elsewhere.close()


# Runs.


async def test_a_run_is_kept_as_long_as_any_job(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """JOB_TTL holds for the runs that beat begins and for those on demand."""
    ledger = await asyncio.to_thread(lambda: Ledger(app, ttl=3.0))
    monkeypatch.setenv("JOB_TTL", "4")
    beat = await asyncio.to_thread(Beat, app)
    await asyncio.to_thread(beat.ask)
    schedules = Schedules(ledger, app)
    await schedules.create(entry(**HOURLY))
    run = await schedules.run("e")
    assert await ledger.redis.client.hget(f"pre.{{tcb}}job:{run}", "ttl") == b"3000"
    slot = await be_due(schedules, "e")
    await look(beat)
    assert await ledger.redis.client.hget(f"pre.{{tcb}}job:{run_id('e', slot)}", "ttl") == b"4000"
    await asyncio.to_thread(beat.close)
    await ledger.close()


async def test_a_run_is_a_job(schedules: Schedules, beat: Beat, worker: WorkerLedger) -> None:
    await schedules.create(entry(**HOURLY, owner="o", options={"priority": 0}))
    await look(beat)
    assert await messages(beat) == []
    slot = await be_due(schedules, "o~e")
    await look(beat)
    await look(beat)
    job_id = run_id("o~e", slot)
    assert await messages(beat) == [job_id]
    accepted = await job(schedules, job_id)
    assert accepted.record.owner == "o"
    assert accepted.record.tags == ["x"]
    assert (accepted.record.task, accepted.record.queue, accepted.record.priority) == ("t", "q", 9)
    assert accepted.record.schedule == "o~e"
    assert await schedules._jobs.input_of(job_id) == b'{"n":1}'
    found = await schedules.get("o~e")
    assert (found.runs, found.last_job) == (1, job_id)
    assert found.last_run is not None
    assert abs(found.last_run - datetime.now(UTC)) < timedelta(minutes=1)
    assert found.next_run is not None
    assert found.next_run > datetime.now(UTC)
    [run] = await schedules.runs("o~e")
    assert (run.job_id, run.job, run.why) == (job_id, accepted, "")
    assert await begin(worker, job_id, "1") == "go"


async def test_a_slot_runs_once_whatever_becomes_of_the_entry(schedules: Schedules, beat: Beat) -> None:
    await schedules.create(entry(**HOURLY))
    slot = await be_due(schedules)
    await look(beat)
    await schedules.delete("e")
    await schedules.create(entry(**HOURLY))
    prefix = schedules._redis.prefix
    await schedules._redis.call("HSET", f"{prefix}schedule:e", "slot", slot)
    await schedules._redis.call("ZADD", f"{prefix}schedules:due", slot, "e")
    await look(beat)
    assert await messages(beat) == [run_id("e", slot)]


async def test_without_the_broker_a_run_waits_in_the_outbox(
    schedules: Schedules, database: Database, worker: WorkerLedger
) -> None:
    away = Celery("away", broker=f"redis://127.0.0.1:{free_port()}/0", backend=database.url, set_as_current=False)
    away.conf.update(result_backend_transport_options={"global_keyprefix": "pre."}, task_default_queue="q")
    install(away)
    beat = await asyncio.to_thread(Beat, away)
    await asyncio.to_thread(beat.ask)
    await schedules.create(entry(**HOURLY))
    slot = await be_due(schedules)
    await look(beat)
    assert await asyncio.to_thread(worker.reconcile, "w", 60.0, 10, []) == ([], set())  # it leads now
    assert [taken for taken, _ in (await asyncio.to_thread(worker.take, "w", 10))[1]] == [run_id("e", slot)]
    await asyncio.to_thread(beat.close)
    away.close()


async def test_a_run_that_can_not_be_published_has_failed(schedules: Schedules, beat: Beat) -> None:
    await schedules.create(entry(**HOURLY | {"input": {"misspelt": 1}}))  # by a process that does not know the task

    @beat.app.task(name="t", shared=False)
    def count(n: int) -> None:
        raise NotImplementedError

    with pytest.raises(InvalidEntry, match="input: "):
        await schedules.create(entry(**HOURLY | {"name": "f", "input": {"misspelt": 1}}))
    slot = await be_due(schedules)
    await look(beat)
    failed = await job(schedules, run_id("e", slot))
    assert failed.state == "FAILURE"
    assert failed.error is not None
    assert failed.error["type"] == "TypeError"
    assert (await schedules.get("e")).next_run is not None


async def test_on_demand(schedules: Schedules, beat: Beat, worker: WorkerLedger) -> None:
    await schedules.create(entry(**HOURLY, enabled=False))
    job_id = await schedules.run("e")
    _, [(taken, message)] = await asyncio.to_thread(worker.take, "w", 10)
    assert taken == job_id
    assert json.loads(message)["kwargs"] == {"n": 1}
    assert [(run.slot, run.job_id) for run in await schedules.runs("e")] == [(None, job_id)]
    assert (await schedules.get("e")).runs == 0


async def test_backfill(schedules: Schedules, beat: Beat, worker: WorkerLedger) -> None:
    await schedules.create(entry(**HOURLY, overlap="skip"))
    ran = await be_due(schedules)
    await look(beat)
    hour = from_ms(ran).replace(minute=0, second=0, microsecond=0)
    await schedules.pause("e")
    before = await schedules.get("e")

    since, until = hour - timedelta(hours=3), hour
    slots = [since + timedelta(hours=number) for number in range(3)]
    assert await schedules.backfill("e", since, until, dry_run=True) == (slots, [])
    assert len(await schedules.runs("e")) == 1
    made = await schedules.backfill("e", since, until)
    assert made == (slots, [run_id("e", to_ms(slot)) for slot in slots])
    _, taken = await asyncio.to_thread(worker.take, "w", 10)
    assert [job_id for job_id, _ in taken] == made.job_ids
    told = [json.loads(message)["options"]["headers"]["schedule_slot"] for _, message in taken]
    assert told == [slot.isoformat() for slot in slots]
    assert [run.job_id for run in await schedules.runs("e")] == [*reversed(made.job_ids), run_id("e", ran)]
    assert (await job(schedules, made.job_ids[0])).record.tags == ["x"]
    assert await schedules.get("e") == before

    # Again, and for longer: what has run does not run again, even once it is forgotten.
    assert await schedules.backfill("e", since, until) == ([], [])
    await begin(worker, made.job_ids[0], "t")
    await end(worker, made.job_ids[0])
    await schedules._redis.call("ZADD", f"{schedules._redis.prefix}due", 0, UUID(made.job_ids[0]).bytes)
    assert await schedules._jobs.sweep() == 1
    more = await schedules.backfill("e", since - timedelta(hours=1), until)
    assert more.slots == [since - timedelta(hours=1)]
    rest = (await schedules.backfill("e", until, until + timedelta(days=365))).slots  # but not the future
    assert (rest[0], rest[-1] <= datetime.now(UTC)) == (hour, True)


async def test_what_is_not_backfilled(schedules: Schedules) -> None:
    now = datetime.now(UTC)
    await schedules.create(entry(name="e", interval=60))
    await schedules.create(entry(name="old", interval=60, anchor=now - timedelta(days=2)))
    assert (await schedules.backfill("e", now - timedelta(days=1), now)).slots == []  # it was not there
    assert len((await schedules.backfill("old", now - timedelta(hours=3), now)).slots) == 180
    with pytest.raises(BackfillTooLarge, match="more than 1,000"):
        await schedules.backfill("old", now - timedelta(days=1), now, dry_run=True)
    assert (await schedules.backfill("old", now, now - timedelta(hours=1))).slots == []
    with pytest.raises(ScheduleEntryNotFound):
        await schedules.backfill("none", now - timedelta(days=1), now)


async def test_overlap(schedules: Schedules, beat: Beat, worker: WorkerLedger) -> None:
    for policy in ("skip", "queue", "cancel"):
        await schedules.create(entry(**HOURLY | {"name": policy}, overlap=policy))
        await be_due(schedules, policy, ago=2)
    await look(beat)
    first = {policy: (await schedules.get(policy)).last_job or "" for policy in ("skip", "queue", "cancel")}
    for policy in first:
        await begin(worker, first[policy], "1")
        await be_due(schedules, policy, ago=1)
    await look(beat)
    assert [run.why for run in await schedules.runs("skip")] == ["skipped", ""]
    assert len(await schedules.runs("queue")) == 1
    assert len(await schedules.runs("cancel")) == 2
    reported = await asyncio.to_thread(worker.report, first["cancel"], "", "log", {})
    assert reported == "cancelled"

    await end(worker, first["queue"])
    await asyncio.sleep(0.5)  # it is looked at again twice a second
    await look(beat)
    assert len(await schedules.runs("queue")) == 2
    assert (await schedules.get("queue")).next_run > datetime.now(UTC)  # type: ignore[operator]


async def test_paused_after_failures_until_it_is_resumed(
    schedules: Schedules, beat: Beat, worker: WorkerLedger
) -> None:
    await schedules.create(entry(**HOURLY, pause_after=2))
    for ago in (3, 2, 1):
        slot = await be_due(schedules, ago=ago)
        await look(beat)
        if ago > 1:
            await end(worker, run_id("e", slot), "FAILURE", {"type": "E", "module": "m", "message": "no"})
    halted = await schedules.get("e")
    assert (halted.halted, halted.next_run, halted.runs) == ("2 failures in a row", None, 2)
    resumed = await schedules.resume("e")
    assert (resumed.halted, resumed.failures) == ("", 0)
    assert resumed.next_run is not None


async def test_what_was_missed(schedules: Schedules, beat: Beat) -> None:
    for policy, runs in (("skip", 0), ("once", 1), ("all", 6)):
        await schedules.create(entry(name=policy, crontab="* * * * *", misfire=policy, grace=0))
        now = await schedules._now()
        prefix, slot = schedules._redis.prefix, (now // 60_000 - 5) * 60_000
        await schedules._redis.call("HSET", f"{prefix}schedule:{policy}", "slot", slot)
        await schedules._redis.call("ZADD", f"{prefix}schedules:due", slot, policy)
        await look(beat)
        assert (await schedules.get(policy)).runs == runs
    assert [run.why for run in await schedules.runs("skip")] == ["missed"]


# Leaders.


async def test_one_leads_and_the_other_is_refused(schedules: Schedules, app: Celery, beat: Beat) -> None:
    other = await asyncio.to_thread(Beat, app)
    assert await asyncio.to_thread(other.ask) == 0
    assert beat.lease._me == await schedules.leader()
    assert await asyncio.to_thread(beat.ask) == 1

    # The first is frozen; its lease ends, and the other has the next.
    await schedules.create(entry(**HOURLY))
    await be_due(schedules)
    due = await asyncio.to_thread(beat._redis.run, calls.due(leader=beat.lease.leader, most=10))
    await schedules._redis.call("DEL", f"{schedules._redis.prefix}schedules:leader")
    assert await asyncio.to_thread(other.ask) == 2

    # It wakes in the middle of its tick.
    assert due
    now, _, _, row = due
    one = beat._read(row, beat.lease.leader, now)
    assert one is not None
    assert not await asyncio.to_thread(beat._run, [one], beat.lease.leader, now)
    assert (await schedules.get("e")).runs == 0
    await look(beat)
    assert not beat.lease._leads.is_set()
    await look(other)
    assert (await schedules.get("e")).runs == 1
    await asyncio.to_thread(other.close)
    assert await schedules.leader() is None


async def test_what_was_changed_meanwhile_does_not_run(schedules: Schedules, beat: Beat) -> None:
    await schedules.create(entry(**HOURLY))
    await be_due(schedules)
    answer = await asyncio.to_thread(beat._redis.run, calls.due(leader=beat.lease.leader, most=10))
    assert answer is not None
    now, _, _, row = answer
    one = beat._read(row, beat.lease.leader, now)
    assert one is not None
    await schedules.replace(entry(**HOURLY, note="changed"))
    assert await asyncio.to_thread(beat._run, [one], beat.lease.leader, now)
    assert (await schedules.get("e")).runs == 0


async def test_a_task_that_is_switched_off(schedules: Schedules, beat: Beat) -> None:
    """Its runs are left out, and say so; then it runs again."""
    await schedules.create(entry(**HOURLY))
    await Limits(schedules._redis).set_task("t", enabled=False, reason="closed")
    await be_due(schedules)
    await look(beat)
    assert [(run.job_id, run.why) for run in await schedules.runs("e")] == [(None, "off")]
    with pytest.raises(RunRefused, match="switched off"):
        await schedules.run("e")
    with pytest.raises(RunRefused, match="switched off"):
        await schedules.backfill("e", datetime.now(UTC) - timedelta(hours=3), datetime.now(UTC))
    assert await messages(beat) == []
    await Limits(schedules._redis).set_task("t", enabled=True)
    await be_due(schedules)
    await look(beat)
    assert len(await messages(beat)) == 1


# What nobody can use.


async def test_statistics(schedules: Schedules, beat: Beat) -> None:
    none = await schedules.statistics()
    assert (none.entries, none.runs, none.leaders, none.leader) == (0, 0, 1, await schedules.leader())
    rarely = {"crontab": "0 0 1 1 *"}
    await schedules.create(entry(**rarely, overlap="skip"))
    await schedules.create(entry(**rarely, name="late", misfire="skip", pause_after=1))
    await be_due(schedules, ago=4)
    await be_due(schedules, "late", ago=7200)
    assert 7200 <= (await schedules.statistics()).overdue < 7260
    await look(beat)
    await be_due(schedules)
    await look(beat)
    now = await schedules.statistics()
    assert (now.entries, now.static, now.quarantined, now.overdue) == (2, 0, 0, 0)
    assert (now.runs, now.missed, now.skipped, now.paused) == (1, 1, 1, 0)
    assert 4 <= now.lateness_sum < 30
    assert (now.lateness[2.5], now.lateness[math.inf]) == (0, 1)
    assert list(now.lateness) == sorted(now.lateness)


async def test_quarantine(schedules: Schedules, beat: Beat) -> None:
    redis = schedules._redis
    names = ["good", "not-json", "other-name", "no-cron", "no-hash", "no-slot", "gone", "no-job", "no-queue"]
    for name in names[:-1]:
        await schedules.create(entry(**HOURLY | {"name": name}))
    await schedules.create(entry(**HOURLY | {"name": "no-queue"}, options={"queue": "nobody's"}))
    await asyncio.to_thread(lambda: beat.app.conf.update(task_create_missing_queues=False))
    vars(beat.app).pop("amqp")  # which is made anew
    for name in names:
        await be_due(schedules, name)
    key = f"{redis.prefix}schedule:"
    await redis.call("HSET", f"{key}not-json", "entry", "{")
    await redis.call("HSET", f"{key}other-name", "entry", entry(**HOURLY).encode())
    await redis.call("HSET", f"{key}no-cron", "entry", '{"name":"no-cron","task":"t","crontab":"no"}')
    await redis.call("HSET", f"{key}no-slot", "slot", "soon")
    await redis.call("SET", f"{key}no-hash", "x")
    await redis.call("DEL", f"{key}gone")
    await redis.call("HSET", f"{key}no-job", "last", "x")
    await redis.call("SET", f"{redis.prefix}job:x", "no hash")
    await look(beat)
    assert (await schedules.get("good")).runs == 1
    reasons = {
        "no-cron": "five fields",
        "no-hash": "not a hash",
        "no-queue": "missing from task_queues",
        "no-slot": "invalid literal",
        "not-json": "not an entry",
        "other-name": "it is 'e'",
    }
    told = await schedules.quarantined()
    assert told.keys() == reasons.keys()
    assert all(reasons[name] in told[name] for name in reasons)
    with pytest.raises(InvalidEntry):
        await schedules.get("no-cron")
    assert [each.entry.name for each in (await schedules.find()).schedules] == ["good", "no-job"]
    await be_due(schedules, "good")
    await look(beat)  # they are due no more
    assert (await schedules.get("good")).runs == 2
    for name in ("not-json", "no-hash"):
        assert (await schedules.replace(entry(**HOURLY | {"name": name}))).next_run is not None
    await schedules.delete("no-cron")
    assert (await schedules.quarantined()).keys() == {"no-queue", "no-slot", "other-name"}


# The configuration's.


async def test_static_entries(schedules: Schedules, app: Celery) -> None:
    async def loaded(**conf: Any) -> None:
        app.conf.beat_schedule = conf
        beat = await asyncio.to_thread(Beat, app)
        await asyncio.to_thread(beat._load)
        await asyncio.to_thread(beat.close)

    app.conf.timezone = "Europe/Paris"  # type: ignore[assignment,misc]
    await schedules.create(entry(name="mine"))
    await loaded(
        a={"task": "t", "schedule": crontab(minute={0, 30}, hour="8-18/2"), "args": (1,), "options": {"expires": 60}},  # type: ignore[arg-type]
        b={"task": "t", "schedule": timedelta(minutes=5), "kwargs": {"x": 1}, "overlap": "skip", "tags": ["x"]},
        c={"task": "t", "schedule": 30.0, "relative": True},
        mine={"task": "t", "schedule": 1},
        wrong={"task": "t", "schedule": object()},
    )
    a, b, c = [await schedules.get(name) for name in "abc"]
    assert a.static
    assert (a.entry.crontab, a.entry.timezone, a.entry.input) == ("0,30 8-18/2 * * *", "Europe/Paris", [1])
    assert (b.entry.interval, b.entry.overlap, b.entry.input) == (300.0, "skip", {"x": 1})
    assert c.entry.anchor == datetime.fromtimestamp(0, UTC)
    assert not (await schedules.get("mine")).static
    with pytest.raises(ScheduleEntryNotFound):
        await schedules.get("wrong")
    with pytest.raises(ScheduleConflict, match="configuration"):
        await schedules.replace(entry(name="a"))
    with pytest.raises(ScheduleConflict, match="configuration"):
        await schedules.delete("a")
    await schedules.pause("a")

    # The next start: one has changed, one is as it was, one is gone.
    slot = await be_due(schedules, "b", ago=600)
    await loaded(
        a={"task": "other", "schedule": crontab(minute="5"), "args": (1,)},
        b={"task": "t", "schedule": 300, "kwargs": {"x": 1}, "overlap": "skip", "tags": ["x"]},
    )
    again = await schedules.get("a")
    assert (again.entry.task, again.entry.enabled, again.static) == ("other", False, True)
    kept = await schedules.get("b")
    assert kept.version == b.version
    assert kept.next_run == datetime.fromtimestamp(slot / 1000, UTC)
    assert [each.entry.name for each in (await schedules.find()).schedules] == ["a", "b", "mine"]


def test_arguments_by_position_and_by_name(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="more")
    def more(x: int, y: int = 2, **rest: int) -> None: ...

    @app.task(name="alone")
    def alone(x: int, /, y: int) -> None: ...

    @app.task(name="many")
    def many(*numbers: int, y: int) -> None: ...

    both = {"schedule": 60, "args": [1], "kwargs": {"y": 3}}
    app.conf.beat_schedule = {
        "rest": {"task": "more", **both, "kwargs": {"z": 3}},
        "plain": {"task": "more", **both},
        "alone": {"task": "alone", **both},
        "many": {"task": "many", **both},
    }
    found = {each.name: each.input for each in static_entries(app)}
    assert found == {"rest": {"x": 1, "z": 3}, "plain": {"x": 1, "y": 3}}
    assert "beat_schedule: alone is left out" in caplog.text
    assert "beat_schedule: many is left out" in caplog.text


async def test_an_emptied_redis_gets_the_configuration_again(schedules: Schedules, app: Celery) -> None:
    app.conf.beat_schedule = {"a": {"task": "t", "schedule": 60}}
    beat = await asyncio.to_thread(Beat, app)
    await asyncio.to_thread(beat.ask)
    await look(beat)
    await schedules._redis.call("FLUSHDB")
    await asyncio.to_thread(beat.ask)
    await look(beat)
    await look(beat)
    assert (await schedules.get("a")).static
    await asyncio.to_thread(beat.close)


async def test_it_says_what_it_needs(database: Database) -> None:
    app = Celery("no ledger", broker=database.url, backend=database.url, set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="install"):
        await asyncio.to_thread(Scheduler, app)
    app.close()


def test_two_connections(app: Celery) -> None:
    one, other = BlockingConnection(app), BlockingConnection(app)
    assert one.client.connection_pool is not other.client.connection_pool
