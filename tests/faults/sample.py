"""
The Celery app of the fault matrix, with the settings that are delivered: ``celery -A tests.faults.sample``.

``REDIS_URL``, ``BROKER_URL`` (if it is another) and ``FAULTS_JOURNAL`` say where the ledger, the broker and the journal
are; with ``FAULTS_STOCK`` it keeps no ledger.
"""

import asyncio
import contextlib
import functools
import json
import os
import signal
import time
from typing import Any

import redis
from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded

from tornado_celery_bridge.transports import register
from tornado_celery_bridge.worker import install

QUEUE = "faults"
#: Seconds after which messages in the hands of a dead worker are delivered again, so soon that it is seen here; stock
#: Celery's tasks may take less. The product's have the limits that are delivered: one of a few seconds would end, as a
#: failure, what waits with its result for a Redis that takes as long to come back.
VISIBILITY = 10


@functools.cache
def journal() -> redis.Redis:
    return redis.Redis.from_url(os.environ["FAULTS_JOURNAL"])


def note(what: str, task_id: str | None) -> None:
    """Write down, where none of the faults reaches, that a task starts or ends."""
    journal().rpush("journal", json.dumps([what, task_id, time.time()]))


def make_app(url: str, broker_url: str | None = None, *, stock: bool = False) -> Celery:
    app = Celery("faults", set_as_current=False)
    app.config_from_object("celeryconfig")
    app.conf.update(
        broker_url=broker_url or url,
        result_backend=url,
        job_ledger_url=url,
        job_store_url=None,
        redis_socket_keepalive=True,
        imports=(),
        beat_schedule={},
        task_default_queue=QUEUE,
        task_queues={QUEUE: next(iter((app.conf.task_queues or {"": {}}).values()))},
    )
    if broker_url is None:
        app.conf.broker_transport_options |= {"visibility_timeout": VISIBILITY}
    if stock:
        app.conf.update(task_soft_time_limit=VISIBILITY - 3, task_time_limit=VISIBILITY - 2)
    else:
        if not app.conf.stock_transport:
            register(app.conf.broker_url)
        install(app)

    def work(self: "Task[..., Any]", seconds: float = 0.0) -> None:
        note("start", self.request.id)
        time.sleep(seconds)
        note("end", self.request.id)

    async def awaits(self: "Task[..., Any]", seconds: float = 0.0) -> None:
        note("start", self.request.id)
        await asyncio.sleep(seconds)
        note("end", self.request.id)

    code: Any = awaits if "FAULTS_ON_LOOP" in os.environ else work
    app.task(name="faults.work", shared=False, exposed=True, bind=True)(code)

    @app.task(name="faults.gather", shared=False, exposed=True, bind=True)
    def gather(self: "Task[..., Any]", parts: list[None]) -> int:
        note("start", self.request.id)
        note("end", self.request.id)
        return len(parts)

    @app.task(name="faults.poison", shared=False, exposed=True, bind=True)
    def poison(self: "Task[..., Any]") -> None:
        note("start", self.request.id)
        os.kill(os.getpid(), signal.SIGSEGV)

    @app.task(name="faults.stubborn", shared=False, exposed=True, bind=True, soft_time_limit=2, time_limit=3)
    def stubborn(self: "Task[..., Any]") -> None:
        note("start", self.request.id)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            with contextlib.suppress(SoftTimeLimitExceeded):
                time.sleep(60)

    @app.task(name="faults.echo", shared=False, exposed=True, bind=True)
    def echo(self: "Task[..., Any]", value: Any = None) -> Any:
        note("start", self.request.id)
        note("end", self.request.id)
        return value

    return app


def __getattr__(name: str) -> Celery:
    if name in ("app", "celery"):
        globals()["app"] = made = make_app(
            os.environ["REDIS_URL"], os.environ.get("BROKER_URL"), stock="FAULTS_STOCK" in os.environ
        )
        return made
    raise AttributeError(name)
