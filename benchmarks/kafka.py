"""
Measure latency, throughput and idle CPU of a worker over our Kafka transport: ``python -m benchmarks.kafka``.

It runs a stock prefork worker (two children, late acknowledgement, prefetch 1) over a private Kafka-compatible server
that keeps everything in memory, with results in Redis. On Apache Kafka, with a disk and copies, publishing takes
longer, and fetching takes less time, because it answers a waiting consumer at once.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.servers import Server, worker
from tests.transports.kafka_sample import make_app
from tornado_celery_bridge.up.brokers.tansu import Tansu

#: Seconds for which an idle worker is measured.
IDLE = 30.0


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker, server = Tansu(folder / "kafka").start(), Server(folder / "redis").start()
        environment = {"SAMPLE_BROKER": broker.url, "SAMPLE_BACKEND": server.url, "SAMPLE_MARKS": server.url}
        app = make_app(broker.url, server.url)
        try:
            with worker("tests.transports.kafka_sample", environment, folder / "log", "-c", "2", "-E") as process:
                add = app.tasks["add"]
                add.delay(1, 1).get(timeout=60)
                latencies = sorted(_seconds(lambda: add.delay(1, 1).get(timeout=60)) for _ in range(200))
                print(f"send and get: p50 {latencies[100] * 1e3:.0f} ms, p95 {latencies[190] * 1e3:.0f} ms")
                sends = statistics.median(
                    _seconds(lambda: add.apply_async((1, 1), ignore_result=True)) for _ in range(200)
                )
                print(f"apply_async: p50 {sends * 1e3:.1f} ms")
                burst = _seconds(lambda: [each.get(timeout=60) for each in [add.delay(1, 1) for _ in range(200)]])
                print(f"200 tasks at once: {burst:.1f} s")
                before = _cpu(process.pid)
                time.sleep(IDLE)
                print(f"idle, the worker's main process: {(_cpu(process.pid) - before) / IDLE:.2%} of a core")
        finally:
            app.close()
            broker.stop()
            server.stop()


def _seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _cpu(pid: int) -> float:
    """Return the CPU time of a process, in seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
