"""What can't be read or shown of one job breaks no list, no stream and no other job."""

import json
from typing import Any

import pytest

from tests.service.keys import Guarded

DEEP = b"[" * 100_000 + b"]" * 100_000


async def shown(town: Guarded, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a job as it is shown by itself and in lists."""
    alone = await town.fetch("alice", job["links"]["self"])
    assert alone.code == 200, alone.body
    found = [json.loads(alone.body)]
    for query in ("limit=3", "limit=3&results=true", "limit=3&state=SUCCESS&results=true"):
        answer = await town.fetch("alice", f"/v1/jobs?{query}")
        assert answer.code == 200, answer.body
        found += [each for each in json.loads(answer.body)["jobs"] if each["id"] == job["id"]]
    return found


async def done(town: Guarded, task: str, given: Any) -> dict[str, Any]:
    answer = await town.submit("alice", task, given, Prefer="wait=20")
    assert answer.code == 200, answer.body
    job: dict[str, Any] = json.loads(answer.body)
    assert job["state"] == "SUCCESS", job
    return job


@pytest.mark.parametrize("depth", [150, 300, 900])
async def test_what_a_task_returns_nested_deep(town: Guarded, depth: int) -> None:
    job = await done(town, "s.nests", [depth])
    for each in await shown(town, job):
        if "result" in each:
            levels = json.dumps(each["result"]).count("[")
            assert levels == depth if depth < 200 else 150 < levels <= 200
    whole = await town.fetch("alice", f"{job['links']['self']}/result")
    assert whole.body == b"[" * depth + b"]" * depth
    stream = await town.fetch("alice", job["links"]["events"])
    assert stream.body.count(b"event: state") == 3
    assert b"event: end" in stream.body
    chain = {"chain": [{"task": "s.nests", "input": [depth]}]}
    body = json.dumps(chain).encode()
    workflow = await town.fetch("alice", "/v1/workflows", "POST", body=body, headers={"Prefer": "wait=20"})
    assert json.loads(workflow.body)["state"] == "SUCCESS"


@pytest.mark.parametrize("broken", [b"[1", b"", b"\xff\xfe", DEEP], ids=["cut", "empty", "bytes", "deep"])
async def test_what_is_stored_and_can_not_be_read(town: Guarded, broken: bytes) -> None:
    redis = town.service.jobs.ledger.redis
    job, other = [await done(town, "s.echo", [number]) for number in range(2)]
    await redis.call("SET", f"{redis.prefix}value:{job['id']}", broken)
    for each in await shown(town, job):
        assert "can't be read" in each.get("result", "can't be read")
    for field in ("tags", "options"):
        await redis.call("HSET", f"{redis.prefix}job:{job['id']}", field, broken)
    await redis.call("HSET", f"{redis.prefix}job:{job['id']}", "worker", b"\xff")
    for each in await shown(town, job):
        assert each["tags"] == []
    assert len(await shown(town, other)) == 4
    await redis.call("HSET", f"{redis.prefix}job:{job['id']}", "state", "FAILURE")
    failed = (await shown(town, job))[0]
    assert "can't be read" in failed["error"]["detail"]
    await redis.call("SET", f"{redis.prefix}value:{job['id']}", '"text"')
    assert (await shown(town, job))[0]["error"]["detail"] == "text"
