"""
What each worker's main process does for all jobs, beside running its own: ``install(app)`` starts it.

Theory of operation. A job's message is in the ledger as long as the job is unfinished, so that anybody can publish it
again under the same id; whoever begins a job asks the ledger first, so a copy too many is dropped. That leaves two
things to be told apart from a job that is merely slow:

- *A running job whose worker is gone.* A worker holds what it runs by a lease of ten seconds, renewed every two. What
  a pool process did not finish is let go of at once, and counts as lost: a job has three lives. What a worker gives up
  as it is stopped, or as it has lost its broker, is given back: that takes none of them.
- *A waiting job whose message is gone.* In a queue the first come are the first begun. So a message that others
  overtook by eight seconds was lost, or is held up in the hands of a busy worker; either way a copy helps. It helps a
  job, too, that waits for longer than that in a queue that is empty. A queue that is long is no reason for anything:
  nobody overtakes in it. (Each priority of a queue is one by itself here.) Should ten copies in a row not help, the
  job is given up, unless a worker says that it has one in hand: its message leads nowhere.

Beside that, no worker takes from a queue that is paused. Each asks which are, every two seconds, and has itself stop or
begin by Celery's own remote control; so it needs to be told by nobody, holds for a worker that is started later, and
one begins again with those only that it had stopped.

Three threads: leases must be renewed whatever the broker does, publishing waits for the broker, and forgetting what is
over waits for the store. Their connections are their own, as a pool process may be forked at any moment.
"""

import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from amqp.exceptions import NotFound
from celery import Celery, states
from celery.concurrency import solo
from celery.exceptions import QueueNotFound
from celery.worker import state as worker_state
from kombu.exceptions import EncodeError
from redis.exceptions import RedisError

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.base.repeating import Repeating
from tornado_celery_bridge.base.store import Store
from tornado_celery_bridge.ledger.blocking import WorkerLedger
from tornado_celery_bridge.ledger.fleet import check_fleet, note_strangers
from tornado_celery_bridge.ledger.schema import AnotherSchema
from tornado_celery_bridge.ledger.strangers import Strangers
from tornado_celery_bridge.transports import depth
from tornado_celery_bridge.transports.core import SetupRefused, errors_of
from tornado_celery_bridge.worker.backend import has_results_beside
from tornado_celery_bridge.worker.clock import CLOCK
from tornado_celery_bridge.worker.liveness import Work, slots_of
from tornado_celery_bridge.worker.processes import children, text
from tornado_celery_bridge.worker.request import GIVEN_BACK, LOST, TAKEN

log = logging.getLogger(__name__)

#: Seconds between two renewals of leases, and between two searches for lost jobs.
BEAT = 2.0
#: Seconds for which one process leads the search when it does not come back.
LEADERSHIP = 6.0
#: Seconds between two looks for jobs to forget, by whoever leads the search.
SWEEP_INTERVAL = 5.0
#: After so many of these looks a worker compares itself with the others; that many apart, it asks for those who do not
#: keep the ledger. A worker that was killed is still taken for a living one for 10 s.
COMPARED_AT = 4
#: Jobs that are published in one go.
BATCH = 100


_PUBLISHER = "job-publisher"


def is_keeper() -> bool:
    """Return whether this is the thread that publishes jobs again."""
    return threading.current_thread().name == _PUBLISHER


