"""
Beat's scheduler on Redis: ``celery -A proj beat -S tornado_celery_bridge.schedules:Scheduler``, or ``beat_scheduler``.

Theory of operation. Any number of beats may run, and one of them leads. The leader holds a lease in Redis. A thread of
its own renews the lease, so that neither the broker nor a long tick can lose it. The other beats stand by, and ask each
second whether the lease is free. The leader reads what is due (:func:`.calls.due`), decides what to do
(:mod:`.policy`), lets Redis do it in one step (:func:`.calls.run`), and publishes the messages of the jobs that this
step accepted. Redis refuses the step to a beat that has lost its lease, whether the beat knows that or not. If beat or
the broker goes away before a message is published, the workers publish it: see ``worker``.

Only a signal ends beat. Without Redis it waits, and it puts an entry that cannot be read into quarantine.
"""

import contextvars
import functools
import logging
import os
import socket
import sys
import threading
import time
import uuid
from typing import Any, NamedTuple

import celery.beat
from celery import Celery, states
from celery.exceptions import ImproperlyConfigured
from redis.exceptions import RedisError

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.lane import Call
from tornado_celery_bridge.base.lua import Call as LuaCall
from tornado_celery_bridge.base.repeating import Repeating
from tornado_celery_bridge.base.settings import job_ttl
from tornado_celery_bridge.ledger import calls as ledger_calls
from tornado_celery_bridge.ledger.blocking import ending
from tornado_celery_bridge.ledger.checks import is_installed
from tornado_celery_bridge.ledger.connection import BlockingConnection, ms
from tornado_celery_bridge.ledger.schema import AnotherSchema
from tornado_celery_bridge.schedules import calls
from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry, from_ms
from tornado_celery_bridge.schedules.policy import HOLD, Decision, State, decide, next_slot
from tornado_celery_bridge.schedules.runs import KEPT_RUNS, NewRun, new_run, run_id
from tornado_celery_bridge.schedules.static import static_entries, taking_after
from tornado_celery_bridge.transports.core import NotSent, SentInDoubt
from tornado_celery_bridge.transports.publisher import Message, Publisher

log = logging.getLogger(__name__)

#: Seconds for which a lease holds, and between two attempts to renew or to get it. After the leader was killed, another
#: beat leads after the sum of both at most.
LEASE, RENEWAL = 5.0, 1.0
#: Seconds to wait for an answer of Redis.
TIMEOUT = 2.0
#: The most seconds between two reads of what is due. So the leader notices if the clock was set.
LOOK = 1.0
#: The most entries in one step.
BATCH = 100
#: Seconds after which the process of a cancelled run is ended, if the run goes on.
CANCEL_GRACE = 5.0


def _connection(app: Celery) -> BlockingConnection:
    """Return a connection. Its calls fail within two seconds, and are not tried again."""
    return BlockingConnection(app, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)


class Lease:
    """
    Knows whether this beat leads, and makes it the leader when no other beat leads.

    Args:
        redis: A connection that nothing else uses, so that a missing answer holds nothing else up.
    """

    def __init__(self, redis: BlockingConnection) -> None:
        self._redis = redis
        self._me = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._fence = 0
        self._until = 0.0
        self._leads = threading.Event()
        self._thread = Repeating("beat-lease", self._ask, pause=RENEWAL, failed=self._failed)

    def start(self) -> None:
        """Begin to ask for the lease."""
        self._thread.start()

    def stop(self) -> None:
        """Give the lease back."""
        self._thread.stop(TIMEOUT)
        self._leads.clear()
        try:
            self._redis.run(calls.step_down(leader=self.leader))
        except RedisError as exc:  # then the lease ends by itself
            log.warning("beat: the lease could not be given back, and ends by itself: %s", exc)

    def wait(self, timeout: float) -> bool:
        """Return whether this beat leads: at once if it does, and otherwise after *timeout* seconds."""
        return self._leads.wait(timeout)

    def lost(self) -> None:
        """Note that this beat does not lead any more."""
        if self._leads.is_set():
            log.warning("beat: another beat leads, or Redis is away; this one stands by")
        self._leads.clear()

    @property
    def leader(self) -> str:
        """What Redis stores while this beat leads. No other beat ever has the same text."""
        return f"{self._fence} {self._me}"

    def _ask(self) -> None:
        asked = time.monotonic()
        fence = self._redis.run(calls.lead(me=self._me, lease=ms(LEASE), fence=self._fence))
        if not fence:
            return self.lost()
        self._until = asked + LEASE
        if not self._leads.is_set():
            log.info("beat: this beat leads (%s)", fence)
        self._fence = fence
        return self._leads.set()

    def _failed(self, exc: BaseException) -> None:
        if time.monotonic() > self._until:
            self.lost()


