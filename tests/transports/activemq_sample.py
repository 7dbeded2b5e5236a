"""The Celery app of the ActiveMQ transport's tests; its results, and the marks of what ran, are in Redis."""

import os
import time
from typing import Any

import redis
from celery import Celery
from celery.exceptions import Reject

from tornado_celery_bridge.transports import register

register("activemq://")


def make_app(broker_url: str, redis_url: str) -> Celery:
    app = Celery("transports", set_as_current=False)
    app.conf.update(
        broker_url=broker_url,
        result_backend=redis_url,
        task_default_queue="plain",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=True,
        worker_prefetch_multiplier=int(os.environ.get("SAMPLE_PREFETCH", "1")),
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2.0,
        broker_transport_options={"heartbeat": float(os.environ.get("SAMPLE_HEARTBEAT", "2")), "confirm_timeout": 5.0},
        worker_hijack_root_logger=False,
    )

    @app.task(name="mark", shared=False, ignore_result=True)
    def mark(number: Any, seconds: float = 0.0) -> None:
        """Say to a list of somebody else's that *number* ran, and where."""
        time.sleep(seconds)
        marks = redis.Redis.from_url(redis_url)
        marks.rpush("marks", f"{number} {os.getppid()}")
        marks.close()

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="nap", shared=False)
    def nap(seconds: float) -> None:
        time.sleep(seconds)

    @app.task(name="size", shared=False)
    def size(text: str) -> list[Any]:
        return [len(text), text[:20]]

    @app.task(name="again", shared=False, bind=True)
    def again(self: Any) -> bool:
        """Go back into the queue once; return whether this is the second time."""
        if not self.request.delivery_info["redelivered"]:
            raise Reject(requeue=True)
        return True

    @app.task(name="refuse", shared=False)
    def refuse() -> None:
        raise Reject("nobody can do this", requeue=False)

    @app.task(name="retry", shared=False, bind=True, max_retries=3)
    def retry(self: Any) -> int:
        """Fail twice; return at which attempt it went well."""
        if self.request.retries < 2:
            raise self.retry(countdown=0.1)
        return int(self.request.retries)

    return app


if "SAMPLE_BROKER" in os.environ:
    app = make_app(os.environ["SAMPLE_BROKER"], os.environ["SAMPLE_MARKS"])
