"""
An app with what real projects have, none of which was written for `tcb up`.

It runs its tasks in the caller, has a loader and a task class of its own, tasks of every style, two queues, a task that
was used before the settings were made, and a broker and a result backend that are not there.
"""

import datetime
import decimal
import os
import time
from typing import Any

from celery import Celery, Task, chord, shared_task
from celery.loaders.app import AppLoader
from celery.signals import worker_process_init
from kombu import Queue

NOWHERE = "redis://127.0.0.1:1/0"


class Loader(AppLoader):
    """A loader of the project's own, which comes before CELERY_LOADER."""


class AppTask(Task):  # type: ignore[type-arg]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


app = Celery("shop", broker=NOWHERE, backend=NOWHERE, loader=Loader, task_cls=AppTask)
ready: list[int] = []


@app.task
def early() -> int:
    """Run in a process of the worker, wherever it is called from."""
    return os.getpid()


early.delay.__doc__  # noqa: B018 Celery makes the task now, with the settings of now

app.conf.update(
    task_always_eager=True,
    task_queues=[Queue("celery"), Queue("declared")],
    task_routes={"shop.routed": {"queue": "routed"}, "shop.declared": "declared"},
    beat_schedule={"often": {"task": "shop.noted", "schedule": 1.0, "options": {"queue": "noted"}}},
)


@worker_process_init.connect
def init(**_: Any) -> None:
    ready.append(1)


@app.task
def is_ready() -> bool:
    return bool(ready)


@app.task
def routed(x: int, y: int) -> int:
    return x + y


@app.task
def declared() -> str:
    return "declared"


@app.task(queue="special")
def special() -> str:
    return "special"


@shared_task
def shared(x: int) -> int:
    return 2 * x


class Klass(app.Task):  # type: ignore[name-defined,misc]
    name = "shop.Klass"

    def run(self, a: int, b: int = 2) -> int:
        return a * b


app.register_task(Klass())


@app.task
def when() -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@app.task
def money() -> dict[str, decimal.Decimal]:
    return {"d": decimal.Decimal("1.10")}


@app.task(ignore_result=True)
def ignored(x: int) -> int:
    return x


@app.task(bind=True)
def bound(self: Any, x: int) -> list[Any]:
    self.update_state(state="DOWNLOADING", meta={"pct": 10})
    return [self.request.id, x]


class Failed(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)


@app.task(autoretry_for=(Failed,), retry_backoff=False, default_retry_delay=0, max_retries=1)
def flaky() -> None:
    raise Failed(7, "seven")


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def canvas() -> str:
    return str(chord([routed.s(1, 1), routed.s(2, 2)])(total.s()).id)


@app.task
def anything(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs]


@app.task
def noted() -> None:
    with open("noted", "a") as file:
        file.write("x")


@app.task
def naps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
