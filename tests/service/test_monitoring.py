"""Statistics, queues and workers: of real jobs, whose counts must agree wherever they are read."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server, worker
from tests.service.conftest import ROOT, Service, problem, running
from tests.service.sample import make_app as make_celery
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.resources.monitoring.endpoints import parse_selection

pytestmark = [pytest.mark.server, pytest.mark.worker]

HOUR, DAY = 3_600, 86_400


@pytest.fixture
def url_of_ours(server: Server, tmp_path: Path) -> Iterator[str]:
    """A database with nobody else's jobs, and a worker that takes from one of its two queues."""
    url = f"redis://127.0.0.1:{server.port}/11"
    with server.client() as client:
        client.select(11)
        client.flushdb()
    options = ("--concurrency", "2", "--queues", "websample", "--without-gossip", "--without-mingle")
    options += ("--hostname", "ours@%h")
    with worker("tests.service.sample", {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}, tmp_path / "log", *options):
        yield url


@pytest.fixture
async def ours(url_of_ours: str) -> AsyncIterator[Service]:
    app = make_celery(url_of_ours)
    async with running(app) as made:
        yield made
    app.close()


async def read(service: Service, path: str) -> Any:
    response = await service.fetch(path)
    assert response.code == 200, response.body
    return json.loads(response.body)


async def submit_many(service: Service, tmp_path: Path) -> Counter[str]:
    """Submit 200 jobs of every fate, wait for their ends, and return how many of each there were."""
    jobs: list[dict[str, Any]] = []
    jobs += [{"task": "s.add", "input": {"x": number}} for number in range(100)]
    jobs += [{"task": "s.fail"}] * 40
    jobs += [{"task": "s.flaky", "input": {"path": str(tmp_path / f"flaky{number}")}} for number in range(10)]
    jobs += [{"task": "s.add", "input": {"x": 1}, "options": {"countdown": 600}}] * 20  # to be cancelled
    jobs += [{"task": "s.add", "input": {"x": 1}, "options": {"countdown": 700}}] * 10  # to stay
    jobs += [{"task": "s.add", "input": {"x": 1}, "options": {"queue": "quiet"}}] * 20  # which nobody takes
    answers = json.loads((await service.post("/v1/batches", {"jobs": jobs})).body)["jobs"]
    assert len(answers) == 200
    ids = [answer["job"]["id"] for answer in answers]
    for job_id in ids[150:170]:
        assert (await service.post(f"/v1/jobs/{job_id}/cancel")).code == 200
    found: Counter[str] = Counter()
    for job_id in ids:
        wait = {"Prefer": "wait=30"} if job_id in ids[:170] else {}
        job = json.loads((await service.fetch(f"/v1/jobs/{job_id}", headers=wait)).body)
        found[job["state"]] += 1
    return found


async def test_the_counts_agree(ours: Service, tmp_path: Path) -> None:
    found = await submit_many(ours, tmp_path)
    assert found == {"SUCCESS": 110, "FAILURE": 40, "REVOKED": 20, "PENDING": 30}
    told = await read(ours, "/v1/statistics")
    now, summary = told["now"], told["summary"]
    assert now == {
        **{"waiting": 20, "scheduled": 10, "running": 0, "done": 170},
        **{"succeeded": 110, "failed": 40, "revoked": 20, "dead": 0, "unpublished": 0},
    }
    assert {name: summary[name] for name in ("accepted", "withdrawn", "succeeded", "failed", "revoked", "lost")} == {
        **{"accepted": 200, "withdrawn": 0, "succeeded": 110, "failed": 40, "revoked": 20, "lost": 0}
    }
    assert summary["started"] == 150 + 20  # each of ten asked for two retries
    assert summary["retried"] == 20
    assert 0 < summary["run"]["p50"] <= summary["run"]["p95"] < 30
    assert 0 < summary["wait"]["p50"] <= summary["wait"]["p95"] < 30
    for step, length in (("minute", 60), ("hour", 24), ("day", 30)):
        told = await read(ours, f"/v1/statistics?step={step}")
        assert (told["step"], len(told["series"])) == (step, length)
        assert sum(each["accepted"] for each in told["series"]) == told["summary"]["accepted"] == 200
        assert told["summary"] == summary
    for query, accepted in {"task=s.fail": 40, "queue=quiet": 20, "queue=quiet&task=s.fail": 0}.items():
        assert (await read(ours, f"/v1/statistics?{query}"))["summary"]["accepted"] == accepted, query
    for state, many in found.items():
        assert len((await read(ours, f"/v1/jobs?limit=200&state={state}"))["jobs"]) == many
    queues = {queue.pop("name"): queue for queue in (await read(ours, "/v1/queues"))["queues"]}
    oldest = queues["quiet"].pop("oldest")
    assert 0 < oldest < 60
    assert queues == {
        "quiet": {"depth": 20, "scheduled": 0, "consumers": 0, "is_stuck": True, "paused_since": None},
        "websample": {
            **{"depth": 0, "scheduled": 10, "oldest": 0.0, "consumers": 1, "is_stuck": False},
            "paused_since": None,
        },
    }


async def test_workers(ours: Service) -> None:
    napping = [json.loads((await ours.submit("s.nap", {"input": {"seconds": 30}})).body)["id"] for _ in range(2)]
    async with asyncio.timeout(20):
        while not (found := (await read(ours, "/v1/workers"))["workers"]) or len(found[0]["jobs"]) < 2:
            await asyncio.sleep(0.1)
    (told,) = found
    assert told["name"].startswith("ours@")
    assert (told["alive"], told["slots"], told["queues"], sorted(told["jobs"])) == (
        *(True, 2, ["websample"], sorted(napping)),
    )
    seen = datetime.now(UTC) - datetime.fromisoformat(told["last_seen"])
    assert timedelta(seconds=-1) < seen < timedelta(seconds=10)
    for job_id in napping:
        await ours.post(f"/v1/jobs/{job_id}/cancel", {"terminate": True})


async def test_queries(service: Service) -> None:
    for query in ("step=week", "since=yesterday", "until=2026-01-01T00:00:00", "stp=day", "task=%ff", "queue=%ff"):
        problem(await service.fetch(f"/v1/statistics?{query}"), 400, "invalid-query")
    for query in ("since=0001-01-01T00:00:00Z", "until=9999-12-31T23:59:59Z", "step=day&since=1970-01-01T00:00:00Z"):
        told = await read(service, f"/v1/statistics?{query}")
        assert len(told["series"]) in (120, 60, 400)
    told = await read(service, "/v1/statistics?until=1970-01-01T00:00:00Z")
    assert told["series"] == []
    assert told["summary"]["wait"] == {"p50": None, "p95": None}


def test_selection() -> None:
    now = 1_795_604_280.0

    def selected(**given: str) -> tuple[float, float]:
        found = parse_selection({name: [value.encode()] for name, value in given.items()}, now)
        return found.since - now, found.until - now

    assert selected() == (-59 * 60, 0)
    assert selected(step="hour") == (-23 * HOUR, 0)
    assert selected(step="day", since="1970-01-01T00:00:00Z") == (-399 * DAY, 0)
    assert selected(until="2100-01-01T00:00:00Z") == (-59 * 60, 0)
    with pytest.raises(Problem):
        selected(step="second")
