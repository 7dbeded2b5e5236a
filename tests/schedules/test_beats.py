"""Real beats that are killed, frozen and deprived of Redis, and what their entries run meanwhile, by a real worker."""

import itertools
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery

from tests.needs import missing
from tests.schedules.beats import ROOT, BeatProcess, Do
from tests.schedules.entries import entry, seed
from tests.servers import Server, wait_for, worker
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.schedules import Scheduled, Schedules
from tornado_celery_bridge.schedules.entry import to_ms
from tornado_celery_bridge.schedules.runs import run_id
from tornado_celery_bridge.schedules.scheduler import LEASE
from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.worker import install

SECOND = timedelta(seconds=1)


@pytest.fixture
def start(own_server: Server, tmp_path: Path) -> Iterator[Callable[[], BeatProcess]]:
    beats: list[BeatProcess] = []

    def start() -> BeatProcess:
        beats.append(BeatProcess(own_server, tmp_path / f"beat{len(beats)}.log"))
        return beats[-1]

    yield start
    for beat in beats:
        beat.process.send_signal(signal.SIGCONT)
        beat.process.terminate()
        try:
            beat.process.wait(10)
        finally:
            beat.process.kill()
            beat.process.wait()


@pytest.fixture
def ran(own_server: Server, tmp_path: Path) -> Iterator[Path]:
    """What a worker has run, while there is one, an id a line."""
    file = tmp_path / "ran"
    file.touch()
    environment = {"SAMPLE_BROKER": own_server.url, "SAMPLE_FILE": str(file), "PYTHONPATH": str(ROOT)}
    with worker("tests.schedules.sample", environment, tmp_path / "worker.log", "-c", "2", "--without-gossip"):
        yield file


@pytest.fixture
def schedules(own_server: Server, do: Do) -> Iterator[Schedules]:
    app = Celery("schedules", broker=own_server.url, backend=own_server.url, set_as_current=False)
    install(app)
    ledger = Ledger(app)
    yield Schedules(ledger, app)
    do(ledger.close())
    app.close()


def until(condition: Callable[[], object], timeout: float = 30.0) -> float:
    """Return after how many seconds *condition* held."""
    begun = time.monotonic()
    wait_for(condition, timeout)
    return time.monotonic() - begun


def test_beats_that_are_killed_and_frozen(
    start: Callable[[], BeatProcess], own_server: Server, schedules: Schedules, do: Do, ran: Path
) -> None:
    def runs() -> list[str]:
        return ran.read_text().splitlines()

    def a_beat_works() -> Callable[[], bool]:
        before = len(runs())
        return lambda: len(runs()) >= before + 8

    names = [f"every second {number}" for number in range(5)]
    for name in names:
        do(schedules.create(entry(name=name, task="sample.note", interval=1, misfire="all")))
    first = start()
    until(lambda: first.leads)
    until(a_beat_works())
    second = start()
    until(lambda: b"beat: Starting" in second.log.read_bytes())

    # An entry that is made while they run.
    soon = datetime.now(UTC) + 1.5 * SECOND
    do(schedules.create(entry(name="soon", task="sample.note", once=soon)))
    until(lambda: run_id("soon", to_ms(soon)) in runs())
    assert datetime.now(UTC) - soon < SECOND
    sooner = datetime.now(UTC) + 0.2 * SECOND
    do(schedules.create(entry(name="sooner", task="sample.note", once=sooner)))
    until(lambda: run_id("sooner", to_ms(sooner)) in runs())
    assert datetime.now(UTC) - sooner < SECOND

    # The leader is killed.
    first.process.kill()
    assert until(lambda: second.leads) < 10
    until(a_beat_works())

    # The leader is frozen for longer than its lease, and another takes over; it wakes, and stands by.
    third = start()
    until(lambda: b"beat: Starting" in third.log.read_bytes())
    second.process.send_signal(signal.SIGSTOP)
    assert until(lambda: third.leads) < LEASE + 5
    until(a_beat_works())
    second.process.send_signal(signal.SIGCONT)
    until(lambda: not second.leads)
    assert third.leads
    until(a_beat_works())
    ran_by_then, now = len(runs()), do(schedules.statistics())
    assert (now.entries, now.static, now.quarantined) == (8, 1, 0)
    assert f":{third.process.pid}:" in (now.leader or "")
    assert now.leaders >= 3
    assert now.lateness[math.inf] == now.runs >= ran_by_then
    assert now.lateness[2.5] < now.lateness[30.0]  # those that the fail-overs held up
    assert now.overdue < 10

    # Redis is killed, and comes back.
    own_server.kill()
    until(lambda: b"Redis is away" in third.log.read_bytes())
    own_server.start()
    until(a_beat_works())
    assert (second.process.poll(), third.process.poll()) == (None, None)

    # The leader ends in order: the other need not wait for its lease.
    leader, other = (second, third) if second.leads else (third, second)
    leader.process.terminate()
    assert until(lambda: other.leads) < 3
    assert leader.process.wait(20) == 0
    until(a_beat_works())

    # All slots had their run, and none had two. A message that Redis lost is published again within seconds.
    other.process.terminate()
    assert other.process.wait(20) == 0
    with own_server.client() as client:
        until(lambda: client.exists("{tcb}open") == 0)
        # What was under way as Redis died has a second attempt: one job all the same.
        again = [run for run in Counter(runs()) if int(client.hget(f"{{tcb}}job:{run}", "attempt") or 1) > 1]
    whole = each_slot_once(runs(), [do(schedules.get(name)) for name in [*names, "static"]], again)
    assert whole == len(set(runs())) - 2  # soon, and sooner


