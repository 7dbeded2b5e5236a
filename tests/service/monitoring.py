"""Jobs of every fate, and reading what is told of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.service.site import Service


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
