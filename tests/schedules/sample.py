"""An app whose workers keep the ledger and whose beat has its schedules there. A task's runs are lines of a file."""

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from tornado_celery_bridge.transports import register
from tornado_celery_bridge.worker import install

register("redis://")  # kombu's own ends a worker when Redis dies

app = Celery("schedules", broker=os.environ["SAMPLE_BROKER"], backend=os.environ["SAMPLE_BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=60,
    broker_transport_options={"socket_timeout": 5.0, "socket_connect_timeout": 2.0},
    beat_scheduler="tornado_celery_bridge.schedules:Scheduler",
    beat_schedule={"static": {"task": "sample.note", "schedule": 1.0, "misfire": "all"}},
)
install(app)


@app.task(name="sample.long")
def long() -> None:
    with Path(os.environ["SAMPLE_FILE"]).open("a") as file:
        file.write("long\n")
    time.sleep(3)


@app.task(name="sample.note", bind=True)
def note(self: Any) -> None:
    with Path(os.environ["SAMPLE_FILE"]).open("a") as file:
        file.write(f"{self.request.id}\n")