def each_slot_once(runs: list[str], entries: list[Scheduled], again: Collection[str] = ()) -> int:
    """Check that entries of every second have had no run twice and left none out; return how many they had."""
    counts = Counter(runs)
    assert [run for run, count in counts.items() if count > 1 and run not in again] == []
    total = 0
    for each in entries:
        name, anchor = each.entry.name, each.entry.anchor
        assert anchor is not None
        assert each.next_run is not None
        end = (to_ms(each.next_run) - to_ms(anchor)) // 1000
        slots = [number for number in range(end + 1) if run_id(name, to_ms(anchor) + number * 1000) in counts]
        assert slots == list(range(slots[0], end)), name
        total += len(slots)
    return total


@pytest.mark.nightly
def test_the_leader_sleeps_for_half_a_minute_and_the_next_one_is_killed(
    start: Callable[[], BeatProcess], own_server: Server, schedules: Schedules, do: Do, ran: Path
) -> None:
    names = [f"every second {number}" for number in range(25)]
    for name in names:
        do(schedules.create(entry(name=name, task="sample.note", interval=1, misfire="all")))
    first = start()
    until(lambda: first.leads)
    second = start()
    until(lambda: b"beat: Starting" in second.log.read_bytes() and len(ran.read_text().splitlines()) > 100)
    first.process.send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    assert until(lambda: second.leads) < 10
    until(lambda: time.monotonic() > frozen + 30, 60)
    first.process.send_signal(signal.SIGCONT)
    until(lambda: not first.leads)
    second.process.kill()
    assert until(lambda: first.leads) < 10
    until(lambda: len(ran.read_text().splitlines()) > 1_000, 120)
    first.process.terminate()
    assert first.process.wait(20) == 0
    with own_server.client() as client:
        until(lambda: client.exists("{tcb}open") == 0, 60)
    runs = ran.read_text().splitlines()
    assert do(schedules.statistics()).runs == len(runs)
    assert each_slot_once(runs, [do(schedules.get(name)) for name in [*names, "static"]]) == len(runs) > 1_000


def test_a_run_that_is_under_way_as_redis_dies_runs_again(
    own_server: Server, schedules: Schedules, do: Do, ran: Path
) -> None:
    do(schedules.create(entry(name="long", task="sample.long", enabled=False)))
    job_id = do(schedules.run("long"))
    until(lambda: ran.read_text() == "long\n")
    own_server.kill()
    until(lambda: b"is told to end" in (ran.parent / "worker.log").read_bytes())
    own_server.start()
    with own_server.client() as client:
        until(lambda: client.hget(f"{{tcb}}job:{job_id}", "state") in (b"SUCCESS", b"FAILURE", b"REVOKED"), 60)
    [run] = do(schedules.runs("long"))
    assert run.job is not None
    assert (run.job.state, run.job.attempt) == ("SUCCESS", 2)
    assert ran.read_text() == "long\nlong\n"


