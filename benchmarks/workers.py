"""
Measure how many tasks per second one worker process runs: ``python -m benchmarks.workers``. All figures are of one run.

The tasks do nothing, or nap for 100 ms; results are kept. Each worker is one process that may run 1,000 tasks at once,
but for the pools that can't: prefork (one) and threads (100). The tasks are in the queue before the worker starts. The
time is taken from the first task's start to the last task's end. The ways take turns for several rounds, and a figure
is the median of them. Peers, and Celery with gevent, run in the interpreters that ``BENCH_PYTHON`` names (see
:mod:`benchmarks.peers`), with uvloop if it is there. What is not installed is left out.

At last, 1,000 naps of 1 s on the asyncio pool: how long they take together, what memory each one takes as it waits,
and how late the loop is meanwhile.
"""

import argparse
import contextlib
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import python_of
from tests.servers import Server, wait_for

HERE = Path(__file__).parent
#: The text of each row, what starts its worker, and how many of its naps run at once.
CELERY = ("-m", "celery", "-A", "benchmarks.worker_app", "worker", "--loglevel", "ERROR", "--without-gossip")
POOL = "tornado_celery_bridge.worker.asyncio_pool:TaskPool"
ROWS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "asyncio": ("**asyncio pool**, plain tasks", (*CELERY, "-P", "custom", "-c", "1000"), 1_000),
    "asyncio-jobs": ("**asyncio pool**, jobs in the ledger", (*CELERY, "-P", "custom", "-c", "1000"), 1_000),
    "prefork": ("Celery, prefork", (*CELERY, "-c", "1"), 1),
    "threads": ("Celery, threads", (*CELERY, "-P", "threads", "-c", "100"), 100),
    "gevent": ("Celery, gevent", (*CELERY, "-P", "gevent", "-c", "1000"), 1_000),
    "taskiq": ("taskiq", (str(HERE / "worker_peers.py"), "taskiq", "work"), 1_000),
    "arq": ("arq", (str(HERE / "worker_peers.py"), "arq", "work"), 1_000),
    "saq": ("saq", (str(HERE / "worker_peers.py"), "saq", "work"), 1_000),
    "streaq": ("streaq", (str(HERE / "worker_peers.py"), "streaq", "work"), 1_000),
}
#: The ways that run in an interpreter of their own, and what is imported there.
ELSEWHERE = {"gevent": "gevent", "taskiq": "taskiq", "arq": "arq", "saq": "saq", "streaq": "streaq"}
NAP = 0.1


class Way:
    """One way to run tasks."""

    def __init__(self, name: str, server: Server, folder: Path) -> None:
        self.label, self._work, self.at_once = ROWS[name]
        self._python = python_of(ELSEWHERE[name]) if name in ELSEWHERE else sys.executable
        self._server, self._notes = server, folder / "notes"
        self._send = (*self._work[:2], "send") if "work" in self._work else ("-m", "benchmarks.worker_app")
        self._log = folder / f"{name}.log"
        self._environment = {
            **os.environ,
            "BENCH_REDIS": server.url,
            "BENCH_WAY": name,
            "BENCH_NOTES": str(self._notes),
            "PYTHONPATH": str(HERE.parent),
            "CELERY_CUSTOM_WORKER_POOL": POOL,
        }

    def send(self, count: int, seconds: float) -> bool:
        """Put tasks into the queue; return whether this way is installed."""
        if self._python is None:
            return False
        self._notes.write_bytes(b"")
        command = [self._python, *self._send, str(count), str(seconds)]
        with self._log.open("ab") as log:
            subprocess.run(command, env=self._environment, stdout=log, stderr=log, check=True)
        return True

    @contextlib.contextmanager
    def works(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker while the block does."""
        assert self._python
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [self._python, *self._work], env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def lateness(self, seconds: float) -> subprocess.Popen[str]:
        """Have a task look how late the worker's loop is; what it has seen is printed. Returns once that is sent."""
        command = [sys.executable, *self._send, "lag", str(seconds)]
        process = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        process.stdout.readline()
        return process

    def ended(self) -> int:
        """Return how many tasks have ended."""
        return self._notes.stat().st_size // 16

    def took(self) -> float:
        """Return the seconds from the first start to the last end."""
        times = list(struct.iter_unpack("dd", self._notes.read_bytes()))
        return float(max(end for _, end in times) - min(begun for begun, _ in times))

    def rate(self, count: int, seconds: float) -> float | None:
        """Return the tasks per second; None if this way is not installed."""
        with self._server.client() as client:
            client.flushall()
        if not self.send(count, seconds):
            return None
        with self.works() as process, contextlib.suppress(TimeoutError):
            wait_for(lambda: self.ended() >= count or process.poll() is not None, 60)
        if self.ended() < count:
            raise SystemExit(f"{self.label}: {self.ended()} of {count} tasks ended\n{self._log.read_text()[-3_000:]}")
        return count / self.took()


def resident(pid: int) -> int:
    """Return how many bytes of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def at_once(way: Way) -> tuple[float, float, float]:
    """Return how long 1,000 naps of 1 s take, the KiB of memory for each that waits, and how late the loop is, p99."""
    way.send(100, 0)
    with way.works() as process:
        wait_for(lambda: way.ended() >= 100, 60)
        time.sleep(1)
        before = resident(process.pid)
        way.send(1_000, 3)
        wait_for(lambda: way.ended() >= 1, 60)
        most = resident(process.pid)
        wait_for(lambda: way.ended() >= 1_000, 60)
        way.send(1_000, 1)
        wait_for(lambda: way.ended() >= 1_000, 60)
        took = way.took()
        late = way.lateness(4)
        way.send(999, 1)  # with the one that looks, as many as the worker runs at once
        wait_for(lambda: way.ended() >= 999, 60)
        return took, (most - before) / 1_000 / 1024, float(late.communicate()[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--tasks", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=list(ROWS), choices=ROWS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name) / "redis").start()
        try:
            ways = {each: Way(each, server, Path(name)) for each in options.ways}
            rates: dict[str, dict[float, list[float]]] = {each: {0.0: [], NAP: []} for each in ways}
            for round_ in range(options.rounds):
                for each in list(ways)[:: -1 if round_ % 2 else 1]:
                    for seconds, found in rates[each].items():
                        # A way that runs few at once would nap for minutes.
                        count = options.tasks if not seconds else min(options.tasks, 40 * ways[each].at_once)
                        if rate := ways[each].rate(count, seconds):
                            found.append(rate)
            print("| one worker process | no-ops/s | of ours | naps of 100 ms/s | of ours |")
            print("| --- | --- | --- | --- | --- |")
            ours = {seconds: statistics.median(found) for seconds, found in rates[options.ways[0]].items()}
            for each, way in ways.items():
                cells = [
                    f"{statistics.median(found):,.0f} | {statistics.median(found) / ours[seconds]:.2f}"
                    if found
                    else "not installed |"
                    for seconds, found in rates[each].items()
                ]
                print(f"| {way.label} | {' | '.join(cells)} |")
            if "asyncio-jobs" in ways:
                took, each_takes, late = at_once(ways["asyncio-jobs"])
                print(
                    f"\n1,000 naps of 1 s at once, jobs: {took:.2f} s; each waits in {each_takes:.1f} KiB; "
                    f"the loop is {late * 1000:.1f} ms late at p99."
                )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
