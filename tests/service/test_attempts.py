"""Each attempt at a job, by HTTP and by ``tcb``, with a real worker."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.servers import wait_for
from tests.service.keys import Guarded
from tests.service.site import Service, problem


async def attempts(service: Service, job_id: str) -> list[dict[str, Any]]:
    answer = await service.fetch(f"/v1/jobs/{job_id}/attempts")
    assert answer.code == 200, answer.body
    found: list[dict[str, Any]] = json.loads(answer.body)["attempts"]
    return found


async def ended(service: Service, task: str, given: list[Any]) -> dict[str, Any]:
    """Return a job that has ended."""
    job: dict[str, Any] = json.loads((await service.submit(task, {"input": given}, wait=20)).body)
    while not job["done"]:
        found = await service.fetch(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=20"})
        job = json.loads(found.body)
    return job


async def test_a_task_that_is_retried(service: Service, tmp_path: Path) -> None:
    job = await ended(service, "s.flaky", [str(tmp_path / "tries")])
    first, second, third = await attempts(service, job["id"])
    assert [each["outcome"] for each in (first, second, third)] == ["retried", "retried", "succeeded"]
    assert first["started_at"] <= first["ended_at"] <= second["started_at"]
    assert third["ended_at"] == job["finished_at"]
    assert (first["error"]["exception"], first["error"]["detail"]) == ("builtins.OSError", "not yet")
    assert third["error"] is None
    assert len({each["worker"] for each in (first, second, third)}) == 1


async def test_a_worker_that_dies(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    job = json.loads((await service.submit("s.pid", {"input": [str(path)]})).body)
    await asyncio.to_thread(wait_for, lambda: path.exists() and path.read_text())
    os.kill(int(await asyncio.to_thread(path.read_text)), signal.SIGKILL)
    ended = await service.fetch(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"})
    assert json.loads(ended.body)["state"] == "SUCCESS"
    assert [each["outcome"] for each in await attempts(service, job["id"])] == ["lost", "succeeded"]


async def test_what_it_logged_and_saved(service: Service) -> None:
    job = await ended(service, "s.log", [2])
    (only,) = await attempts(service, job["id"])
    assert [(line["level"], line["message"]) for line in only["log"]] == [("WARNING", "line 0"), ("WARNING", "line 1")]
    job = await ended(service, "s.goes_on", [])
    (only,) = await attempts(service, job["id"])
    assert only["outcome"] == "failed"
    assert only["checkpoint"]["value"] == {"items": {"done": 3}}
    assert only["error"]["detail"] == "half way"
    assert "half way" in only["error"]["traceback"]


async def test_who_may_see_it(site: Guarded) -> None:
    job = json.loads((await site.submit("alice", "s.fail", {}, Prefer="wait=20")).body)
    path = f"/v1/jobs/{job['id']}/attempts"
    problem(await site.fetch(None, path), 401, "unauthorized")
    problem(await site.fetch("bob", path), 404, "unknown-job")
    for name, sees in (("alice2", False), ("admin", True)):
        (only,) = json.loads((await site.fetch(name, path)).body)["attempts"]
        assert only["error"]["detail"] == "as asked"
        assert ("traceback" in only["error"]) == sees, name
