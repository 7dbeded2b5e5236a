"""An app whose workers keep the ledger; for ``celery -A`` with ``SAMPLE_URL`` and ``SAMPLE_LEDGER`` set."""

import os
import time

from celery import Celery

from tornado_celery_bridge.worker import install


def make_app(url: str, ledger_url: str) -> Celery:
    app = Celery("sample", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_default_queue="sample",
        task_queues={"sample": {}, "quiet": {}},
        task_create_missing_queues=False,
        task_track_started=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry_on_startup=True,
        job_ledger_url=ledger_url,
    )
    install(app)

    @app.task(name="sample.add", shared=False)
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="sample.nap", shared=False)
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    return app


def __getattr__(name: str) -> Celery:
    if name in ("app", "celery"):
        globals()["app"] = made = make_app(os.environ["SAMPLE_URL"], os.environ["SAMPLE_LEDGER"])
        return made
    raise AttributeError(name)
