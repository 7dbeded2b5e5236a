"""
Measure what schedules cost beat: ``python -m benchmarks.schedules``. For each number of idle entries it prints:

- the time of a look when nothing is due, and when a hundred entries are. In a look, beat reads what is due, decides,
  has the jobs accepted, and publishes them;
- with a hundred entries due at each full second and a real beat: how late their runs were accepted, by the server's
  clock (their messages follow within the time of a look), how many of the runs there were, and beat's memory and share
  of a core;
- the same for RedBeat, if it can be imported (``pip install --no-deps celery-redbeat tenacity`` is enough), except for
  lateness: its intervals count from the last run, so no run is late by its own measure.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery
from celery.schedules import crontab
from redis import Redis

from tests.schedules.entries import seed
from tests.servers import Server, wait_for
from tornado_celery_bridge.schedules import Entry
from tornado_celery_bridge.schedules.scheduler import Lease, Scheduler
from tornado_celery_bridge.worker import install

ROOT = Path(__file__).parent.parent
TASK = "bench.nothing"
DUE = 100
#: The list in which kombu has what has no priority.
LAST = "celery\x06\x169"

app = Celery("bench", broker=os.environ.get("BENCH_REDIS", "redis://"), set_as_current=False)
app.conf.update(result_backend=app.conf.broker_url, beat_scheduler="tornado_celery_bridge.schedules:Scheduler")
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_time_limit=60, worker_prefetch_multiplier=1)
install(app)


@app.task(name=TASK)
def nothing() -> None:
    pass


def idle(client: Redis, count: int, slot: int) -> None:
    """Store entries that are due once a day, from tomorrow on."""
    for start in range(0, count, 5_000):
        crontabs = ((number, f"{number % 60} {number // 60 % 24} * * *") for number in range(start, start + 5_000))
        entries = [Entry(name=f"idle{number}", task=TASK, crontab=each) for number, each in crontabs if number < count]
        seed(client, entries, slot)


def look_cost(server: Server, looks: int) -> tuple[float, float]:
    """Return the median times, in ms, of a look when nothing is due and of one when a hundred entries are."""
    app.conf.update(broker_url=server.url, result_backend=server.url)
    beat = Scheduler(app)
    lease: Lease = beat._lease  # type: ignore[assignment]
    lease.wait(5)
    beat._load()
    with server.client() as client:
        names = [f"due{number}" for number in range(DUE)]
        times: dict[str, list[float]] = {"nothing": [], "due": []}
        for kind, each in [(kind, each) for each in range(looks) for kind in times]:
            if kind == "due":
                now = int(time.time() * 1000)
                seed(client, [Entry(name=name, task=TASK, interval=3600.0) for name in names], now - each)
            client.lpush("{tcb}schedules:wake", 1)
            begun = time.perf_counter()
            beat._run_due(lease)
            times[kind].append((time.perf_counter() - begun) * 1000)
        for name in names:
            client.delete(f"{{tcb}}schedule:{name}", f"{{tcb}}schedules:runs:{name}")
            client.zrem("{tcb}schedules:due", name)
    beat.close()
    return statistics.median(times["nothing"]), statistics.median(times["due"])


@contextmanager
def beat_process(server: Server, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "BENCH_REDIS": server.url, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.schedules", "beat", "--pidfile=", "-l", "WARNING"]
    command += flags
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def redbeat(server: Server, idle: int, duration: float) -> tuple[int, float, float]:
    """Return RedBeat's runs with a hundred due per second, its memory in MB, and its share of a core."""
    from redbeat import RedBeatSchedulerEntry

    own = Celery("redbeat", broker=server.url, set_as_current=False)  # RedBeat keeps its connection in the app
    for number in range(idle):
        when = crontab(minute=number % 60, hour=number // 60 % 24)
        RedBeatSchedulerEntry(f"idle{number}", TASK, when, app=own).save()
    for number in range(DUE):
        RedBeatSchedulerEntry(f"due{number}", TASK, 1.0, app=own).save()
    flags = ("-S", "redbeat.RedBeatScheduler", "--max-interval", "1")
    with server.client() as client, beat_process(server, *flags) as process:
        wait_for(lambda: client.llen(LAST) >= DUE)
        used, sent = _cpu(process.pid), client.llen(LAST)
        time.sleep(duration)
        return client.llen(LAST) - sent, _memory(process.pid), (_cpu(process.pid) - used) / duration


def lateness(server: Server, duration: float) -> tuple[list[int], int, float, float]:
    """Return how late runs were in ms, how many were expected, beat's memory in MB, and its share of a core."""
    with server.client() as client, beat_process(server) as process:
        wait_for(lambda: client.get("{tcb}schedules:leader"))
        begun = (int(time.time()) + 2) * 1000
        seed(client, [Entry(name=f"due{n}", task=TASK, interval=1.0, misfire="all") for n in range(DUE)], begun)
        time.sleep(2)
        used = _cpu(process.pid)
        time.sleep(duration)
        share = (_cpu(process.pid) - used) / duration
        end = (int(time.time()) - 1) * 1000
        memory = _memory(process.pid)
        notes = [
            json.loads(n) for number in range(DUE) for n in client.lrange(f"{{tcb}}schedules:runs:due{number}", 0, -1)
        ]
        runs = [note for note in notes if note["slot"] <= end]
        late = [int(client.hget(f"{{tcb}}job:{run['job']}", "due") or 0) - run["slot"] for run in runs]
        should = ((end - begun) // 1000 + 1) * DUE
    return late, should, memory, share


def _memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def fresh_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder)).start()
        try:
            yield server
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedules", description=__doc__)
    parser.add_argument("--idle", type=int, nargs="*", default=[1_000, 100_000])
    parser.add_argument("--looks", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0, help="of 100 due each second; at most 90")
    options = parser.parse_args()
    print("| idle entries | look, nothing due | 100 due | runs | late, p50 | p99 | max | beat's memory | of a core |")
    print("| --- " * 9 + "|")
    for count in options.idle:
        with fresh_server() as server:
            with server.client() as client:
                idle(client, count, int(time.time() * 1000) + 86_400_000)
            nothing_due, some_due = look_cost(server, options.looks)
            late, should, memory, share = lateness(server, options.seconds)
        late.sort()
        p50, p99 = (late[min(len(late) - 1, int(len(late) * part))] for part in (0.5, 0.99))
        print(
            f"| {count:,} | {nothing_due:.2f} ms | {some_due:.1f} ms | {len(late):,} of {should:,} | {p50} ms "
            f"| {p99} ms | {late[-1]} ms | {memory:.0f} MB | {share:.0%} |"
        )
        if importlib.util.find_spec("redbeat"):
            with fresh_server() as server:
                runs, memory, share = redbeat(server, count, options.seconds)
            should = round(options.seconds) * DUE
            print(f"| {count:,}, RedBeat | | | {runs:,} of {should:,} | | | | {memory:.0f} MB | {share:.0%} |")


if __name__ == "__main__":
    main()
