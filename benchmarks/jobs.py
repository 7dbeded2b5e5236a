"""
Measure what the ledger costs: ``python -m benchmarks.jobs`` (needs wrk). All figures are of one run:

- submitting over HTTP (validation, ledger, publishing; and also with an API key and an idempotency key), compared with
  a bare Tornado handler that parses the same JSON, and with the submit endpoints of Flower and celery-fastapi. The
  latter runs in an interpreter that ``BENCH_PYTHON`` names (see :mod:`benchmarks.peers`), or is left out;
- the memory of a finished job, with and without its events;
- the time of a page of a list among 100,000 jobs.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

from benchmarks.peers import python_of
from tests.servers import Server, free_port, wait_for
from tornado_celery_bridge.ledger import Filter, JobRecord, Ledger

HERE = Path(__file__).parent
BODY = json.dumps({"input": {"x": 2, "y": 2}})
FLOWER_BODY = json.dumps({"args": [2, 2]})


class Bare(tornado.web.RequestHandler):
    def post(self) -> None:
        body = json.loads(self.request.body)
        self.set_status(202)
        self.finish({"id": str(uuid.uuid4()), "input": body["input"]})


async def serve_bare() -> None:
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/.*", Bare)], log_function=id))
    sockets = tornado.netutil.bind_sockets(int(os.environ["PORT"]), "127.0.0.1")
    server.add_sockets(sockets)
    await asyncio.Event().wait()


def rate(command: list[str], path: str, body: str, header: str, server: Server, seconds: int, **more: str) -> float:
    """Return how many requests per second a process answers with 2xx."""
    port = str(free_port())
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "PORT": port, "BENCH_REDIS": server.url, **more}
    process = subprocess.Popen(
        [part.replace("{port}", port) for part in command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        headers = f'wrk.method = "POST"\nwrk.body = {body!r}\nwrk.headers["Content-Type"] = "application/json"\n'
        script.write(headers + header)
        script.flush()
        load = ["wrk", "-t1", "-c64", "-s", script.name, f"http://127.0.0.1:{port}{path}"]
        try:
            wait_for(lambda: subprocess.run(["curl", "-s", f"127.0.0.1:{port}"], capture_output=True).returncode == 0)
            subprocess.run([*load, "-d2s"], capture_output=True, check=True)
            report = subprocess.run([*load, f"-d{seconds}s"], capture_output=True, check=True, text=True).stdout
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with server.client() as client:
                client.flushall()
    if "Non-2xx" in report:
        raise SystemExit(f"{command}: errors under load\n{report}")
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", report)[0])


def submitting(server: Server, folder: Path, rounds: int, seconds: int) -> None:
    keys = folder / "keys.json"
    make = [sys.executable, "-m", "tornado_celery_bridge", "keys", "make", "--owner", "bench", "--scopes", "submit"]
    key = subprocess.check_output(make, env={**os.environ, "API_KEYS_FILE": str(keys)}, text=True).strip()
    numbered = (
        f'wrk.headers["Authorization"] = "Bearer {key}"\nlocal run, number = os.time(), 0\nrequest = function()\n'
        'number = number + 1\nwrk.headers["Idempotency-Key"] = "k" .. run .. "-" .. number\nreturn wrk.format()\nend\n'
    )
    web = [sys.executable, "-m", "tornado_celery_bridge", "serve"]
    bare = [sys.executable, "-m", "benchmarks.jobs", "--bare"]
    flower = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", "flower"]
    path = "/v1/tasks/bench.add/jobs"
    ours = {"CELERY_APP": "benchmarks.celery_app"}
    ways: dict[str, Any] = {
        "bare handler that parses the same JSON": (bare, "/", BODY, "", {}),
        "**submit a job**": (web, path, BODY, "", ours),
        "**with an API key and an idempotency key**": (web, path, BODY, numbered, ours | {"API_KEYS_FILE": str(keys)}),
        "Flower `async-apply`": (
            [*flower, "--address=127.0.0.1", "--port={port}"],
            "/api/task/async-apply/bench.add",
            FLOWER_BODY,
            "",
            {"FLOWER_UNAUTHENTICATED_API": "1"},
        ),
    }
    if python := python_of("celery_fastapi"):
        uvicorn = [python, "-m", "uvicorn", "benchmarks.celery_fastapi:service", "--port={port}"]
        quiet = ["--no-access-log", "--log-level=warning"]
        ways["celery-fastapi"] = ([*uvicorn, *quiet], "/bench/add", json.dumps({"x": 2, "y": 2}), "", {})
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (command, target, body, header, more) in ways.items():
            rates[name].append(rate(command, target, body, header, server, seconds, **more))
    whole = statistics.median(next(iter(rates.values())))
    print("| POST | req/s | of a bare handler |\n| --- | --- | --- |")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {statistics.median(found) / whole:.2f} |")


async def many(server: Server, count: int) -> None:
    from benchmarks.celery_app import app
    from tornado_celery_bridge.ledger.blocking import WorkerLedger

    app.conf.update(result_backend=server.url)
    ledger = Ledger(app)
    worker = WorkerLedger(app)
    client = server.client()

    def used() -> int:
        return int(client.info("memory")["used_memory"])

    payload = {"x": 1}
    before = used()
    for start in range(0, count, 500):
        records = [
            JobRecord(
                id=str(uuid.uuid4()),
                task=f"tasks.text.number_{number % 10}",
                owner=f"owner-{number % 100}",
                options={},
                tags=["tag"] if number % 2 else [],
                queue="celery",
                created_at=1_795_608_000_000,
            )
            for number in range(start, start + 500)
        ]
        await asyncio.gather(*(ledger.jobs.accept(record, payload, message={}) for record in records))

        def run(records: list[JobRecord] = records) -> None:
            for number, record in enumerate(records):
                worker.start(record.id, record.task, record.id, worker="celery@host.example")
                failed = number % 10 == 0
                error = {"type": "ValueError", "module": "builtins", "message": "no"}
                worker.finish(record.id, "FAILURE" if failed else "SUCCESS", error if failed else 1)

        await asyncio.to_thread(run)
    with_events = (used() - before) / count
    for key in client.scan_iter("{tcb}events:*", count=1000):
        client.unlink(key)
    await asyncio.sleep(1)
    print(f"\nA finished job of {count:,}: {with_events:,.0f} bytes with its events, {(used() - before) / count:,.0f} "
          "after they have expired (an hour after its end).")  # fmt: skip
    print("\n| a page of 50 among them | p50 ms | max ms | pages to the first job found |\n| --- | --- | --- | --- |")
    for name, asked in {
        "all": Filter(),
        "task": Filter(task="tasks.text.number_3"),
        "state": Filter(state="FAILURE"),
        "owner, state and tag": Filter(owner="owner-1", state="SUCCESS", tags=("tag",)),
        "two that exclude each other": Filter(task="tasks.text.number_3", state="FAILURE"),
        "those that ran for long": Filter(min_duration=60.0),
    }.items():
        times, cursor, pages, found = [], None, 0, 0
        for _ in range(100):
            begun = time.perf_counter()
            page = await ledger.jobs.find(asked, limit=50, cursor=cursor)
            times.append((time.perf_counter() - begun) * 1000)
            cursor = page.cursor
            pages += not found
            found += len(page.jobs)
            if cursor is None:
                break
        print(f"| {name} | {statistics.median(times):.1f} | {max(times):.1f} | {pages if found else 'none'} |")
    await ledger.close()
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load, for each row and round")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        asyncio.run(serve_bare())
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "redis", "--appendonly", "no").start()
        os.environ["BENCH_REDIS"] = server.url
        os.environ["ALLOW_UNSAFE"] = "no-aof,early-acks,lost-fails"  # nothing here has to survive a crash
        try:
            if options.rounds:
                submitting(server, Path(folder), options.rounds, options.seconds)
            if options.jobs:
                asyncio.run(many(server, options.jobs))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
