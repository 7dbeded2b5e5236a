"""
Measure what open dashboards cost: ``python -m benchmarks.dashboard``. All figures are of one run:

- the time of the requests that the dashboard's overview and its search send, after 100,000 jobs have ended and Redis
  and the web process were started again;
- the share of a core that a web process takes while 50 jobs a second run, with nobody watching and with 20 overviews
  open. Another process submits the jobs through the library, so the web process does nothing else.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient

from benchmarks.jobs import many
from tests.servers import Server, free_port, wait_for, worker
from tornado_celery_bridge import Bridge

RATE = 50


def ago(**time_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**time_ago)).isoformat().replace("+00:00", "Z")


def overview() -> dict[str, tuple[float, str]]:
    """Return the requests of an overview, each with the seconds between two of them (service/pages)."""
    return {
        "the counters": (3, f"/v1/statistics?{urlencode({'since': ago(seconds=0)})}"),
        "an hour's charts": (10, f"/v1/statistics?{urlencode({'since': ago(hours=1), 'step': 'minute'})}"),
        "the newest jobs": (10, "/v1/jobs?limit=8"),
        "the newest failures": (10, "/v1/jobs?limit=8&state=FAILURE"),
    }


SEARCHES = {
    "`task:… state:FAILURE`": {"task": "tasks.text.number_3", "state": "FAILURE"},
    "`tag:tag since:1h`": {"tag": "tag", "since": ago(hours=1)},
    "`task:…`, which none has": {"task": "tasks.text.none"},
    "30 days by the day": None,
}


@contextlib.contextmanager
def web(server: Server) -> Iterator[tuple[int, str]]:
    """Run a web process; yield its pid and its URL."""
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "REDIS_URL": server.url, "CELERY_APP": "benchmarks.celery_app"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tornado_celery_bridge", "serve"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: subprocess.run(["curl", "-sf", f"{url}/readyz"], capture_output=True).returncode == 0)
        yield process.pid, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def asked(url: str, times: int = 20) -> tuple[float, float]:
    """Return the median and the maximum time of some requests, in ms."""
    client, taken = AsyncHTTPClient(), []
    for _ in range(times):
        begun = time.perf_counter()
        await client.fetch(url)
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken), max(taken)


async def answers(url: str) -> None:
    print("\n| asked | p50 ms | max ms |\n| --- | --- | --- |")
    paths = {name: path for name, (_, path) in overview().items()}
    for name, query in SEARCHES.items():
        month = {"since": ago(days=30), "step": "day"}
        paths[name] = f"/v1/jobs?{urlencode(query)}" if query else f"/v1/statistics?{urlencode(month)}"
    for name, path in paths.items():
        median, most = await asked(url + path)
        print(f"| {name} | {median:.0f} | {most:.0f} |")


def cpu(pid: int) -> float:
    """Return the CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def watch(url: str) -> None:
    """Do what an open overview does."""

    async def ask_again_and_again(seconds: float, path: str) -> None:
        while True:
            await AsyncHTTPClient().fetch(url + path)
            await asyncio.sleep(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds, path in overview().values():
            group.create_task(ask_again_and_again(seconds, path))


async def load(seconds: float) -> None:
    """Submit jobs at the rate. This runs in a process of its own."""
    from benchmarks.celery_app import add, app

    async with Bridge(app) as bridge, asyncio.TaskGroup() as group:
        begun = time.monotonic()
        for number in range(int(seconds * RATE)):
            await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            group.create_task(bridge.submit(add.s(1, 2)))


async def watching(pid: int, url: str, viewers: int, seconds: float) -> None:
    AsyncHTTPClient.configure(None, max_clients=1000)
    print("\n| watching | of a core |\n| --- | --- |")
    for count in (0, viewers):
        command = [sys.executable, "-m", "benchmarks.dashboard", "--load", str(seconds + 10)]
        process = await asyncio.create_subprocess_exec(*command)
        tasks = [asyncio.create_task(watch(url)) for _ in range(count)]
        await asyncio.sleep(5)
        before, begun = cpu(pid), time.monotonic()
        await asyncio.sleep(seconds)
        print(f"| {count} | {(cpu(pid) - before) / (time.monotonic() - begun):.1%} |")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--load", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        asyncio.run(load(options.load))
        return
    os.environ["ALLOW_UNSAFE"] = "early-acks,lost-fails"  # nothing here has to survive a crash
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "redis").start()
        os.environ["BENCH_REDIS"] = server.url
        try:
            asyncio.run(many(server, options.jobs))
            server.kill()
            server.start()
            with web(server) as (pid, url), worker("benchmarks.celery_app", {}, Path(folder) / "log", "-c", "2"):
                asyncio.run(answers(url))
                asyncio.run(watching(pid, url, options.viewers, options.seconds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
