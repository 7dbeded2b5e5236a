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
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import hypothesis
import pytest
from celery import Celery
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from tests.ledger.records import NOW, accept
from tests.lua import read_the_time_from_a_key
from tests.servers import Database
from tornado_celery_bridge.base.states import ENDED
from tornado_celery_bridge.ledger import Gone, Job, JobRecord, Ledger, Monitor, calls
from tornado_celery_bridge.ledger.blocking import Limit, ResultEntry, WorkerLedger
from tornado_celery_bridge.ledger.changes import VERSION

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
    lambda number: f"{'é' * 100}{number:055}",  # as many bytes as an id may have
)
#: The queues; a retry may go to another one.
QUEUES = ("q", "slow:1")
#: Seconds after which a job expires that has not begun.
EXPIRES = 5.0
#: So many messages lost may be all that were published for one job.
MANY = 5
#: In one world: with more, little happens to each.
MOST_JOBS = 4
#: Kinds of keys that are for whoever watches.
WATCHED = {"history", "worker", "workers", "failure", "failures", "results", "schema", "limits"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the scripts read the time from a key."""
    read_the_time_from_a_key(monkeypatch, calls)


class Message(NamedTuple):
    """What is in a queue of the broker."""

    job_id: str
    task: str = "t"
    #: Which retry it is; by how many tasks the job's own was replaced before this one; the attempt that asks for it.
    retries: int = 0
    nesting: int = 0
    after: str = ""
    #: How often its job was changed before.
    version: int = 0

    def code_is(self, task: str) -> bool:
        """Whether it begins this task as the job's own, and not in the place of another one."""
        return self.task == task and not self.nesting

    def kept(self) -> str:
        """Return it as a worker has the ledger keep it."""
        options = {"task_id": self.job_id, "retries": self.retries, "replaced_task_nesting": self.nesting}
        return json.dumps({"task": self.task, "options": options})

    @classmethod
    def of_kept(cls, text: str) -> "Message":
        message = json.loads(text)
        options = message["options"]
        nesting, version = options.get("replaced_task_nesting", 0), options.get("headers", {}).get(VERSION, 0)
        return cls(options["task_id"], message["task"], options.get("retries", 0), nesting, version=version)


class Attempt:
    """A task that runs, in a worker that may be dead or frozen."""

    def __init__(self, message: Message, token: str, worker: str) -> None:
        self.message, self.token, self.worker = message, token, worker
        self.job_id = message.job_id
        #: The message that it has published, to go on after itself: of a retry, or of the task in its place.
        self.asked: Message | None = None
        self.frozen = False
        #: Whether the ledger gave it up while its worker was frozen, which goes on with it; another may begin.
        self.is_given_up = False
        #: Whether its process was killed or its worker was frozen, so that it may count as lost.
        self.is_harmed = False

    @property
    def code(self) -> str:
        task, nesting = self.message.task, self.message.nesting
        return f"{task}/{nesting}" if nesting else task

    def is_followed_by(self, message: Message) -> bool:
        """Whether its code is about to end, and *message* begins what comes after it."""
        if self.asked is None or message.nesting < self.asked.nesting:
            return False
        return message.nesting > self.asked.nesting or message.retries >= self.asked.retries


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
        self.worker.note_results("r:", 0)
        #: Who awaits the jobs, by Celery's result backend, and what it is told: how often, and the end.
        self.waiter: Any = self.client.pubsub()  # type: ignore[no-untyped-call]
        self.waiter.psubscribe("r:*")
        self.told: Counter[str] = Counter()
        self.queue: list[Message] = []
        self.running: list[Attempt] = []
        #: Attempts that have ended, as they have told.
        self.past: list[Attempt] = []
        self.jobs: list[str] = []
        #: How many attempts have begun, and how many of each job may count as lost.
        self.begun = 0
        self.harmed: Counter[str] = Counter()
        self.ended: dict[str, tuple[str, Any]] = {}
        self.forgotten: set[str] = set()
        self.cancelled: set[str] = set()
        self.limited: set[str] = set()
        #: How many of these may run at once: by the code, or as it is set; and by a named limit, if there is one.
        self.most = 1
        self.shared: int | None = None
        #: When the jobs that have not begun expire, in ms.
        self.expiring: dict[str, int] = {}
        #: Of the message that the attempt under way has asked for: it is not refused. And how far a job has come, by
        #: how many tasks were replaced and by its retries: what comes from before that begins nothing.
        self.next: dict[str, Message] = {}
        self.reached: dict[str, tuple[int, int]] = {}
        self.lost_messages = 0
        #: Whether each message comes to a worker from now on.
        self.is_over = False
        #: Of jobs that were changed, by which message they begin: its version, and its retries. And those on hold.
        self.changed: dict[str, tuple[int, int]] = {}
        self.on_hold: set[str] = set()
        #: By whose code and with what the jobs' checkpoints were saved.
        self.saved: dict[str, tuple[str, str]] = {}

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

    def holder(self, job_id: str) -> str:
        """Return the token of the attempt that is under way."""
        found: Any = self.client.hget(f"{{tcb}}job:{job_id}", "token")
        return (found or b"").decode()

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(
        fate=st.sampled_from(["published", "published", "published", "lost", "put aside"]),
        limited=st.booleans(),
        spelt=st.sampled_from(SPELLINGS),
        queue=st.sampled_from(QUEUES),
        expires_in=st.sampled_from([None, None, None, EXPIRES]),
    )
    def submit(
        self, fate: str, limited: bool, spelt: Callable[[int], str], queue: str, expires_in: float | None
    ) -> None:
        job_id = spelt(len(self.jobs) + 1)
        expires = self.expire_in(job_id, expires_in)
        record = JobRecord(id=job_id, task="t", owner="o", queue=queue, created_at=NOW, expires=expires)
        assert self.do(accept(self.ledger, record, {})).kind == "accepted"
        self.jobs.append(job_id)
        if limited:
            self.limited.add(job_id)
        if fate == "published":
            self.queue.append(Message(job_id))
        elif fate == "put aside":
            assert self.do(self.ledger.jobs.defer(job_id, 1_000))

    def expire_in(self, job_id: str, seconds: float | None) -> int | None:
        """Note when a job expires; return it by the clock of whoever submits."""
        if seconds is None:
            return None
        self.expiring[job_id] = self.time + round(seconds * 1000)
        return NOW + round(seconds * 1000)

    @precondition(lambda self: self.queue)
    @rule(name=st.sampled_from(WORKERS), place=st.integers(0, 2), redelivered=st.booleans())
    def deliver(self, name: str, place: int, redelivered: bool) -> None:
        place %= len(self.queue)
        self.begin(self.queue[place] if redelivered else self.queue.pop(place), name)

    def begin(self, message: Message, name: str) -> None:
        token, job_id = uuid.uuid4().hex, message.job_id
        is_limited = job_id in self.limited and message.task == "t"
        limit = Limit("all" if is_limited else job_id, 1) if message.task == "t" else Limit()
        verdict = self.worker.start(
            job_id,
            message.task,
            token,
            worker=name,
            retries=message.retries,
            after=message.after,
            replaced=message.nesting,
            limit=limit,
            version=str(message.version or ""),
        )
        assert verdict != "unknown"
        if verdict != "go":
            assert verdict != "duplicate" or message != self.next.get(job_id), f"{message} is refused"
            return
        version, retries = self.changed.get(job_id, (0, 0))
        if message.code_is("t") and message.retries == retries:
            assert message.version == version, f"{message} is of before the change"
        assert job_id not in self.on_hold, f"{message} begins on hold"
        here = message.nesting, message.retries
        assert here >= self.reached.get(job_id, here), f"{message} is of before"
        if self.next.pop(job_id, None) == message:
            self.reached[job_id] = here
        assert self.time < self.expiring.pop(job_id, self.time + 1), f"{message} has expired"
        self.begun += message.task == "t"  # what takes the place of a job's task goes on with the job's attempt
        assert job_id not in self.ended
        assert job_id not in self.cancelled
        for other in self.running:
            if other.job_id == job_id and not other.is_given_up and not other.frozen:
                assert other.is_followed_by(message), f"{message} begins while {other.message} runs, and {other.asked}"
        begun = Attempt(message, token, name)
        self.running.append(begun)
        code, value = self.saved.get(job_id, ("", None))
        assert self.worker.checkpoint(job_id, begun.code) == (value if code == begun.code else None)
        if is_limited:
            assert len(self.holders(self.limited)) <= self.most
        if message.task == "t" and self.shared is not None:
            assert len(self.holders(self.jobs)) <= self.shared

    def holders(self, jobs: Iterable[str]) -> set[str]:
        """Return which of the jobs run, by the task that is limited."""
        running = [each for each in self.running if each.job_id in jobs and each.message.task == "t"]
        return {each.job_id for each in running if self.holder(each.job_id) == each.token}

    @rule(most=st.sampled_from([None, 0, 1, 2, 3]))
    def limit(self, most: int | None) -> None:
        """An operator changes how many run at once, or goes back to what the code says: that is one."""
        self.do(self.ledger.limits.set_task("t", max_concurrency=most))
        self.most = 1 if most is None else most

    @rule(most=st.sampled_from([None, None, 0, 1, 2]))
    def limit_together(self, most: int | None) -> None:
        """An operator sets a limit over several tasks, changes it or takes it away."""
        if most is None:
            assert self.do(self.ledger.limits.remove_named("all")) == (self.shared is not None)
        else:
            self.do(self.ledger.limits.set_named("all", ["t", "u"], max_concurrency=most))
        self.shared = most

    @precondition(lambda self: self.queue)
    @rule(place=st.integers(0, 5))
    def lose_message(self, place: int) -> None:
        self.lost_messages += 1
        del self.queue[place % len(self.queue)]

    # What an attempt does.

    def one_of(self, attempts: list[Attempt], place: int) -> Attempt:
        return attempts[place % len(attempts)]

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 5), value=st.integers(0, 9))
    def save(self, place: int, value: int) -> None:
        """It saves where it is."""
        attempt = self.one_of(self.running, place)
        is_its, text = self.holder(attempt.job_id) == attempt.token, json.dumps({"main": value})
        answer = self.worker.save_checkpoint(attempt.job_id, attempt.token, attempt.code, text)
        assert (answer != "late") == is_its
        if is_its:
            self.saved[attempt.job_id] = attempt.code, text

    @precondition(lambda self: self.running)
    @rule(
        place=st.integers(0, 5),
        task=st.sampled_from([None, None, "t", "u"]),
        queue=st.sampled_from(QUEUES),
        expires_in=st.sampled_from([None, None, None, EXPIRES]),
    )
    def ask(self, place: int, task: str | None, queue: str, expires_in: float | None) -> None:
        """It publishes a message: of a retry, or of a task in its place. That it ends by that is told later."""
        attempt = self.one_of(self.running, place)
        if attempt.asked is not None:
            return
        before, after = attempt.message, attempt.token
        if task is None:
            attempt.asked = before._replace(retries=before.retries + 1, after=after)
        else:
            attempt.asked = Message(attempt.job_id, task, 0, before.nesting + 1, after)
        why = ERROR if task is None else None
        asked: Any = {"queue": queue, "token": after, "why": why, "expires_in": expires_in}
        self.worker.keep(attempt.job_id, attempt.asked.kept(), None, **asked)
        self.queue.append(attempt.asked)
        if self.holder(attempt.job_id) == after:
            self.next[attempt.job_id] = attempt.asked
            self.expire_in(attempt.job_id, expires_in)
            assert self.job(attempt.job_id).record.queue == queue

    @precondition(lambda self: self.running)
    @rule(
        place=st.integers(0, 5),
        how=st.sampled_from(["SUCCESS", "SUCCESS", "FAILURE", "IGNORED", "Retry", "Reject"]),
    )
    def end(self, place: int, how: str) -> None:
        attempt = self.one_of(self.running, place)
        self.running.remove(attempt)
        self.tell(attempt, how)

    def tell(self, attempt: Attempt, how: str) -> None:
        """Tell how an attempt has ended; if it has asked for what comes after it, by that."""
        job_id, token = attempt.job_id, attempt.token
        self.past.append(attempt)
        if attempt.asked is not None and self.holder(job_id) == token:
            self.reached[job_id] = attempt.asked.nesting, attempt.asked.retries
        if attempt.asked is not None and attempt.asked.nesting > attempt.message.nesting:
            self.worker.hand_on(job_id, token)
        elif attempt.asked is not None:
            self.worker.retry(job_id, token, ERROR, publish=False, result_entry=entry(job_id, "RETRY"))
        elif how == "Retry":
            self.worker.retry(job_id, token, ERROR, publish=True, result_entry=entry(job_id, "RETRY"))
        elif how == "Reject":
            self.worker.give_back(job_id, token, publish=False)
            self.queue.append(attempt.message)
        else:
            value = {"SUCCESS": 1, "FAILURE": ERROR}.get(how)
            self.worker.finish(job_id, how, value, token, result_entry=entry(job_id, how))

    @precondition(lambda self: self.past)
    @rule(
        place=st.integers(0, 20),
        word=st.sampled_from(["finish", "retry", "publish", "give back", "hand on", "keep", "report", "save", "lease"]),
    )
    def say_more(self, place: int, word: str) -> None:
        """A word comes of an attempt that has told its end: of its main process that thaws, say. It changes nothing."""
        self.say(self.one_of(self.past, place), word)

    def say(self, attempt: Attempt, word: str) -> None:
        job_id, token = attempt.job_id, attempt.token
        before = self.written(job_id)
        match word:
            case "finish":
                self.worker.finish(job_id, "FAILURE", ERROR, token, result_entry=entry(job_id, "FAILURE"))
            case "retry" | "publish":
                self.worker.retry(job_id, token, ERROR, publish=word == "publish", result_entry=entry(job_id, "RETRY"))
            case "give back":
                self.worker.give_back(job_id, token, publish=True)
            case "hand on":
                self.worker.hand_on(job_id, token)
            case "keep":
                later = attempt.message._replace(retries=9, after=token)
                self.worker.keep(job_id, later.kept(), None, queue="q", token=token, why=ERROR)
            case "report":
                self.worker.report(job_id, token, "progress", {}, "PROGRESS", {})
            case "lease":
                self.worker.lease(attempt.worker, [], [(job_id, token)])
            case "save":
                assert self.worker.save_checkpoint(job_id, token, attempt.code, "{}") == "late"
        assert self.written(job_id) == before, word

    def written(self, job_id: str) -> Any:
        """Return all that is known of a job."""
        pipeline = self.client.pipeline()
        for name in ("job", "checkpoint"):
            pipeline.hgetall(f"{{tcb}}{name}:{job_id}")
        for name in ("value", "message", "retry"):
            pipeline.get(f"{{tcb}}{name}:{job_id}")
        for name in ("held", "later"):
            pipeline.zrange(f"{{tcb}}{name}", 0, -1, withscores=True)
        pipeline.get(f"r:{job_id}")
        return pipeline.execute()

    # What happens to workers.

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 5), what=st.sampled_from(["child", "worker", "freeze", "thaw"]))
    def break_worker(self, place: int, what: str) -> None:
        attempt = self.one_of(self.running, place)
        if what == "child":  # which its worker sees
            self.harm(attempt)
            self.running.remove(attempt)
            self.worker.lease(attempt.worker, [], [(attempt.job_id, attempt.token)])
            return
        for each in [each for each in self.running if each.worker == attempt.worker]:
            if what == "thaw":
                self.freeze(each, False)
            else:
                self.harm(each)
                if what == "worker":
                    self.running.remove(each)
                else:
                    self.freeze(each, True)

    def harm(self, attempt: Attempt) -> None:
        self.harmed[attempt.job_id] += not attempt.is_harmed
        attempt.is_harmed = True

    def freeze(self, attempt: Attempt, frozen: bool) -> None:
        if attempt.frozen and not frozen:
            leases: Any = self.client.zrangebyscore("{tcb}held", f"({self.time}", "+inf")
            is_held = attempt.job_id in map(unpacked, leases)  # else another may begin before it renews its lease
            attempt.is_given_up |= self.holder(attempt.job_id) != attempt.token or not is_held
        attempt.frozen = frozen

    @precondition(lambda self: self.running)
    @rule(name=st.sampled_from(WORKERS), redelivered=st.booleans())
    def stop_worker(self, name: str, redelivered: bool) -> None:
        """In order: it gives back what it runs. The broker has the messages back, too, or will in an hour."""
        for attempt in [each for each in self.running if each.worker == name and not each.frozen]:
            self.running.remove(attempt)
            self.past.append(attempt)
            self.worker.give_back(attempt.job_id, attempt.token, publish=True)
            if redelivered:
                self.queue.append(attempt.message)

    @precondition(lambda self: len(self.jobs) > 1)
    @rule(place=st.integers(0, 20), unless_begun=st.booleans())
    def cancel(self, place: int, unless_begun: bool) -> None:
        job_id = self.jobs[place % len(self.jobs)]
        state = self.do(self.ledger.jobs.cancel(job_id, unless_begun=unless_begun))
        if state in ("PENDING", "RETRY"):
            assert self.job(job_id).state == "REVOKED"
        if not unless_begun or state != "STARTED":
            self.cancelled.add(job_id)

    @precondition(lambda self: self.jobs)
    @rule(
        place=st.integers(0, 20),
        held=st.sampled_from([None, True, True, False]),
        queue=st.sampled_from([None, *QUEUES]),
        later=st.sampled_from([None, 0, 5_000]),
    )
    def change(self, place: int, held: bool | None, queue: str | None, later: int | None) -> None:
        """Somebody holds a job back, releases it, or changes when and where it runs."""
        job_id = self.jobs[place % len(self.jobs)]
        found = self.do(self.ledger.jobs.get(job_id))
        before = self.do(self.ledger.changes.read(job_id))
        if before is None:
            assert isinstance(found, Gone) or found.done
            return
        where = {} if queue is None else {"where": {"queue": queue}}
        due = None if later is None else self.time + later
        more: Any = {**where, "held": held, "due": due, "is_eta": True, "message": before.message}
        goes_to: Any = {"queue": queue or found.record.queue, "priority": None, "options": {}, "told": {}}
        answer = self.do(self.ledger.changes.amend(job_id, before, **goes_to, **more))
        may = found.state in ("PENDING", "RETRY")
        assert answer == "begun" or may, f"{found.state} is changed: {answer}"
        if answer != "amended":
            return
        assert self.do(self.ledger.changes.amend(job_id, before, **goes_to, **more)) == "changed"  # by another
        text: Any = self.client.get(f"{{tcb}}message:{job_id}")
        message = Message.of_kept(text.decode())
        assert message.version == before.version + 1
        self.changed[job_id] = message.version, message.retries
        if job_id in self.next:
            self.next[job_id] = message
        if held is not None:
            (self.on_hold.add if held else self.on_hold.discard)(job_id)
        assert self.job(job_id).on_hold == (job_id in self.on_hold)

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 11.0, 30.0, TTL + 1]))
    def wait(self, seconds: float) -> None:
        """Time passes; who is not frozen renews what it holds meanwhile."""
        while seconds > 0:
            self.advance(min(seconds, 2.0))
            seconds -= 2.0
            for name in WORKERS:
                held = [(each.job_id, each.token) for each in self.running if each.worker == name and not each.frozen]
                self.worker.lease(name, held, [])
        if self.expiring:
            self.expire()

    def expire(self) -> None:
        """What a worker does every two seconds: what has not begun in time is REVOKED."""
        while self.worker.expire():
            pass
        for job_id, at in [*self.expiring.items()]:
            if at <= self.time:
                found = self.do(self.ledger.jobs.get(job_id))
                assert isinstance(found, Gone) or found.done or self.holder(job_id), f"{job_id} has expired"
                del self.expiring[job_id]

    @rule()
    def keep(self) -> None:
        """What a worker's main process does every two seconds."""
        found, suspects = self.worker.reconcile("me", 60.0, 100, [])
        if suspects and not self.queue:
            found += self.worker.reconcile("me", 60.0, 100, QUEUES)[0]
        found += self.worker.take("me", 100)[1]
        for job_id, text in found:
            message = Message.of_kept(text)
            assert message.job_id == job_id
            self.queue.append(message)
        while self.do(self.ledger.jobs.sweep()):
            pass

    # What holds at all times.

    @invariant()
    def ends_once(self) -> None:
        """A job ends once, and as whoever awaits it is told."""
        for job_id in self.jobs:
            job = self.do(self.ledger.jobs.get(job_id))
            if isinstance(job, Gone):
                assert job_id in self.ended
                self.forgotten.add(job_id)
                continue
            assert job_id not in self.forgotten
            outcome = (job.state, job.result)
            if job_id in self.ended:
                assert self.ended[job_id] == outcome
            elif job.done:
                self.ended[job_id] = outcome
                kind = (job.error or {}).get("kind")
                assert kind != "dead-lettered" or self.harmed[job_id] >= 3, "an orderly stop took a life"
                assert kind != "undelivered" or not self.is_over, "no worker begins what the ledger publishes"
        for job_id, (state, _) in self.ended.items():
            told: Any = self.client.get(f"r:{job_id}")
            assert json.loads(told or "{}").get("status") == state

    @invariant()
    def waits_in_one_queue(self) -> None:
        """What is noted in a queue waits there, and what a worker holds runs."""
        for key in self.keys("queued:"):
            queue = key.removeprefix("queued:").rpartition(":")[0]
            for job_id in self.ids_in(key):
                job = self.job(job_id)
                assert (job.record.queue, job.done) == (queue, False), job_id
                assert job.state in ("PENDING", "RETRY") or not self.holder(job_id), job_id
        for job_id in self.ids_in("held"):
            assert self.job(job_id).state == "STARTED"

    def keys(self, begin: str = "") -> list[str]:
        found: Any = self.client.keys(f"{{tcb}}{begin}*")
        return [key.decode().removeprefix("{tcb}") for key in found]

    def ids_in(self, key: str) -> list[str]:
        found: Any = self.client.zrange(f"{{tcb}}{key}", 0, -1)
        return [unpacked(member) for member in found]

    def listen(self) -> None:
        while message := self.waiter.get_message(timeout=0.05):
            if message["type"] == "pmessage" and json.loads(message["data"])["status"] in ENDED:
                self.told[message["channel"].decode().removeprefix("r:")] += 1

    def teardown(self) -> None:
        """The faults are over: everything ends, in a minute or two."""
        try:
            self.come_to_an_end()
        finally:
            self.waiter.close()

    def come_to_an_end(self) -> None:
        while self.queue:
            self.begin(self.queue.pop(0), "w1")
        self.is_over = self.lost_messages < MANY
        self.limit(None)
        self.limit_together(None)
        for place, job_id in enumerate(self.jobs):
            if job_id in self.on_hold:
                self.change(place, False, None, None)
        for attempt in self.running:
            self.freeze(attempt, False)
        for _ in range(100):
            self.wait(3.0)
            self.keep()
            while self.queue:
                self.begin(self.queue.pop(0), "w1")
            for attempt in self.running:
                self.tell(attempt, "SUCCESS")
            self.running.clear()
            self.ends_once()
            if len(self.ended) == len(self.jobs):
                break
        assert len(self.ended) == len(self.jobs), {each: self.job(each) for each in self.jobs if each not in self.ended}
        for job_id in self.jobs:
            assert self.client.hget(f"{{tcb}}job:{job_id}", "lost") is None
        left = {"job", "input", "value", "past", "checkpoint", "events", "index", "due", "leader", "wake", "gone"}
        assert self.kinds() <= left | WATCHED, self.kinds() - left
        self.wait(TTL + 1)
        while self.do(self.ledger.jobs.sweep()):
            pass
        for attempt in self.past[-3:]:
            self.say(attempt, "finish")
        assert self.kinds() <= {"gone", "leader", "wake", *WATCHED}, self.kinds()
        self.listen()
        assert self.told == dict.fromkeys(self.jobs, 1), "whoever awaits a job is told of its end once"
        self.check_history()

    def kinds(self) -> set[str]:
        return {key.split(":")[0] for key in self.keys()}

    def check_history(self) -> None:
        """Each job is counted once, whatever has happened to it."""
        outcomes = Counter(state for state, _ in self.ended.values())
        counts = list(self.do(Monitor(self.ledger).counts()).values())  # a job may be in one queue, and then in another
        expected = {
            "accepted": len(self.jobs),
            "started": self.begun,
            "succeeded": outcomes["SUCCESS"] + outcomes["IGNORED"],
            "failed": outcomes["FAILURE"],
            "revoked": outcomes["REVOKED"],
        }
        assert {name: sum(getattr(each, name) for each in counts) for name in expected} == expected
        assert sum(each.lost for each in counts) <= self.harmed.total()


def entry(job_id: str, state: str) -> ResultEntry:
    return ResultEntry(f"r:{job_id}", json.dumps({"status": state}), 0)


def unpacked(member: bytes) -> str:
    """Return the id that an index has; see ``lua/parts/job.lua``."""
    if len(member) == 16:
        return str(uuid.UUID(bytes=member))
    text = member.decode()
    return text[1:-1] if text.startswith("~") else text[1:]


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
