"""
The worker's side of the ledger: ``install(app)``, one line beside the Celery app.

What comes in: a Celery app. What goes out: all that its workers run is told to the ledger. Who may call it: whoever
makes the app, be it for a worker, a beat or a web process.

Theory of operation. A stock worker takes a message and runs a task's code, in a process or thread of its pool. What
is added to that, and by which module:

- :mod:`.attempt`: one run of a task's code for one message is an *attempt*, an object with a token of its own;
- :mod:`.guard`: before the code, the attempt asks the ledger whether it may begin. A job that was cancelled, has ended
  or came a second time is not run;
- :mod:`.coroutines`: the code may be ``async def``;
- :mod:`.backend`: whatever state Celery stores for a task is told to the ledger too, by the attempt;
- :mod:`.values`: large arguments are loaded before the code, and a large result is kept in the store;
- :mod:`.loglines`: what the code logs by ``get_task_logger`` becomes the job's events;
- :mod:`.messages`: before a worker publishes a job's message (a retry, the next in a chain), the ledger keeps it;
- :mod:`.keeper`: the worker's main process renews leases, publishes lost jobs again, and leaves queues that are paused;
- :mod:`.bootsteps`: all this begins as the worker starts. One whose settings or servers are unsafe does not start.

An attempt, step by step::

    message taken ──▶ begin ──▶ refused: the job was cancelled, has ended, runs elsewhere, or waits for a limit
                        │
                        ▼
                      begun ──▶ ended      SUCCESS: the code returned
                        │  ▲──▶ failed     FAILURE: an exception, a time limit
                        │  │──▶ cancelled  REVOKED: somebody cancelled the job, and the code stopped
             progress,  ▼  │──▶ retried    RETRY: the code asks for another attempt; its message begins that
             log lines  told──▶ lost       PENDING: the worker is gone, which its lease tells; another attempt begins

An end comes from the process that runs the code, or, where that can't tell it (a time limit, a process that was
killed), from the worker's main process. The attempt is found by the task's request (``request.attempt``), which Celery
hands to whatever stores a state; so threads, greenlets and coroutines each find their own.

A task says of its jobs, by options of its own, over all workers:

- ``max_concurrency``: how many may run at once;
- ``max_rate``: how many may begin in a time, as ``"10/s"``, spelt as Celery spells ``rate_limit``;
- ``limit_by``: the parameter by whose value both are counted, each value by itself;
- ``unique``: a job is not accepted twice while it is unfinished (see ``Ledger.jobs.accept``).

A task that is no job costs one question to Redis when it starts and one when it ends.
"""

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from celery import Celery, signals

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.logs import follow_environment
from tornado_celery_bridge.base.settings import SettingsError, job_ttl
from tornado_celery_bridge.ledger.checks import refuse_impossible
from tornado_celery_bridge.worker.attempt import JobCancelled
from tornado_celery_bridge.worker.backend import record_states
from tornado_celery_bridge.worker.bootsteps import (
    AcknowledgeTogether,
    CheckSettings,
    EndForGood,
    EndUnreadable,
    GuardTasks,
    KeepJobs,
    StopTasks,
    begin_beat,
)
from tornado_celery_bridge.worker.coroutines import close_loops
from tornado_celery_bridge.worker.guard import settle
from tornado_celery_bridge.worker.liveness import WorkerHeartbeat

__all__ = ("JobCancelled", "install")


def _is_celerys() -> bool:
    """Return whether this process runs one of Celery's own commands."""
    context = click.get_current_context(silent=True)
    return context is not None and context.find_root().command.name == "celery"


@contextmanager
def _told_by_celery() -> Iterator[None]:
    """In one of Celery's own commands, end it with what is wrong about a setting: it would show a traceback."""
    try:
        yield
    except SettingsError as exc:
        if not _is_celerys():
            raise
        print(f"tcb: {exc}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)


def _refuse_impossible(*, sender: Celery, **_: Any) -> None:
    """End one of Celery's own commands before it uses settings that make no sense."""
    if _is_celerys():  # whoever else loads the app finds out by itself
        with _told_by_celery():
            job_ttl()
            refuse_impossible(sender)


def install(app: Celery) -> None:
    """
    Have *app*'s workers keep the ledger. Call it once, beside the app; with the ledger's URL in ``job_ledger_url``.

    .. versionadded:: 0.1.0
    """
    with _told_by_celery():
        follow_environment()
    tracing.follow_publishing()  # before what keeps messages
    tracing.follow_tasks()
    app.steps["worker"].update((CheckSettings, GuardTasks, KeepJobs, WorkerHeartbeat))
    app.steps["consumer"].update((AcknowledgeTogether, EndForGood, EndUnreadable, StopTasks))
    signals.import_modules.connect(_refuse_impossible, sender=app, weak=False, dispatch_uid=f"settings-{id(app)}")
    signals.beat_init.connect(functools.partial(begin_beat, app), weak=False, dispatch_uid=f"beat-{id(app)}")
    if app.finalized:  # type: ignore[attr-defined]
        settle(app)
    else:
        app.on_after_finalize.connect(lambda **_: settle(app), weak=False)
    signals.worker_process_shutdown.connect(close_loops, weak=False, dispatch_uid=__name__)
    signals.worker_shutdown.connect(close_loops, weak=False, dispatch_uid=__name__)
    is_configured: bool = app.configured  # type: ignore[attr-defined]
    # The variable alone names the backend, so Celery may make it while nothing has read the app's settings yet.
    if is_configured or os.environ.get("CELERY_RESULT_BACKEND"):
        record_states(app)
    if not is_configured:
        app.on_after_configure.connect(lambda **_: record_states(app), weak=False)
