"""
Measure what clients cost that only wait: ``python -m benchmarks.readers``. It prints the time of ``/healthz`` on one
web process: alone, beside 2,000 requests that wait for their jobs (``Prefer: wait``), and beside 5,000 readers of
events.
"""

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.servers import Server, free_port, wait_for

JOB = json.dumps({"input": {"x": 1}, "options": {"queue": "quiet"}})
SUBMIT = "/v1/tasks/s.add/jobs"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(port: int, method: str, path: str, body: str = "", header: str = "") -> Connection:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{header}\r\n"
    writer.write((head + body).encode())
    return reader, writer


async def answer(port: int, method: str, path: str, body: str = "") -> bytes:
    reader, writer = await ask(port, method, path, body)
    received = await reader.read()
    writer.close()
    return received


async def show(port: int, pid: int, beside: str) -> None:
    times = []
    for _ in range(1000):
        begun = time.perf_counter()
        await answer(port, "GET", "/healthz")
        times.append((time.perf_counter() - begun) * 1000)
    times.sort()
    print(f"| {beside} | {times[500]:.1f} | {times[990]:.1f} | {times[-1]:.1f} | {used(pid)} |")


def used(pid: int) -> str:
    """Return the memory of a process in MB and the number of its threads, as two cells of the table."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024
    threads = re.findall(r"Threads:\s+(\d+)", status)[0]
    return f"{memory} | {threads}"


async def measure(port: int, pid: int) -> None:
    print("| `/healthz`, ms | p50 | p99 | max | MB | threads |\n| --- | --- | --- | --- | --- | --- |")
    await show(port, pid, "alone")
    waiting: list[Connection] = []
    for number in range(2000):
        waiting.append(await ask(port, "POST", SUBMIT, JOB, "Prefer: wait=60\r\n"))
        if number % 100 == 99:
            await asyncio.sleep(0.15)
    await asyncio.sleep(3)
    await show(port, pid, "beside 2,000 waiting POSTs")
    for _, writer in waiting:
        writer.close()
    made = json.loads((await answer(port, "POST", SUBMIT, JOB)).split(b"\r\n\r\n", 1)[1])
    reading: list[Connection] = []
    for number in range(5000):
        reading.append(await ask(port, "GET", made["links"]["events"]))
        if number % 100 == 99:
            await asyncio.sleep(0.15)
    await asyncio.sleep(3)
    await show(port, pid, "beside 5,000 readers of events")
    for _, writer in reading:
        writer.close()


def main() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65_536, limit), limit))
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder)).start()
        port = free_port()
        settings = {"SAMPLE_URL": server.url, "CELERY_APP": "tests.service.sample", "PORT": str(port)}
        web = subprocess.Popen(
            [sys.executable, "-m", "tornado_celery_bridge", "serve"],
            env={**os.environ, **settings},
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}/readyz"
            wait_for(lambda: subprocess.run(["curl", "-sf", url], capture_output=True).returncode == 0)
            asyncio.run(measure(port, web.pid))
        finally:
            web.kill()
            web.wait()
            server.stop()


if __name__ == "__main__":
    main()
