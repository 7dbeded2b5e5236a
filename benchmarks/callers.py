"""
Measure what callers that wait cost a web process: ``python -m benchmarks.callers``.

200 requests come at once, and each waits for a task of a second. There are 200 threads in the worker, so the tasks can
all run at the same time. One web process dispatches and awaits by the bridge, another one calls ``delay().get()`` in a
pool of 32 threads.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.readers import answer, used
from tests.servers import Server, wait_for, worker

CALLERS = 200
ROOT = Path(__file__).parent.parent


async def ask(port: int, pid: int) -> tuple[float, str]:
    """Return how long the callers took together, in seconds, and the process's memory and threads meanwhile."""
    await answer(port, "GET", "/")  # connects
    begun = time.perf_counter()
    asking = asyncio.gather(*(answer(port, "GET", "/") for _ in range(CALLERS)))
    await asyncio.sleep(0.9)
    meanwhile = used(pid)
    assert all(b" 200 OK" in each for each in await asking)
    return time.perf_counter() - begun, meanwhile


def measure(way: str, environment: dict[str, str]) -> tuple[float, str]:
    command = [sys.executable, "-m", "benchmarks.server", way]
    with subprocess.Popen(command, env={**os.environ, **environment}, cwd=ROOT, stdout=subprocess.PIPE) as site:
        assert site.stdout
        try:
            return asyncio.run(ask(int(site.stdout.readline()), site.pid))
        finally:
            site.kill()


def main(folder: Path) -> None:
    server = Server(folder).start()
    environment = {"BENCH_REDIS": server.url, "PYTHONPATH": str(ROOT)}
    options = ("--pool", "threads", "--concurrency", str(CALLERS))
    try:
        with worker("benchmarks.celery_app", environment, folder / "worker.log", *options):
            wait_for(lambda: b" ready." in (folder / "worker.log").read_bytes())
            print(f"| {CALLERS} callers, tasks of 1 s | seconds | MB | threads |\n| --- | --- | --- | --- |")
            for _ in range(3):
                for what, way in (("the bridge", "bridge_nap"), ("a pool of 32 threads", "pool_nap")):
                    seconds, meanwhile = measure(way, environment)
                    print(f"| {what} | {seconds:.1f} | {meanwhile} |")
    finally:
        server.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
