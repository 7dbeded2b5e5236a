"""
Finds what is wrong between the processes of a deployment, as the ledger has them.

Each worker tells the ledger of itself (its node name, its clock, its store), so a process can compare all of them with
itself. A worker that does not keep the ledger is found by Celery's ``inspect``, or by what it has run.
"""

import difflib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from celery import Celery
from redis.exceptions import RedisError

from tornado_celery_bridge.base.store import Store
from tornado_celery_bridge.exceptions import StoreUnavailable
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.checks import Finding
from tornado_celery_bridge.ledger.connection import BlockingConnection
from tornado_celery_bridge.ledger.destinations import queues_named, routers
from tornado_celery_bridge.ledger.monitor import WorkerState, worker_states
from tornado_celery_bridge.ledger.strangers import Strangers

log = logging.getLogger(__name__)

#: The names of what is found.
NAMES = ("same-name", "clock", "store", "stranger", "no-worker", "no-sender")
#: Seconds by which a clock may be off.
TOLERANCE = 2.0
#: Seconds for workers to answer.
TIMEOUT = 1


def check_fleet(app: Celery, *, ask: bool) -> list[Finding]:
    """
    Return what is unwise about the workers of an app, compared with each other and with this process. Blocks.

    Args:
        app: The Celery app of this process.
        ask: Whether to ask workers that do not keep the ledger, too. It takes a second.
    """
    ledger = BlockingConnection(app)
    try:
        workers = [each for each in worker_states(ledger.run(calls.workers())) if each.is_alive]
        asked = note_strangers(app, workers) if ask else None
        strangers = [name for name in Strangers(app).known() if name not in {each.name for each in workers}]
    except RedisError as exc:
        log.warning("the workers are not compared: the ledger is not reachable: %s", exc)
        return []
    finally:
        ledger.client.close()
    found = [*_same_names(workers), *_clocks(workers), *_stores(app, workers), *_strangers(strangers)]
    if asked is not None:
        found += _queues(app, asked | {each.name: each.queues for each in workers})
    return found


def note_strangers(app: Celery, workers: Sequence[WorkerState]) -> dict[str, list[str]] | None:
    """
    Ask all workers that the broker reaches, and note those that take from the app's queues without the ledger.

    Return the queues of each that answered; None: the broker reaches none, and who is there is not known.
    """
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
            answers = app.control.inspect(timeout=TIMEOUT, connection=connection).active_queues() or {}
    except Exception as exc:  # of any broker, and of one that has no broadcast
        log.info("workers without the ledger are not looked for: %s", exc)
        return None
    taken = {name: [each["name"] for each in queues] for name, queues in answers.items()}
    known, queues = {each.name for each in workers}, set(app.amqp.queues)
    strangers = Strangers(app)
    before = set(strangers.known())
    for name in taken:
        if name not in known and not queues.isdisjoint(taken[name]):
            strangers.note(name)
            if name not in before:
                log.warning("%s", *_strangers([name]))
    return taken


def _same_names(workers: Sequence[WorkerState]) -> Iterator[Finding]:
    for name, many in Counter(each.name for each in workers).items():
        if many > 1:
            yield Finding(
                "same-name",
                f"{many} workers have the node name {name}: what one of them is told, such as to end, all of them do",
                "start each with a name of its own, such as -n first@%h",
            )


def _clocks(workers: Sequence[WorkerState]) -> Iterator[Finding]:
    for each in workers:
        if abs(each.behind) > TOLERANCE:
            way = "behind" if each.behind > 0 else "ahead of"
            yield Finding(
                "clock",
                f"the clock of worker {each.name} is {abs(each.behind):.1f} s {way} that of the ledger's Redis. Jobs "
                "begin when they are due all the same, but times in its log and of its code are wrong",
                "have each machine's clock set by NTP",
            )


def _stores(app: Celery, workers: Sequence[WorkerState]) -> Iterator[Finding]:
    store = Store.of_app(app)
    try:
        mine = "" if store is None else store.identity()
    except StoreUnavailable as exc:
        log.warning("the stores of the workers are not compared: %s", exc)
        return
    others = sorted({each.name for each in workers if each.store not in (None, mine)})
    if others:
        yield Finding(
            "store",
            f"{', '.join(others)} and this process do not have the same store: large inputs and results are lost there",
            "give all processes the same job_store_url, of a folder or bucket that all of them reach",
        )


def _strangers(names: Sequence[str]) -> Iterator[Finding]:
    if names:
        yield Finding(
            "stranger",
            f"some workers take jobs and do not keep the ledger: {', '.join(names)}. A job that they run stays PENDING "
            "until its result is seen, can't be cancelled, and may run twice",
            "call tornado_celery_bridge.worker.install(app) beside their app, and start them again",
        )


def _queues(app: Celery, taken: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Of the queues that the app's settings, routes, tasks and schedule name, and those that each worker takes from."""
    named = queues_named(app)
    if idle := sorted(named.difference(*taken.values())):
        yield Finding(
            "no-worker",
            f"no worker takes from {', '.join(idle)}: what is sent there waits",
            f"start one, as in tcb worker -Q {','.join(idle)}",
        )
    if any(routers(app)):
        return  # a function may name any queue
    for queue in sorted({each for queues in taken.values() for each in queues} - named):
        close = difflib.get_close_matches(queue, named, n=1)
        workers = ", ".join(name for name, queues in sorted(taken.items()) if queue in queues)
        yield Finding(
            "no-sender",
            f"{workers} takes from {queue}, which no setting, route or task of the app names",
            f"-Q {close[0]}, if that is meant" if close else "leave it, if tasks are sent there by the queue's name",
        )
