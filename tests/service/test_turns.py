"""What is done for requests between two turns of the loop is bounded, whatever their size and number."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from celery import Celery

from tests.service.keys import made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import Service, problem, running
from tests.ticker import watched
from tornado_celery_bridge.service.access.keys import Keyring

#: Seconds that a turn may take here; the docs' figure is of a quiet machine.
MOST = 0.5


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    async with watched() as ticker:
        yield
    assert max(ticker.late) < MOST


async def test_batches_of_rubbish(service: Service) -> None:
    wrong = {"task": "s.add", "input": [1], "options": {f"priority{number}": 1 for number in range(61)}}
    body = json.dumps({"jobs": [wrong] * 1000}, separators=(",", ":")).encode()
    async with bounded():
        answers = await asyncio.gather(*(service.post("/v1/batches", body) for _ in range(4)))
    for answer in answers:
        told = json.loads(answer.body)["jobs"]
        assert {each["status"] for each in told} == {422}
        assert len(told[0]["problem"]["errors"]) == 50
        assert "did you mean priority?" in told[0]["problem"]["errors"][0]["detail"]


async def test_one_document_of_which_all_is_wrong(service: Service) -> None:
    body = {"input": [1], "options": {f"prioritty{number}": 1 for number in range(9_000)}}
    async with bounded():
        answer = await service.post("/v1/tasks/s.add/jobs", body)
    assert len(problem(answer, 422, "invalid-options")["errors"]) == 50


async def test_lists_without_results(service: Service) -> None:
    tag = "turns"
    values = ["small", *("x" * 200_000 for _ in range(20))]
    submitted = await asyncio.gather(
        *(service.submit("s.echo", {"input": [value], "options": {"tags": [tag]}}, wait=20) for value in values)
    )
    assert [len(json.loads(answer.body)["result"]) for answer in submitted] == [len(value) for value in values]
    async with bounded():
        plain = await service.fetch(f"/v1/jobs?tag={tag}&limit=50")
        full = await service.fetch(f"/v1/jobs?tag={tag}&limit=50&results=true")
    assert len(json.loads(plain.body)["jobs"]) == len(values)
    assert not any("result" in job for job in json.loads(plain.body)["jobs"])
    assert [job["result"] for job in json.loads(full.body)["jobs"] if "result" in job] == ["small"]
    assert len(full.body) < 100_000


async def test_a_batch_costs_as_many_requests_as_it_has_jobs(web_url: str, tmp_path: Path) -> None:
    key, entry = made(owner="turns", rate="5/h")
    keys = await asyncio.to_thread(lambda: Keyring(write(tmp_path / "keys.json", entry)))
    app: Celery = make_celery(web_url)
    async with running(app, keys=keys) as service:
        body = {"jobs": [{"task": "s.add", "input": [number]} for number in range(8)]}
        headers = {"Authorization": f"Bearer {key}"}
        answers = json.loads((await service.post("/v1/batches", body, headers)).body)["jobs"]
        assert sorted(answer["status"] for answer in answers) == [202] * 5 + [429] * 3
        assert {answer["problem"]["code"] for answer in answers if "problem" in answer} == {"rate-limited"}
        assert (await service.post("/v1/batches", body, headers)).code == 429
    app.close()


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"time_limit": 1, "soft_time_limit": 2}, "/options/time_limit"),
        ({"soft_time_limit": 61}, "/options/soft_time_limit"),  # the task's own time_limit is 60 s
    ],
)
async def test_a_hard_limit_below_the_soft_one(service: Service, options: dict[str, int], pointer: str) -> None:
    answer = await service.submit("s.nap", {"input": [0], "options": options})
    assert [fault["pointer"] for fault in problem(answer, 422, "invalid-options")["errors"]] == [pointer]
    batch = {"jobs": [{"task": "s.nap", "input": [0], "options": options}, {"task": "s.add", "input": [1]}]}
    answers = json.loads((await service.post("/v1/batches", batch)).body)["jobs"]
    assert [each["status"] for each in answers] == [422, 202]
