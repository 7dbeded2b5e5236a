"""
The hostile hour, in minutes: one tenant works, and others attack, all at once.

The service, its worker and beat are the delivered ones. What is measured is printed; docs/reliability.md has the
figures of one run of the long form.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from blockbuster import BlockBuster
from tornado.httpclient import HTTPError, HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from tests.servers import Database, worker
from tests.service.hostile import CLOSED, SCHEDULES
from tests.service.keys import made, write
from tests.service.processes import Web, serving
from tests.service.site import ROOT, environment
from tornado_celery_bridge.service.access.keys import ROLES

#: Valid jobs a second.
RATE = 20


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    operator = list(ROLES["operator"])
    people: dict[str, dict[str, Any]] = {
        "alice": {"owner": "alice", "scopes": operator},
        "mallory": {"owner": "mallory", "scopes": operator, "tasks": ["s.add", "s.echo"]},
        "viewer": {"owner": "mallory", "scopes": list(ROLES["viewer"])},
    }
    all_made = {name: made(**fields) for name, fields in people.items()}
    path = write(tmp_path / "keys.json", *(entry for _, entry in all_made.values()))
    return path, {name: key for name, (key, _) in all_made.items()}


@pytest.fixture
def web(database: Database, keys: tuple[Path, dict[str, str]], tmp_path: Path) -> Iterator[Web]:
    """`tcb serve`, a worker and beat, each a process."""
    settings = {"SAMPLE_URL": database.url, "CELERY_APP": "tests.service.sample", "PYTHONPATH": str(ROOT)}
    options = ["--concurrency", "2", "--queues", "websample", "--without-gossip", "--without-mingle", "--beat"]
    options += ["--schedule", str(tmp_path / "beat")]
    served = {**settings, "API_KEYS_FILE": str(keys[0]), "DATA_DIR": str(tmp_path), "ALLOW_UNSAFE": "no-aof"}
    with (
        worker("tests.service.sample", settings, tmp_path / "worker.log", *options),
        serving(tmp_path / "web.log", **served) as made,
    ):
        yield made


class Tenant:
    """Sends jobs, evenly, and asks whether the service is healthy; then sees that all jobs have ended."""

    def __init__(self, web: Web, key: str) -> None:
        self._url, self._port, self._key = f"http://127.0.0.1:{web.port}", web.port, key
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_clients=500, defaults={"request_timeout": 90})
        self._accepted: dict[int, str] = {}
        #: Seconds from a job's acceptance to its end, and from a request to its answer.
        self.jobs: list[float] = []
        self.health: list[float] = []

    async def work(self, seconds: float) -> None:
        """Submit for so many seconds, and return when all jobs have ended."""
        begun = time.monotonic()
        asking = asyncio.ensure_future(self._ask())
        async with asyncio.TaskGroup() as group:
            for number in range(round(seconds * RATE)):
                await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
                group.create_task(self._submit(number))
        asking.cancel()
        await asyncio.wait([asking])
        for number, path in self._accepted.items():
            job: dict[str, Any] = {"done": False}
            while not job["done"]:
                job = json.loads((await self._fetch(path, headers={"Prefer": "wait=20"})).body)
            assert (job["state"], job.get("result")) == ("SUCCESS", number + 1), job
            created, finished = (datetime.fromisoformat(str(job[name])) for name in ("created_at", "finished_at"))
            self.jobs.append((finished - created).total_seconds())
        self._client.close()

    async def _submit(self, number: int) -> None:
        """Submit one job, again and again until it is accepted, as a client with a key for it may."""
        headers = {"Idempotency-Key": f"job-{number}"}
        body = json.dumps({"input": [number, 1]})
        while True:
            with contextlib.suppress(OSError, HTTPError):
                answer = await self._fetch("/v1/tasks/s.add/jobs", method="POST", body=body, headers=headers)
                assert answer.code in (200, 202, 409, 503), answer.body
                if answer.code < 300:
                    self._accepted[number] = answer.headers["Location"]
                    return
            await asyncio.sleep(1)

    async def _fetch(self, path: str, *, headers: dict[str, str], **options: Any) -> HTTPResponse:
        headers = {"Authorization": f"Bearer {self._key}", **headers}
        return await self._client.fetch(f"{self._url}{path}", headers=headers, raise_error=False, **options)

    async def _ask(self) -> None:
        """Ask by new connections, as whoever watches over a process does."""
        while True:
            begun = time.monotonic()
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                with contextlib.closing(writer):
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert b" 200 " in await reader.read()
            self.health.append(time.monotonic() - begun)
            await asyncio.sleep(0.02)


def resident(pid: int) -> float:
    """Return the megabytes that a process has in memory."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize(
    ("seconds", "streams"),
    [(20, 300), pytest.param(600, 3_000, marks=[pytest.mark.nightly, pytest.mark.timeout(1_200)])],
)
async def test_a_tenant_works_among_attackers(
    web: Web,
    database: Database,
    keys: tuple[Path, dict[str, str]],
    blockbuster: BlockBuster,
    seconds: int,
    streams: int,
) -> None:
    blockbuster.deactivate()  # this process measures; what blocks or not is in the other one
    asyncio.get_running_loop().set_debug(False)
    client: redis.Redis = database.client()
    never = {"input": [1], "options": {"countdown": 86_400}}
    mallory = {"Authorization": f"Bearer {keys[1]['mallory']}"}
    status, job = web.fetch("/v1/tasks/s.add/jobs", never, **mallory)
    assert status == 202
    tenant = Tenant(web, keys[1]["alice"])
    before, log_before = resident(web.process.pid), web.log.stat().st_size
    stored_before = int(client.info("memory")["used_memory"]) / 1e6
    attackers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service.hostile", str(web.port), str(seconds), str(streams)),
        env=environment(HOSTILE_KEYS=json.dumps({**keys[1], "job": job["id"]})),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await tenant.work(seconds)
        written, _ = await attackers.communicate()
    finally:
        if attackers.returncode is None:
            attackers.kill()
            await attackers.wait()
    answers = json.loads(written)
    health, jobs = sorted(tenant.health), sorted(tenant.jobs)
    grown, stored = resident(web.process.pid) - before, int(client.info("memory")["used_memory"]) / 1e6 - stored_before
    log = web.log.read_bytes()[log_before:]
    requests = log.count(b"\n")
    client.close()
    print(f"{seconds} s, load {os.getloadavg()[0]:.1f}; attackers: {answers}")
    print(f"/healthz: {len(health)}, p50 {1e3 * health[len(health) // 2]:.1f} ms, ", end="")
    print(f"p99 {1e3 * health[int(len(health) * 0.99)]:.1f} ms, longest {1e3 * health[-1]:.1f} ms")
    print(f"jobs: {len(jobs)}, p50 {jobs[len(jobs) // 2]:.3f} s, longest {jobs[-1]:.2f} s")
    print(f"memory: web {before:.0f} MB and {grown:.0f} more, Redis {stored:.1f} MB more; ", end="")
    print(f"log: {requests} lines, {len(log)} bytes")

    assert len(jobs) == seconds * RATE
    # All attacks have happened, as far as a busy machine comes, and were answered as they should be.
    schedules = answers.get("/v1/schedules 201", 0) + answers.get("/v1/schedules 429", 0)
    assert answers["/v1/schedules 201"] == min(schedules, 100)
    expected = {"/v1/batches 207", "flood viewer 403", "flood nobody 401", "stream 200", CLOSED}
    assert answers.keys() <= {*expected, "/v1/schedules 201", "/v1/schedules 429", "stream 429"}
    assert {"flood viewer 403", "flood nobody 401", "stream 200"} <= answers.keys()
    # Nothing grows without a bound, and nobody else is kept out: how fast, only a machine can tell that is not busy.
    if seconds >= 600:
        assert schedules == SCHEDULES
        assert expected <= answers.keys()
        assert health[int(len(health) * 0.99)] < 0.1
        assert jobs[-1] < 10
    assert grown < 200
    assert stored < 50
    assert len(log) / requests < 300
    assert b"Traceback" not in log
