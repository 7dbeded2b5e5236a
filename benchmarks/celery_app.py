"""The task that the real worker of the comparison runs, and that is submitted over HTTP."""

import os
import time

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
if "CELERY_APP" in os.environ:  # set if the service is measured
    from tornado_celery_bridge.worker import install

    install(app)


@app.task(name="bench.add", exposed=True)
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="bench.nap")
def nap(seconds: float) -> None:
    time.sleep(seconds)