class Due(NamedTuple):
    """An entry that is due, as it was read, with the decision about it."""

    entry: Entry
    version: str
    state: State
    decision: Decision
    runs: list[NewRun]


class Scheduler(celery.beat.Scheduler):
    """
    Beat's scheduler, for entries that are made, changed and removed while it runs.

    .. versionadded:: 0.1.0
    """

    _lease: Lease | None = None

    @property
    def info(self) -> str:
        """The line in beat's banner."""
        return "    . schedules -> in the job ledger's Redis"

    def setup_schedule(self) -> None:
        """Begin. Nothing here fails if Redis is away."""
        if not is_installed(self.app):
            raise ImproperlyConfigured(
                "the runs of schedules are jobs, and this app's workers do not keep jobs: call "
                "tornado_celery_bridge.worker.install(app) beside the app"
            )
        self._redis = _connection(self.app)
        self._static = static_entries(self.app)
        self._is_loaded = False
        self._ttl = ms(job_ttl())
        self._lease = Lease(_connection(self.app))
        self._lease.start()

    @functools.cached_property
    def _publisher(self) -> Publisher:
        return Publisher(self.app)

    def tick(self, *_: Any, **__: Any) -> float:
        """Do what is due, or wait for it. Returns 0, because the waiting is over then."""
        assert self._lease is not None
        try:
            if not self._is_loaded:
                self._load()
            if self._lease.wait(LOOK):
                self._run_due(self._lease)
        except AnotherSchema as exc:
            log.critical("beat: %s", exc)
            raise SystemExit(os.EX_CONFIG) from exc
        except RedisError as exc:
            log.warning("beat: Redis is away, waiting for it: %s", exc)
            time.sleep(LOOK)
        except Exception:  # beat must go on
            log.exception("beat: a tick failed")
            time.sleep(LOOK)
        return 0.0

    def close(self) -> None:
        """Let another beat lead."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.stop()
        if (publisher := self.__dict__.pop("_publisher", None)) is not None:
            publisher.close()
        super().close()

    # The configuration's entries.

    def _load(self) -> None:
        """Load the entries of the configuration. An entry that has not changed goes on as before."""
        server = self._redis.client.time()
        now = server[0] * 1000 + server[1] // 1000
        rows = self._redis.run(calls.read_entries(rows=[entry.key for entry in self._static]))
        entries: list[calls.StaticEntry] = []
        for entry, row in zip(self._static, rows, strict=True):
            if row and not row[8] and not row[7]:
                log.error("beat_schedule: %s is left out: an entry of this name was made at run time", entry.key)
                continue
            stored = _stored(row[0]) if row else None
            entry = taking_after(entry, stored)
            if stored is not None and entry.encode() == stored.encode():
                entries.append(calls.StaticEntry(entry.key))
                continue
            entry = entry.begun(now)
            slot = next_slot(entry, now)
            due = None if slot is None else entry.due(slot)
            entries.append(calls.StaticEntry(entry.key, entry.encode(), slot, due))
        self._redis.run(calls.load(rows=entries))
        self._is_loaded = True

    # What is due.

    def _run_due(self, lease: Lease) -> None:
        leader = lease.leader
        answer = self._redis.run(calls.due(leader=leader, most=BATCH))
        if answer is None:
            return lease.lost()
        now, pause, is_loaded, *rows = answer
        if not is_loaded:  # Redis was emptied
            self._is_loaded = False
            return None
        due = [one for row in rows if (one := self._read(row, leader, now)) is not None]
        if due and not self._run(due, leader, now):
            return lease.lost()
        if not rows:
            seconds = LOOK if pause == b"" else min(LOOK, pause / 1000)
            self._redis.client.blpop([f"{self._redis.prefix}schedules:wake"], timeout=max(seconds, 0.001))
        return None

    def _read(self, row: list[Any], leader: str, now: int) -> Due | None:
        """Return the decision about an entry. An entry that cannot be used is put into quarantine."""
        name, *known = row
        try:
            entry, version, state = _decoded(name, known)
            decision = decide(entry, state, now)
            runs = [new_run(self.app, entry, run_id(entry.key, slot), slot=slot, now=now) for slot in decision.runs]
        except Exception as exc:  # one bad entry must not stop the others
            self._set_aside(name, leader, exc)
            return None
        return Due(entry, version, state, decision, runs)

    def _run(self, due: list[Due], leader: str, now: int) -> bool:
        """Let the runs be accepted, and publish them. Return whether this beat still leads."""
        answers = self._redis.run_all([self._call(each, leader, now) for each in due])
        accepted: list[NewRun] = []
        leads, failed = True, None
        for (entry, *_, decision, runs), answer in zip(due, answers, strict=True):
            if isinstance(answer, Exception):
                if "WRONGTYPE" in str(answer):  # somebody else's key has the name of one of the entry's keys
                    self._set_aside(entry.key, leader, answer)
                else:
                    failed = answer
            elif decision.why == "paused":
                log.warning("beat: %s is paused after %s failures in a row", entry.key, decision.failures)
            elif answer == ["fenced"]:
                leads = False
            elif isinstance(answer, list):
                accepted += [run for run in runs if run.job_id in answer]
        self._publish(accepted)
        if failed is not None:  # these entries are still due
            raise failed
        return leads

    def _call(self, due: Due, leader: str, now: int) -> LuaCall[Any]:
        """Return the call that carries out the decision about an entry."""
        entry, version, state, decision, runs = due
        if decision.why == "paused":
            why = f"{decision.failures} failures in a row"
            return calls.halt(name=entry.key, leader=leader, version=version, why=why)
        following = decision.next
        at = now + HOLD if decision.hold else None if following is None else entry.due(following)
        return calls.run(
            name=entry.key,
            leader=leader,
            version=version,
            slot=state.slot,
            next_slot=following,
            due=at,
            failures=decision.failures,
            held=decision.hold,
            note_beside=dumps({"slot": state.slot, "at": now, "why": decision.why}) if decision.why else "",
            kept=KEPT_RUNS,
            to_cancel=state.last if decision.cancel else "",
            grace=ms(CANCEL_GRACE),
            ttl=self._ttl,
            counted=decision.counted,
            rows=[
                calls.DueRun(*run.row(), None if state.held else entry.due(slot))
                for slot, run in zip(decision.runs, runs, strict=True)
            ],
        )

    def _set_aside(self, name: bytes | str, leader: str, reason: Exception) -> None:
        log.error("beat: entry %r is set aside: %s", name, reason)
        self._redis.run(calls.quarantine(name=name, leader=leader, why=f"{type(reason).__name__}: {reason}"))

    # Publishing.

    def _publish(self, runs: list[NewRun]) -> None:
        """Publish the messages of the jobs. Workers publish what cannot be published now."""
        if not runs:
            return
        if not self._publisher.ready():
            return self._defer(runs)
        context = contextvars.copy_context()
        calls = [Call(self._message(run, context), None) for run in runs]  # type: ignore[arg-type]
        self._publisher.run(calls)
        for run, call in zip(runs, calls, strict=True):
            name = run.message["task"]
            if call.error is None:
                log.info("Scheduler: Sending due task %s[%s]", name, run.job_id)
            elif isinstance(call.error, NotSent):
                self._defer([run])
            elif isinstance(call.error, SentInDoubt):
                log.warning(
                    "the broker did not confirm %s[%s]; if the message is lost, it is published again", name, run.job_id
                )
            else:
                log.error("%s[%s] cannot be published: %r", name, run.job_id, call.error)
                exc = call.error
                told = {"type": type(exc).__name__, "module": type(exc).__module__, "message": str(exc)}
                self._redis.run(ending(run.job_id, states.FAILURE, told))
        return None

    def _message(self, run: NewRun, context: contextvars.Context) -> Message:
        name, options = run.message["task"], run.message["options"]
        task = self.app.tasks.get(name, name)
        return Message(task, tuple(run.message["args"]), run.message["kwargs"], options, context)

    def _defer(self, runs: list[NewRun]) -> None:
        log.warning("beat: %s jobs wait for the broker", len(runs))
        for run in runs:
            self._redis.run(ledger_calls.defer(job_id=run.job_id, most=sys.maxsize))


def _decoded(name: bytes, known: list[Any]) -> tuple[Entry, str, State]:
    """
    Return an entry from a row of :func:`.calls.due`.

    Raises:
        InvalidEntry, ValueError: The row does not hold an entry.
    """
    if not known:
        raise InvalidEntry("entry", "not a hash")
    stored, version, slot, runs, failures, last, counted, held, last_state = known
    entry = Entry.decode(stored)
    if entry.key.encode() != name:
        raise InvalidEntry("name", f"it is {entry.key!r}")
    from_ms(int(slot))
    state = State(
        slot=int(slot),
        runs=int(runs or 0),
        failures=int(failures or 0),
        last=last.decode(),
        last_state=last_state.decode(),
        counted=counted.decode(),
        held=bool(held),
    )
    return entry, version.decode(), state


def _stored(entry: bytes) -> Entry | None:
    try:
        return Entry.decode(entry)
    except InvalidEntry:
        return None
