"""
What may become of a job, in any order of events: the real scripts, in a real Redis, on a clock of the test's own.

The world here has a broker that may lose messages and deliver them twice, and workers that may die, freeze and come
back. Whatever happens, no job is run by two living workers at once or ends twice; and when the faults are over, every
job ends, and nothing of it is left but its record.
"""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from celery import Celery
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from tests.ledger.records import NOW, accept
from tests.lua import read_the_time_from_a_key
from tests.servers import Database
from tornado_celery_bridge.ledger import Job, JobRecord, Ledger, Monitor, calls
from tornado_celery_bridge.ledger.blocking import Limit, WorkerLedger

WORKERS = ("w1", "w2")
ERROR = {"type": "E", "module": "m", "message": "no"}
TTL = 60.0
#: Ids of any spelling.
SPELLINGS = (
    lambda number: str(uuid.UUID(int=number)),
    lambda number: str(uuid.UUID(int=number + 0xABC << 80)).upper(),
    lambda number: f"{number:015}",
    lambda number: f"{number:016}",
    lambda number: f"workflow:{number}",
    lambda number: "é" * 100 + str(number),
)
#: The queues; a retry may go to another one.
QUEUES = ("q", "slow:1")
#: Kinds of keys that are for whoever watches.
WATCHED = {"history", "worker", "workers", "failure", "failures"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the scripts read the time from a key."""
    read_the_time_from_a_key(monkeypatch, calls)


class Attempt:
    """A task that runs, in a worker that may be dead or frozen."""

    def __init__(self, job_id: str, token: str, worker: str, retries: int) -> None:
        self.job_id, self.token, self.worker, self.retries = job_id, token, worker, retries
        self.frozen = False
        #: Whether the ledger gave it up while its worker was frozen, which goes on with it; another may begin.
        self.is_given_up = False


class World(RuleBasedStateMachine):
    client: Redis
    runner: asyncio.Runner
    ledger: Ledger
    worker: WorkerLedger

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.time = 1_000_000
        self.advance(0)
        #: Messages that are in the queue: a job's id, which retry it is, and the attempt that has asked for that.
        self.queue: list[tuple[str, int, str]] = []
        self.running: list[Attempt] = []
        self.jobs: dict[str, int] = {}
        #: Attempts that were.
        self.begun = 0
        self.ended: dict[str, tuple[str, Any]] = {}
        self.cancelled: set[str] = set()
        self.limited: set[str] = set()

    # What is done to the world.

    def advance(self, seconds: float) -> None:
        self.time += round(seconds * 1000)
        self.client.set("clock", self.time)

    def do(self, call: Any) -> Any:
        return self.runner.run(call)

    def job(self, job_id: str) -> Job:
        found = self.do(self.ledger.jobs.get(job_id))
        assert isinstance(found, Job)
        return found

    @rule(
        fate=st.sampled_from(["published", "published", "published", "lost", "put aside"]),
        limited=st.booleans(),
        spelt=st.sampled_from(SPELLINGS),
        queue=st.sampled_from(QUEUES),
    )
    def submit(self, fate: str, limited: bool, spelt: Callable[[int], str], queue: str) -> None:
        job_id = spelt(len(self.jobs) + 1)
        record = JobRecord(id=job_id, task="t", owner="o", queue=queue, created_at=NOW)
        assert self.do(accept(self.ledger, record, {})).kind == "accepted"
        self.jobs[record.id] = 0
        if limited:
            self.limited.add(record.id)
        if fate == "published":
            self.queue.append((record.id, 0, ""))
        elif fate == "put aside":
            assert self.do(self.ledger.jobs.defer(record.id, 1_000))

    @precondition(lambda self: self.queue)
    @rule(name=st.sampled_from(WORKERS), redelivered=st.booleans())
    def deliver(self, name: str, redelivered: bool) -> None:
        self.begin(*(self.queue[0] if redelivered else self.queue.pop(0)), name)

    def begin(self, job_id: str, retries: int, after: str, name: str) -> None:
        token = uuid.uuid4().hex
        limit = Limit("limit", 1, None) if job_id in self.limited else None
        verdict = self.worker.start(job_id, "t", token, worker=name, retries=retries, after=after, limit=limit)
        if verdict != "go":
            return
        self.begun += 1
        assert job_id not in self.ended
        assert job_id not in self.cancelled
        for other in self.running:
            alive = not other.is_given_up and not other.frozen
            assert not (alive and other.job_id == job_id and other.retries >= retries), "begun while it runs"
        self.running.append(Attempt(job_id, token, name, retries))
        if limit:
            holders = {each.job_id for each in self.running if each.job_id in self.limited}
            assert len({each for each in holders if self.job(each).state == "STARTED"}) <= 1

    @precondition(lambda self: self.queue)
    @rule(place=st.integers(0, 5))
    def lose_message(self, place: int) -> None:
        del self.queue[place % len(self.queue)]

    @precondition(lambda self: self.running)
    @rule(
        place=st.integers(0, 5),
        how=st.sampled_from(["SUCCESS", "SUCCESS", "FAILURE", "RETRY"]),
        queue=st.sampled_from(QUEUES),
    )
    def end(self, place: int, how: str, queue: str) -> None:
        attempt = self.running.pop(place % len(self.running))
        if how == "RETRY":
            message = {"task": "t", "options": {"task_id": attempt.job_id, "retries": attempt.retries + 1}}
            self.worker.keep(attempt.job_id, json.dumps(message), None, queue=queue, token=attempt.token, why=ERROR)
            self.queue.append((attempt.job_id, attempt.retries + 1, attempt.token))
            self.worker.retry(attempt.job_id, attempt.token, ERROR, publish=False)
        else:
            self.worker.finish(attempt.job_id, how, 1 if how == "SUCCESS" else ERROR, attempt.token)

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 5), what=st.sampled_from(["child", "worker", "freeze", "thaw"]))
    def break_worker(self, place: int, what: str) -> None:
        attempt = self.running[place % len(self.running)]
        if what == "child":  # which its worker sees
            self.running.remove(attempt)
            self.worker.lease(attempt.worker, [], [(attempt.job_id, attempt.token)])
        elif what == "worker":
            self.running = [each for each in self.running if each.worker != attempt.worker]
        else:
            for each in self.running:
                if each.worker == attempt.worker:
                    self.freeze(each, what == "freeze")

    def freeze(self, attempt: Attempt, frozen: bool) -> None:
        if attempt.frozen and not frozen:
            held_by = self.client.hget(f"{{tcb}}job:{attempt.job_id}", "token")
            attempt.is_given_up |= held_by != attempt.token.encode()
        attempt.frozen = frozen

    @precondition(lambda self: self.jobs)
    @rule(place=st.integers(0, 20), unless_begun=st.booleans())
    def cancel(self, place: int, unless_begun: bool) -> None:
        job_id = list(self.jobs)[place % len(self.jobs)]
        state = self.do(self.ledger.jobs.cancel(job_id, unless_begun=unless_begun))
        if state in ("PENDING", "RETRY"):
            assert self.job(job_id).state == "REVOKED"
        if not unless_begun or state != "STARTED":
            self.cancelled.add(job_id)

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 11.0, 30.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; who is not frozen renews what it holds meanwhile."""
        while seconds > 0:
            self.advance(min(seconds, 2.0))
            seconds -= 2.0
            for name in WORKERS:
                held = [(each.job_id, each.token) for each in self.running if each.worker == name and not each.frozen]
                self.worker.lease(name, held, [])

    @rule()
    def keep(self) -> None:
        """What a worker's main process does every two seconds."""
        found, suspects = self.worker.reconcile("me", 60.0, 100, [])
        if suspects and not self.queue:
            found += self.worker.reconcile("me", 60.0, 100, QUEUES)[0]
        found += self.worker.take("me", 100)[1]
        for job_id, message in found:
            options = json.loads(message)["options"]
            assert options["task_id"] == job_id
            self.queue.append((job_id, options.get("retries", 0), ""))

    # What holds at all times.

    @invariant()
    def ends_once(self) -> None:
        for job_id in self.jobs:
            job = self.job(job_id)
            outcome = (job.state, job.result)
            if job_id in self.ended:
                assert self.ended[job_id] == outcome
            elif job.done:
                self.ended[job_id] = outcome

    def teardown(self) -> None:
        """The faults are over: everything ends, in a minute or two."""
        for attempt in self.running:
            self.freeze(attempt, False)
        for _ in range(100):
            self.wait(3.0)
            self.keep()
            while self.queue:
                self.begin(*self.queue.pop(0), "w1")
            for attempt in self.running:
                self.worker.finish(attempt.job_id, "SUCCESS", 1, attempt.token)
            self.running.clear()
            self.ends_once()
            if len(self.ended) == len(self.jobs):
                break
        assert len(self.ended) == len(self.jobs), {each: self.job(each).state for each in self.jobs}
        for job_id in self.jobs:
            assert self.client.hget(f"{{tcb}}job:{job_id}", "lost") is None
        kinds = {key.decode().removeprefix("{tcb}").split(":")[0] for key in self.client.keys("{tcb}*")}  # type: ignore[union-attr]
        left = {"job", "input", "value", "events", "index", "due", "pace", "leader", "wake", *WATCHED}
        assert kinds <= left, kinds - left
        self.wait(TTL + 1)
        while self.do(self.ledger.jobs.sweep()):
            pass
        kinds = {key.decode().removeprefix("{tcb}").split(":")[0] for key in self.client.keys("{tcb}*")}  # type: ignore[union-attr]
        assert kinds <= {"gone", "pace", "leader", "wake", *WATCHED}, kinds
        self.check_history()

    def check_history(self) -> None:
        """Each job is counted once, whatever has happened to it."""
        outcomes = Counter(state for state, _ in self.ended.values())
        counts = list(self.do(Monitor(self.ledger).counts()).values())  # a job may be in one queue, and then in another
        expected = {"accepted": len(self.jobs), "started": self.begun} | {
            name: outcomes[state]
            for name, state in {"succeeded": "SUCCESS", "failed": "FAILURE", "revoked": "REVOKED"}.items()
        }
        assert {name: sum(getattr(each, name) for each in counts) for name in expected} == expected


def test_whatever_happens(database: Database, clock: None) -> None:
    """So many times: ``--hypothesis-profile=long`` does it 10,000 times, which takes half an hour."""
    app = Celery("states", broker=database.url, backend=database.url, set_as_current=False)
    with asyncio.Runner() as runner, database.client() as client:
        World.client, World.runner, World.worker = client, runner, WorkerLedger(app)
        World.ledger = Ledger(app, ttl=TTL)
        run_state_machine_as_test(World, settings=hypothesis.settings(stateful_step_count=40, deadline=None))
        runner.run(World.ledger.close())
    for each in (World.worker._sure, World.worker._once):
        each.client.close()
    app.close()
