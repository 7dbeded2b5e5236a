"""
Two beats in any order of events, on a clock of the test's own: the real scripts, in a real Redis.

Each of them may be frozen between what it read and what it does about it. Whatever happens, no slot has two runs, and
with ``misfire="all"`` none is left out.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from celery import Celery
from redis import Redis as Client

from tests.lua import read_the_time_from_a_key
from tests.schedules.beats import Beat
from tests.schedules.entries import entry, seed
from tests.servers import Database
from tornado_celery_bridge.schedules import calls
from tornado_celery_bridge.schedules.runs import run_id
from tornado_celery_bridge.worker import install

SECONDS = 360
START = 1_795_608_000_000
EVERY = {"a": 1, "b": 1, "c": 2, "d": 3}


@pytest.fixture
def client(database: Database) -> Iterator[Client]:
    with database.client() as made:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the scripts read the time from a key."""
    read_the_time_from_a_key(monkeypatch, calls)


@pytest.mark.parametrize("order", range(3))
def test_a_thousand_slots(order: int, database: Database, client: Client, clock: None) -> None:
    chance = random.Random(order)
    client.set("clock", START)
    app = Celery("fencing", broker=database.url, backend=database.url, set_as_current=False)
    install(app)
    beats = [Beat(app), Beat(app)]
    accepted: list[str] = []
    for beat in beats:
        beat._publish = lambda runs: accepted.extend(run.job_id for run in runs)  # type: ignore[method-assign]
    seed(client, [entry(name=name, task="t", interval=every, misfire="all") for name, every in EVERY.items()], START)
    frozen: dict[int, Any] = {}
    for second in range(SECONDS):
        client.set("clock", START + second * 1000)
        for number, beat in enumerate(beats):
            if number in frozen:
                if chance.random() < 0.2:  # it wakes, and does what it was about to
                    due, leader, now = frozen.pop(number)
                    beat._run(due, leader, now)
                continue
            beat.ask()
            answer = beat._redis.run(calls.due(leader=beat.lease.leader, most=100))
            if answer is None:
                continue
            now, _, _, *rows = answer
            due = [one for row in rows if (one := beat._read(row, beat.lease.leader, now)) is not None]
            if chance.random() < 0.15:
                frozen[number] = due, beat.lease.leader, now
                if chance.random() < 0.5:  # for long: its lease is over
                    client.delete("{tcb}schedules:leader")
            else:
                beat._run(due, beat.lease.leader, now)
    client.delete("{tcb}schedules:leader")  # the faults are over
    beats[0].ask()
    for _ in range(2):
        answer = beats[0]._redis.run(calls.due(leader=beats[0].lease.leader, most=100))
        assert answer is not None
        now, _, _, *rows = answer
        beats[0]._run(
            [one for row in rows if (one := beats[0]._read(row, beats[0].lease.leader, now))],
            beats[0].lease.leader,
            now,
        )
    expected = [run_id(name, START + at * 1000) for name, every in EVERY.items() for at in range(0, SECONDS, every)]
    assert Counter(accepted) == Counter(expected)
    assert int(client.get("{tcb}schedules:fence") or 0) > 3  # the lead went to and fro
    for beat in beats:
        beat.close()
    app.close()


def test_a_clock_that_is_set_forward_and_back(database: Database, client: Client, clock: None) -> None:
    app = Celery("clock", broker=database.url, backend=database.url, set_as_current=False)
    install(app)
    beat, accepted = Beat(app), Counter[str]()
    beat._publish = lambda runs: accepted.update(run.job_id for run in runs)  # type: ignore[method-assign]
    policies = ("all", "once", "skip")
    seed(client, [entry(name=name, task="t", interval=60, misfire=name) for name in policies], START)

    def ran(minutes: Iterable[int]) -> dict[str, list[int]]:
        """Return in which minutes entries had their runs, once the clock has shown some."""
        accepted.clear()
        for minute in minutes:
            client.set("clock", START + minute * 60_000)
            beat.ask()  # a lease is of real time
            for _ in range(2):  # what is due, and what that left
                beat.look()
        assert set(accepted.values()) <= {1}
        ids = {run_id(name, START + minute * 60_000): (name, minute) for name in policies for minute in range(200)}
        return {name: sorted(ids[run][1] for run in accepted if ids[run][0] == name) for name in policies}

    assert ran(range(10)) == {name: [*range(10)] for name in policies}
    # An hour forward: what was due in it was missed.
    newest = [*range(70, 80)]
    assert ran(range(70, 80)) == {"all": [*range(10, 80)], "once": newest, "skip": newest}
    # Back, and on: until it is there again nothing is due, and nothing runs twice or is left out after that.
    assert ran(range(20, 90)) == {name: [*range(80, 90)] for name in policies}
    beat.close()
    app.close()