@pytest.fixture
def faketime() -> Path:
    """Debian's libfaketime."""
    if not ensure("libfaketime"):
        missing("libfaketime")
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def test_the_clock_of_redis_is_set(
    faketime: Path,
    start: Callable[[], BeatProcess],
    own_server: Server,
    schedules: Schedules,
    do: Do,
    ran: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def set_clock(offset: str) -> None:
        (tmp_path / "offset").write_text(offset)
        (tmp_path / "offset").replace(tmp_path / "clock")

    def slots(name: str) -> list[datetime]:
        return [run.slot for run in do(schedules.runs(name)) if run.slot and run.job_id]

    set_clock("+0")
    own_server.kill()
    with monkeypatch.context() as patched:
        patched.setenv("LD_PRELOAD", str(faketime))
        patched.setenv("FAKETIME_TIMESTAMP_FILE", str(tmp_path / "clock"))
        patched.setenv("FAKETIME_NO_CACHE", "1")
        patched.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        own_server.start()
    do(schedules.create(entry(name="all", task="sample.note", interval=60, misfire="all")))
    do(schedules.create(entry(name="once", task="sample.note", interval=60)))
    do(schedules.create(entry(name="seconds", task="sample.note", interval=1)))
    beats = [start(), start()]
    until(lambda: len(slots("seconds")) > 2)

    # Forward: what was due in that hour was missed, and is made up for as the entry has it.
    before = len(slots("seconds"))
    set_clock("+1h")
    until(lambda: len(slots("seconds")) > before + 2)
    assert len(slots("all")) >= 60
    assert len(slots("once")) < 10
    gaps = [later - earlier for later, earlier in itertools.pairwise(slots("seconds"))]
    assert len([gap for gap in gaps if gap > timedelta(minutes=59)]) == 1  # one run for all of them

    # Back: nothing runs again. A leader that is killed is followed as soon as ever.
    set_clock("+0")
    run = do(schedules.run("seconds"))  # it is not the worker that waits
    until(lambda: run in ran.read_text())
    noted = [do(schedules.runs(name)) for name in ("all", "once")]
    leader = beats[0] if beats[0].leads else beats[1]
    leader.process.kill()
    beats.remove(leader)
    assert until(lambda: beats[0].leads) < 10
    assert [do(schedules.runs(name)) for name in ("all", "once")] == noted
    before = len(slots("seconds"))

    # Until it has caught up.
    set_clock("+62m")
    until(lambda: len(slots("seconds")) > before + 2)
    assert len(slots("once")) < 10
    with own_server.client() as client:
        until(lambda: client.exists("{tcb}open") == 0)
    assert [run for run, count in Counter(ran.read_text().splitlines()).items() if count > 1] == []
    for name in ("all", "once", "seconds"):
        assert len(set(slots(name))) == len(slots(name))


def test_one_malformed_entry_among_a_thousand(
    start: Callable[[], BeatProcess], own_server: Server, schedules: Schedules, do: Do
) -> None:
    slot = to_ms(datetime.now(UTC))
    names = [f"e{number}" for number in range(1000)]
    with own_server.client() as client:
        seed(client, [entry(name=name, task="sample.note", interval=3600) for name in names], slot)
        client.hset("{tcb}schedule:e500", "entry", "{")
        beat = start()
        expected = {run_id(name, slot) for name in names} - {run_id("e500", slot)}
        until(lambda: client.zcount("{tcb}schedules:due", "-inf", slot) == 0)
        until(lambda: sum(client.exists(f"{{tcb}}job:{run}") for run in expected) == 999)
        until(lambda: client.llen("celery\x06\x169") >= 999)
    assert list(do(schedules.quarantined())) == ["e500"]
    assert beat.process.poll() is None
