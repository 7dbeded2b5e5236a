"""The Celery app of the library's tests. Its broker and backend come from the environment."""

import os
import time
from typing import Any

from celery import Celery

from tornado_celery_bridge.progress import progress


def make_app(broker_url: str | None = None, result_backend: str | None = None, **settings: Any) -> Celery:
    app = Celery("sample", set_as_current=False)
    app.conf.update(
        broker_url=broker_url or os.environ["SAMPLE_BROKER"],
        result_backend=result_backend or os.environ["SAMPLE_BACKEND"],
        task_track_started=True,
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        task_default_queue=os.environ.get("SAMPLE_QUEUE", "sample"),
        broker_transport_options={"polling_interval": 0.02} if (broker_url or "").startswith("memory") else {},
    )
    app.conf.update(settings)

    @app.task(name="sample.add", shared=False)
    def add(x: float, y: float) -> float:
        return x + y

    @app.task(name="sample.total", shared=False)
    def total(numbers: list[float]) -> float:
        return sum(numbers)

    @app.task(name="sample.fail", shared=False)
    def fail(*args: Any) -> None:
        raise ValueError("as asked")

    @app.task(name="sample.echo", shared=False)
    def echo(value: Any) -> Any:
        return value

    @app.task(name="sample.count", shared=False, bind=True)
    def count(self: Any, upto: int, pause: float = 0.05) -> int:
        for number in range(1, upto + 1):
            progress(number, upto, f"step {number}")
            time.sleep(pause)
        time.sleep(pause)  # a stream that is late has the end in the place of the last step
        return upto

    @app.task(name="sample.state", shared=False, bind=True)
    def state(self: Any, seen: str) -> str:
        self.update_state(state="COOKING", meta={"pot": 1})
        deadline = time.monotonic() + 5
        while not os.path.exists(seen) and time.monotonic() < deadline:  # a stream that is late misses what is replaced
            time.sleep(0.01)
        return "cooked"

    @app.task(name="sample.nap", shared=False)
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @app.task(name="sample.ignored", shared=False, ignore_result=True)
    def ignored() -> int:
        return 1

    return app


def __getattr__(name: str) -> Celery:
    if name in ("app", "celery"):
        globals()["app"] = made = make_app()
        return made
    raise AttributeError(name)