class Keeper:
    """
    Renews the leases of what a worker runs, publishes what is to be published again, or late, and forgets what is over.

    Args:
        app: The worker's app.
        worker: Celery's ``WorkController``.

    Raises:
        ImproperlyConfigured: The ledger is no Redis.
    """

    def __init__(self, app: Celery, worker: Any) -> None:
        self._app = app
        self._hostname = worker.hostname
        self._worker = worker
        self._work = Work(worker)
        self._ledger = WorkerLedger(app)
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        #: The attempts that run here, as ids and tokens.
        self._running: set[tuple[str, str]] = set()
        #: What the store says that it is, '' without one; None until it was asked.
        self._store: str | None = None
        self._sweeps = 0
        self._strangers = Strangers(app)
        self._taken: set[str] = set()
        self._held: set[str] = set()
        self._leases = Repeating("job-leases", self._renew_leases, pause=BEAT, failed=self._end_if_another_version)
        self._publisher = Repeating(_PUBLISHER, self._publish_jobs)
        self._sweeper = Repeating("job-sweeper", self._sweep, pause=SWEEP_INTERVAL)
        self._threads = (self._leases, self._publisher, self._sweeper)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def hold_back(self) -> None:
        """Have a worker that has not begun to take from queues not take from those that are paused."""
        self._taken = set(self._app.amqp.queues.consume_from)
        try:
            self._held = self._taken & self._ledger.paused()
        except RedisError as exc:  # then they are left a little later
            log.warning("which queues are paused is not known: %s", exc)
        self._app.amqp.queues.deselect(sorted(self._held))
        with suppress(RedisError):  # then it is known a little later
            CLOCK.measure(self._ledger.time)

    def stop(self) -> None:
        """End, and let go of what still runs: its processes end with the worker."""
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.stop(BEAT)
        # Of some that have begun this worker has not heard yet; of those that have ended the ledger knows.
        GIVEN_BACK.extend(self._running | _attempts(TAKEN))
        try:
            self._give_back()
            self._ledger.lease(self._name, [], [])
        except Exception as exc:  # then the leases end by themselves
            log.warning("leases of jobs are left to end by themselves: %s", exc)

    # Leases.

    def _renew_leases(self) -> None:
        # In this order: what is given up is noted before it stops to be active, and else would count as lost.
        running = _attempts(worker_state.active_requests)
        self._give_back()
        queues = sorted(self._app.amqp.queues.consume_from)
        CLOCK.measure(self._ledger.time)
        about = {"slots": slots_of(self._worker), "queues": queues, "memory": _memory()}
        about |= {"name": self._hostname, "behind": round(CLOCK.behind, 3), "store": self._store}
        works = not self._work.fault()  # else nobody is to think that it is a worker
        lost = [*LOST]
        cancelled = self._ledger.lease(self._name, running, {*self._running, *lost} - running, about if works else None)
        for _ in lost:
            LOST.popleft()
        self._running = running
        self._expire()
        doubted = self._ledger.doubted()
        # A solo pool does not see what comes while a task runs.
        if not (running and isinstance(self._worker.pool, solo.TaskPool)):
            doubted &= {job_id for job_id, _ in _attempts(TAKEN)}
        if doubted:
            self._ledger.in_hand(doubted)
        self._tell_cancelled(set(cancelled.all), set(cancelled.late))
        if has_results_beside(self._app):  # each time, as a Redis may lose what it has
            backend: Any = self._app.backend
            self._ledger.note_results(backend.task_keyprefix, int(backend.expires or 0))

    def _end_if_another_version(self, exc: BaseException) -> None:
        """End this worker at once if it can't tell the ledger of what it runs, which others then begin again."""
        if isinstance(exc, AnotherSchema) and not worker_state.should_terminate:
            log.critical("this worker ends: %s", exc)
            self._worker.exitcode = os.EX_CONFIG
            vars(worker_state)["should_terminate"] = os.EX_CONFIG

    def _expire(self) -> None:
        while self._ledger.expire() and not self._leases.stopping:
            pass

    def _tell_cancelled(self, job_ids: set[str], late: set[str]) -> None:
        """Tell jobs that were cancelled, where the pool can, and end the processes of those that have not ended."""
        for request in list(worker_state.active_requests) if job_ids else ():
            if request.id in job_ids and (request.id, request.token) in self._running:
                if request.id in late:
                    request.terminate(self._worker.pool)
                else:
                    request.tell_cancelled(self._worker.pool)

    def _give_back(self) -> None:
        """Have others begin what this worker has given up, through no fault of the jobs."""
        while GIVEN_BACK:
            job_id, token = GIVEN_BACK[0]
            self._ledger.give_back(job_id, token, publish=True)
            self._running.discard((job_id, token))
            GIVEN_BACK.popleft()

    # Publishing.

    def _publish_jobs(self) -> None:
        with self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            producer = self._app.amqp.Producer(connection)
            due = 0.0
            while not self._publisher.stopping:
                if time.monotonic() >= due:
                    self._obey_pauses(connection)
                    self._find_lost(connection, producer)
                    due = time.monotonic() + BEAT
                pause = self._publish_due(connection, producer)
                self._publisher.works()
                if pause > 0:
                    self._ledger.wait_for_wake(min(pause, max(0.01, due - time.monotonic())))

    def _obey_pauses(self, connection: Any) -> None:
        # In this order: what the worker takes from is as it was before it is known what is paused.
        taken = set(self._app.amqp.queues.consume_from)
        paused = self._ledger.paused()
        self._held |= (self._taken | taken) & paused
        me = {"destination": [self._hostname], "connection": connection}
        for queue in sorted(taken & paused):
            log.warning("queue %s is paused", queue)
            self._app.control.cancel_consumer(queue, **me)
        for queue in sorted(self._held - paused):
            log.warning("queue %s goes on", queue)
            self._app.control.add_consumer(queue, **me)
        self._held &= paused
        self._taken = taken

    def _publish_due(self, connection: Any, producer: Any) -> float:
        """Publish what is to be published now; return for how many seconds there is no more."""
        pause, messages = self._ledger.take(self._name, BATCH)
        if messages:
            self._publish(producer, messages, late=True)
        return BEAT if pause is None else pause

    def _find_lost(self, connection: Any, producer: Any) -> None:
        try:
            self._strangers.look()  # else what they ran is published again, and runs twice
        except Exception as exc:  # of any result backend
            log.info("what workers without the ledger ran is not looked for: %s", exc)
        messages, suspects = self._ledger.reconcile(self._name, LEADERSHIP, BATCH, [])
        empty = [queue for queue in suspects if depth(connection, queue) == 0]
        if empty:
            more, _ = self._ledger.reconcile(self._name, LEADERSHIP, BATCH, empty)
            messages += more
        self._publish(producer, messages)

    def _publish(self, producer: Any, messages: list[tuple[str, str]], *, late: bool = False) -> None:
        """Publish the messages of jobs; of a workflow, which several of its jobs may share, once."""
        published: set[str] = set()
        refused: SetupRefused | None = None
        for place, (job_id, message) in enumerate(messages):
            if message in published:
                continue
            published.add(message)
            if not late:
                log.warning("job %s is published again: its worker or its message was lost", job_id)
            try:
                self._send(producer, job_id, message)
            except SetupRefused as exc:  # of this one's queue; it is told once, by whoever repeats this
                refused = exc
                if late:
                    self._ledger.defer([job_id])
            except errors_of(producer.connection):  # the others would fare no better
                if late:  # they were the next to be published, and are again
                    self._ledger.defer([job_id for job_id, _ in messages[place:]])
                raise
            except (TypeError, EncodeError, QueueNotFound) as exc:  # nor will it ever be
                log.warning("job %s can't be published, and is given up: %r", job_id, exc)
                self._app.backend.store_result(job_id, exc, states.FAILURE)
            except Exception:  # this one can't be; the others can
                log.exception("job %s can't be published", job_id)
        if refused is not None:
            raise refused

    def _send(self, producer: Any, job_id: str, message: str) -> None:
        signature = self._app.signature(encoding.loads(message))
        if not signature.subtask_type:
            # The ledger knows when it expires; what has begun in time may begin again.
            signature.options["expires"] = None
        for _ in range(2):  # without confirmations, it may be the message before that leads nowhere
            try:
                signature.apply_async(producer=producer)
                return
            except NotFound as exc:  # of RabbitMQ, which closes the channel; what comes next can be published
                told = exc
                producer.revive(producer.connection.channel())
        log.warning("job %s can't be published: %s", job_id, told)

    # Forgetting.

    def _sweep(self) -> None:
        store = Store.of_app(self._app)
        if self._store is None:
            self._store = "" if store is None else store.identity()
        self._sweeps += 1
        self._compare()
        if self._ledger.leads(self._name):
            while self._ledger.sweep() and not self._sweeper.stopping:
                pass
            while store is not None and (blobs := self._ledger.orphans()):
                store.remove_all(blobs)
                self._ledger.removed(blobs)

    def _compare(self) -> None:
        """Say what is wrong between this worker and the others, once one that it stands for is silent."""
        if self._sweeps == COMPARED_AT:
            for finding in check_fleet(self._app, ask=False):
                log.warning("%s", finding)
        if self._sweeps % COMPARED_AT == 0 and self._ledger.leads(self._name):
            note_strangers(self._app, self._ledger.workers())


def _attempts(requests: Any) -> set[tuple[str, str]]:
    """Return the ids and tokens of the attempts that requests are about."""
    while True:
        try:
            return {(request.id, request.token) for request in requests}
        except RuntimeError:  # changed by the main thread meanwhile
            continue


def _memory() -> int | None:
    """
    Return how many bytes of memory this process and its children have, in each what they share; None off Linux.
    """
    pages = [text(Path(f"/proc/{pid}/statm")).split()[1:2] for pid in (os.getpid(), *children(os.getpid()))]
    return sum(int(resident) for (resident,) in filter(None, pages)) * os.sysconf("SC_PAGE_SIZE") or None
