"""Statistics, queues and workers: of real jobs, whose counts must agree wherever they are read."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.service.monitoring import read, submit_many
from tests.service.site import Service, problem
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.http.query import parse_query
from tornado_celery_bridge.service.resources.monitoring.endpoints import StatisticsQuery

HOUR, DAY = 3_600, 86_400


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
    early = "since=0001-01-01T00:00:00Z"
    for query in (
        early,
        "step=week",
        "since=yesterday",
        "until=2026-01-01T00:00:00",
        "stp=day",
        "task=%ff",
        "queue=%ff",
    ):
        problem(await service.fetch(f"/v1/statistics?{query}"), 400, "invalid-query")
    for query in ("since=1970-01-01T00:00:00Z", "until=8999-12-31T23:59:59Z", "step=day&since=1970-01-01T00:00:00Z"):
        told = await read(service, f"/v1/statistics?{query}")
        assert len(told["series"]) in (120, 60, 400)
    told = await read(service, "/v1/statistics?until=1970-01-01T00:00:00Z")
    assert told["series"] == []
    assert told["summary"]["wait"] == {"p50": None, "p95": None}


def test_the_period_that_a_query_asks_for() -> None:
    now = 1_795_604_280.0

    def selected(**given: str) -> tuple[float, float]:
        query = parse_query(StatisticsQuery, {name: [value.encode()] for name, value in given.items()})
        since, until = query.period(now)
        return since - now, until - now

    assert selected() == (-59 * 60, 0)
    assert selected(step="hour") == (-23 * HOUR, 0)
    assert selected(step="day", since="1970-01-01T00:00:00Z") == (-399 * DAY, 0)
    assert selected(until="2100-01-01T00:00:00Z") == (-59 * 60, 0)
    with pytest.raises(Problem):
        selected(step="second")
