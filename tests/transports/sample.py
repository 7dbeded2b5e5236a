"""The Celery app of the transport's tests; its transport is in the environment."""

import os
import time

import redis
from celery import Celery
from celery.exceptions import Reject

from tornado_celery_bridge.transports import register

if os.environ.get("SAMPLE_TRANSPORT") == "ours":
    register("redis://")


def make_app(broker_url: str | None = None) -> Celery:
    app = Celery("transports", set_as_current=False)
    app.conf.update(
        broker_url=broker_url or os.environ["SAMPLE_BROKER"],
        result_backend=os.environ.get("SAMPLE_BACKEND") or broker_url or os.environ["SAMPLE_BROKER"],
        task_default_queue="plain",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=True,
        worker_pool=os.environ.get("SAMPLE_POOL", "prefork"),
        worker_prefetch_multiplier=int(os.environ.get("SAMPLE_PREFETCH", "1")),
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": float(os.environ.get("SAMPLE_VISIBILITY", "60")),
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 5,  # a worker killed while it restores keeps others from it for so long
            "global_keyprefix": os.environ.get("SAMPLE_PREFIX", ""),
            "master_name": "first",  # Sentinel's
            "socket_timeout": 5.0,
            "socket_connect_timeout": 2.0,
            "health_check_interval": 5,
        },
    )

    @app.task(name="mark", shared=False, ignore_result=True)
    def mark(number: int, seconds: float = 0.0) -> None:
        """Say to a list of somebody else's that *number* ran."""
        time.sleep(seconds)
        marks = redis.Redis.from_url(os.environ["SAMPLE_MARKS"])
        marks.rpush("marks", number)
        marks.close()

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="again", shared=False, bind=True)
    def again(self: object) -> bool:
        """Go back into the queue once; return whether this is the second time."""
        if not self.request.delivery_info["redelivered"]:
            raise Reject(requeue=True)
        return True

    return app


if "SAMPLE_BROKER" in os.environ:
    app = make_app()
