"""What the real worker of the comparison runs."""

import os

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])


@app.task(name="bench.add")
def add(x: int, y: int) -> int:
    return x + y
