"""The Celery app of the Kafka transport's tests; where its servers are is in the environment."""

import os
import time
from typing import Any

import redis
from celery import Celery
from celery.exceptions import Reject

from tornado_celery_bridge.base.versions import CELERY
from tornado_celery_bridge.transports import register
from tornado_celery_bridge.worker import install

register("kafka://")


def make_app(broker_url: str | None = None, backend: str | None = None, **options: Any) -> Celery:
    app = Celery("kafkas", set_as_current=False)
    backend = backend or os.environ["SAMPLE_BACKEND"]
    app.conf.update(
        broker_url=broker_url or os.environ["SAMPLE_BROKER"],
        result_backend=backend,
        job_ledger_url=backend,
        task_default_queue="plain",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=True,
        worker_prefetch_multiplier=int(os.environ.get("SAMPLE_PREFETCH", "1")),
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_max_tasks_per_child=int(os.environ.get("SAMPLE_CHILD", "0")) or None,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2.0,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1},
        broker_transport_options={"publish_timeout": 2.0, "hand_over_timeout": 10.0, "later_url": backend, **options},
    )

    @app.task(name="mark", shared=False, ignore_result=True)
    def mark(number: int, seconds: float = 0.0) -> None:
        """Say to a list of somebody else's that *number* ran."""
        time.sleep(seconds)
        marks = redis.Redis.from_url(os.environ["SAMPLE_MARKS"])
        marks.rpush("marks", f"{number} {os.environ.get('SAMPLE_NAME', '')}")
        marks.close()

    @app.task(name="add", shared=False)
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="echo", shared=False)
    def echo(value: Any) -> Any:
        return value

    @app.task(name="nap", shared=False)
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @app.task(name="again", shared=False, bind=True)
    def again(self: Any) -> bool:
        """Go back into the queue once; return whether this is the second time."""
        if not self.request.delivery_info["redelivered"]:
            raise Reject(requeue=True)
        return True

    @app.task(name="retried", shared=False, bind=True)
    def retried(self: Any, times: int) -> int:
        if self.request.retries < times:
            raise self.retry(countdown=0.2)
        return int(self.request.retries)

    return app


if "SAMPLE_BROKER" in os.environ:
    app = make_app()
    # Below Celery 5.7 a stock worker takes its prefetch each 2 s (versions.LACKS), which is too slow for tests.
    if os.environ.get("SAMPLE_LEDGER") or CELERY < (5, 7):
        app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
        install(app)
