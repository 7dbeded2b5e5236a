"""
Print a table of ratios, all measured in one run: ``python -m benchmarks`` (needs wrk; apt-get install wrk).

Each way of handling a request is a Tornado process of its own. wrk sends it requests on 64 connections. The ways take
turns for several rounds. A figure is the median of a way's rounds, divided by the median of the bare handler's. Peers
run in the interpreters that ``BENCH_PYTHON`` names (see :mod:`benchmarks.peers`). A peer that is not installed is left
out.
"""

import argparse
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from benchmarks.peers import python_of
from tests.servers import Server

HERE = Path(__file__).parent
#: Each way of handling a request: (the text of its row, the worker that it needs).
ROWS = {
    "bare": ("bare handler", None),
    "delay_on_loop": ("`add.delay()` on the loop", None),
    "pool_delay": ("`add.delay()` in a pool of 32 threads", None),
    "bridge_dispatch": ("**bridge: dispatch**", None),
    "streaq": ("streaq enqueue", None),
    "arq": ("arq enqueue", None),
    "saq": ("saq enqueue", None),
    "taskiq": ("taskiq enqueue", None),
    "flower": ("Flower `async-apply`", None),
    "bridge_await": ("**bridge: dispatch and await**, echo worker", "echo"),
    "pool_get": ("pool of 32 threads with `get()`, echo worker", "echo"),
    "bridge_await/real": ("**bridge: dispatch and await**, Celery worker (solo)", "celery"),
}
PEERS = ("streaq", "arq", "saq", "taskiq")


def measure(way: str, url: str, kind: str | None, seconds: int, connections: int) -> tuple[float, float] | None:
    """Return the requests per second and the median latency in ms, or None if the way is not installed."""
    environment = {**os.environ, "BENCH_REDIS": url, "PYTHONPATH": str(HERE.parent)}
    python = python_of(way) if way in PEERS else sys.executable
    if python is None:
        return None
    workers = {
        "echo": [sys.executable, str(HERE / "echo_worker.py")],
        "celery": [
            *(sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", "worker", "--pool", "solo"),
            *("--without-gossip", "--without-mingle", "--loglevel", "ERROR"),
        ],
    }
    quiet = {"stderr": subprocess.DEVNULL, "env": environment, "start_new_session": True}
    running = [subprocess.Popen(workers[kind], stdout=subprocess.DEVNULL, **quiet)] if kind else []  # type: ignore[call-overload]
    command = [python, str(HERE / "server.py"), way.partition("/")[0]]
    if way == "flower":
        environment["FLOWER_UNAUTHENTICATED_API"] = "true"
        command = [python, str(HERE / "flower.py")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **quiet)  # type: ignore[call-overload]
    running.append(server)
    try:
        port = server.stdout.readline().strip()
        if not port:
            return None
        load = ["wrk", "-t1", f"-c{connections}", "--latency", f"http://127.0.0.1:{port}/"]
        if way == "flower":
            load = [*load[:-1], "-s", str(HERE / "flower.lua"), f"{load[-1]}api/task/async-apply/bench.add"]
        subprocess.run([*load, "-d2s"], capture_output=True, check=True)  # warms up, and waits for the worker
        report = subprocess.run([*load, f"-d{seconds}s"], capture_output=True, check=True, text=True).stdout
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if "Non-2xx" in report:
        raise SystemExit(f"{way}: errors under load\n{report}")
    [(number, unit)] = re.findall(r"50%\s+([\d.]+)(us|ms|s)", report)
    latency = float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", report)[0]), latency


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load, for each row and round")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {way: [] for way in ROWS}
    alone: dict[str, list[float]] = {"bare": [], "bridge_await": []}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), "--appendonly", "no").start()
        try:
            for _ in range(options.rounds):
                for way, (_, kind) in ROWS.items():
                    measured = measure(way, server.url, kind, options.seconds, 64)
                    if measured:
                        rates[way].append(measured[0])
                    with server.client() as client:
                        client.flushall()
                for way, latencies in alone.items():
                    kind = "celery" if way == "bridge_await" else None
                    if one := measure(way, server.url, kind, options.seconds, 1):
                        latencies.append(one[1])
        finally:
            server.stop()
    bare = statistics.median(rates["bare"])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("celery", "kombu", "redis", "tornado"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores; {options.rounds} rounds\n")
    print("| what a Tornado handler does | req/s | of a bare handler |\n| --- | --- | --- |")
    for way, (label, _) in ROWS.items():
        if rates[way]:
            rate = statistics.median(rates[way])
            print(f"| {label} | {rate:,.0f} | {rate / bare:.2f} |")
        else:
            print(f"| {label} | not installed | |")
    bare_ms, await_ms = (statistics.median(latencies) for latencies in alone.values())
    print(
        f"\nOne connection, p50: bare handler {bare_ms:.2f} ms, dispatch and await (Celery worker) {await_ms:.2f} ms."
    )


if __name__ == "__main__":
    main()
