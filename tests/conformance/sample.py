"""
The Celery app of the contract, with the settings that are delivered: ``celery -A tests.conformance.sample``.

``REDIS_URL``, ``BROKER_URL`` and ``FAULTS_JOURNAL`` say where ledger, broker and journal are. With ``FAULTS_ON_LOOP``
what takes time is ``async def``.
"""

import asyncio
import os
import runpy
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry

from tests.faults.sample import QUEUE, journal, note
from tornado_celery_bridge.checkpoints import checkpoint, resumable
from tornado_celery_bridge.progress import progress
from tornado_celery_bridge.transports import register
from tornado_celery_bridge.worker import attempt, install

#: Consumed like the default queue, and consumed by nobody.
OTHER, QUIET = f"{QUEUE}-other", f"{QUEUE}-quiet"

SETTINGS = Path(__file__).parents[2] / "celeryconfig.py"


def make_app(redis_url: str, broker_url: str, *, queue: str = QUEUE) -> Celery:
    with patch.dict(os.environ, REDIS_URL=redis_url, BROKER_URL=broker_url):
        settings = {name: value for name, value in runpy.run_path(str(SETTINGS)).items() if not name.startswith("_")}
    app = Celery("contract", set_as_current=False)
    (options,) = (settings.get("task_queues") or {"": {}}).values()
    app.conf.update(
        {name: value for name, value in settings.items() if not callable(value) and name not in ("os", "Any", "Path")}
    )
    app.conf.update(
        imports=(),
        beat_schedule={},
        job_store_url=None,
        task_default_queue=queue,
        task_queues=dict.fromkeys((queue, OTHER, QUIET), options),
        redis_socket_keepalive=True,
    )
    register(broker_url)
    install(app)
    attempt.MOST_BEGUN = 3

    @app.task(name="c.add", shared=False, exposed=True)
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="c.total", shared=False, exposed=True)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="c.echo", shared=False, exposed=True)
    def echo(value: Any = None) -> Any:
        return value

    @app.task(name="c.fail", shared=False, exposed=True)
    def fail() -> None:
        raise ValueError("as asked")

    @app.task(name="c.nap", shared=False, exposed=True, bind=True)
    def nap(self: "Task[..., Any]", seconds: float) -> str:
        """Sleep, and say which worker did."""
        note("start", self.request.id)
        time.sleep(seconds)
        note("end", self.request.id)
        return str(self.request.hostname)

    @app.task(name="c.hold", shared=False, exposed=True, bind=True)
    def hold(self: "Task[..., Any]", key: str) -> None:
        """Wait for somebody to write to the journal's server under *key*."""
        note("start", self.request.id)
        while not journal().exists(key):
            time.sleep(0.05)

    @app.task(name="c.steps", shared=False, exposed=True, bind=True)
    def steps(self: "Task[..., Any]", count: int) -> int:
        note("start", self.request.id)
        for number in range(1, count + 1):
            progress(number, count, f"step {number}")
            time.sleep(0.05)
        return count

    @app.task(name="c.again", shared=False, exposed=True, bind=True)
    def again(self: "Task[..., Any]", countdown: float) -> list[str]:
        """Ask for two retries; return by which routing key the last came, and when each began."""
        note("start", self.request.id)
        if self.request.retries < 2:
            raise self.retry(countdown=countdown, max_retries=2)
        return str(self.request.delivery_info["routing_key"]).split(".")[-1:]  # type: ignore[index]

    @app.task(name="c.ends", shared=False, exposed=True, bind=True)
    def ends(self: "Task[..., Any]", how: str) -> str:
        """End the first attempt in a way for which Celery stores nothing."""
        note("start", self.request.id)
        if not journal().set(f"begun-{self.request.id}", 1, nx=True):
            return "again"
        match how:
            case "ignore":
                raise Ignore
            case "requeue":
                raise Reject(requeue=True)
            case "retry":
                raise Retry
            case "replace":
                raise self.replace(app.tasks["c.echo"].s("another"))
            case _:
                raise Reject(how, requeue=False)

    @app.task(name="c.goes_on", shared=False, exposed=True, bind=True)
    def goes_on(self: "Task[..., Any]") -> list[int]:
        """Return the items of the last attempt; the first one ends its process."""
        note("start", self.request.id)
        is_first, mine = checkpoint("items").value is None, []
        for number in resumable(range(6)):
            mine.append(number)
            if is_first and number == 4:
                os.kill(os.getpid(), signal.SIGTERM)
        return mine

    @app.task(name="c.swallow", shared=False, exposed=True)
    def swallow() -> str:
        """Make nothing of being told to end."""
        try:
            time.sleep(60)
        except BaseException:
            return "swallowed"
        return "slept"

    @app.task(name="c.poison", shared=False, exposed=True, bind=True)
    def poison(self: "Task[..., Any]") -> None:
        note("start", self.request.id)
        os.kill(os.getpid(), signal.SIGKILL)

    if "FAULTS_ON_LOOP" in os.environ:
        _put_on_loop(app)
    return app


def _put_on_loop(app: Celery) -> None:
    async def nap(self: "Task[..., Any]", seconds: float) -> str:
        note("start", self.request.id)
        await asyncio.sleep(seconds)
        note("end", self.request.id)
        return str(self.request.hostname)

    async def hold(self: "Task[..., Any]", key: str) -> None:
        note("start", self.request.id)
        while not journal().exists(key):
            await asyncio.sleep(0.05)

    async def steps(self: "Task[..., Any]", count: int) -> int:
        note("start", self.request.id)
        for number in range(1, count + 1):
            progress(number, count, f"step {number}")
            await asyncio.sleep(0.05)
        return count

    async def swallow(self: "Task[..., Any]") -> str:
        try:
            await asyncio.sleep(60)
        except BaseException:
            return "swallowed"
        return "slept"

    for code in (nap, hold, steps, swallow):
        del app.tasks[name := f"c.{code.__name__}"]
        app.task(name=name, shared=False, exposed=True, bind=True)(code)


def __getattr__(name: str) -> Celery:
    if name in ("app", "celery"):
        globals()["app"] = made = make_app(os.environ["REDIS_URL"], os.environ["BROKER_URL"])
        return made
    raise AttributeError(name)
