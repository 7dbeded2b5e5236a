"""What is done for requests between two turns of the loop is bounded, whatever their size and number."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
    print(f"the longest turn: {1e3 * max(ticker.late):.0f} ms")
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": ["' + b"x" * 1_000_000 + b'"]}',
        b'{"input": ["' + b'\\"' * 500_000 + b'"]}',
        b'{"input": ["' + b"\\u00e9" * 170_000 + b'"]}',
        b'{"input": [[' + b",".join([b'{"%d": []}' % number for number in range(3_300)]) + b"]]}",
        b'{"input": [[' + b",".join([b"1.5e3"] * 9_990) + b"]]}",
        b"[" * 1_000_000,
        b'{"a' * 300_000,
    ],
    ids=["text", "quotes", "escapes", "objects", "numbers", "deep", "broken"],
)
async def test_the_largest_body(service: Service, body: bytes) -> None:
    assert len(body) <= service.product.max_body
    async with bounded():
        answers = await asyncio.gather(*(service.post("/v1/tasks/s.echo/jobs", body) for _ in range(3)))
    assert {answer.code for answer in answers} <= {202, 400}


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/workflows", "/v1/schedules", "/v1/schedules/turns"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"jobs": [' + b",".join([b'{"task":"s.echo","input":[[' + b",".join([b"1"] * 90) + b"]]}"] * 1_000) + b"]}",
        b'{"jobs": [' + b",".join([b"{}"] * 49_000) + b"]}",
        b'{"group": [' + b",".join([b'{"task":"s.add","input":{"z":1}}'] * 1_000) + b"]}",
        b'{"jobs": {' + b",".join([b'"%d": 1' % number for number in range(50_000)]) + b"}}",
        b'{"task":"s.echo","interval":9,"input":[[' + b",".join([b'{"a":[]}'] * 3_000) + b"]]}",
    ],
    ids=["jobs", "empty", "group", "names", "schedule"],
)
async def test_the_largest_bodies_of_many(patient_service: Service, path: str, body: bytes) -> None:
    method = "PUT" if path.endswith("/turns") else "POST"
    async with bounded():
        answer = await patient_service.fetch(path, method, body=body, headers={"Content-Type": "application/json"})
    assert answer.code < 500


async def test_the_largest_pages(patient_service: Service) -> None:
    service, tag = patient_service, "largest"
    flat: list[Any] = [[]] * 5_400  # of all JSON, lists take longest: 16 KB
    job = {"task": "s.echo", "input": [flat], "options": {"tags": [tag]}}
    group = {"group": [{"task": "s.letters", "input": [2_000]}] * 600}
    async with bounded():
        for _ in range(6):
            assert (await service.post("/v1/batches", {"jobs": [job] * 18})).code == 207
        workflow = json.loads((await service.post("/v1/workflows", group)).body)
    paths = [f"/v1/jobs?tag={tag}&limit=200&results=true", f"/v1/jobs?tag={tag}&limit=200", workflow["links"]["self"]]
    await service.fetch(workflow["links"]["self"], headers={"Prefer": "wait=60"}, request_timeout=70)
    pages = []
    async with bounded():
        for path in paths:
            answer = await service.fetch(path, headers={"Accept-Encoding": "gzip"})
            assert len(answer.body) < 2_500_000
            pages.append(json.loads(answer.body))
    assert sum("result" in job for job in pages[0]["jobs"]) > 50
    assert pages[0]["next_cursor"] is not None  # a page of 1 MiB is full
    assert len(pages[1]["jobs"]) == 108
    assert not any("result" in job for job in pages[1]["jobs"])
    steps = pages[2]["tree"]["group"]
    assert {step["result_size"] for step in steps} == {2_002}  # more than a share of 1 MiB
    assert json.loads((await service.fetch(steps[0]["links"]["result"])).body) == "x" * 2_000


async def test_a_large_result_is_read_by_itself(service: Service) -> None:
    answer = await service.submit("s.letters", {"input": [1_000_000]}, wait=20)
    job = json.loads(answer.body)
    assert (job["state"], job["result_size"], "result" in job) == ("SUCCESS", 1_000_002, False)
    async with bounded():
        read = await service.fetch(job["links"]["self"])
        whole = await service.fetch(job["links"]["result"])
    assert json.loads(read.body)["result_size"] == 1_000_002
    assert whole.headers["Content-Length"] == "1000002"
    assert json.loads(whole.body) == "x" * 1_000_000


async def test_errors_and_progress_are_bounded(service: Service) -> None:
    answer = await service.submit("s.fail", {"input": ["x" * 500_000]}, wait=20)
    detail = json.loads(answer.body)["error"]["detail"]
    assert len(detail) == 8_001
    assert detail.endswith("x…")
    job = json.loads((await service.submit("s.tells", {"input": [300_000]}, wait=20)).body)
    assert job["state"] == "SUCCESS"
    with service.jobs.ledger.events.follow(job["id"]) as events:
        told = [json.loads(event.data) async for event in events]
    assert all(len(json.dumps(each)) < 17_000 for each in told)
    first, second = (each for each in told if isinstance(each, str) or "current" in each)
    assert first == {"current": 1, "total": 3, "message": "x" * 1_000 + "…"}
    assert second == "<1,200,047 characters, of which 16,000 can be told>"
    assert {"state": "BAKING", "progress": "<300,011 characters, of which 16,000 can be told>"} in told


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


async def test_a_batch_obeys_the_limits_of_each_job(web_url: str, tmp_path: Path) -> None:
    """And one that breaks what it comes through is a problem of its own: the others are accepted."""
    key, entry = made(owner="bounded", max_unfinished=3)
    keys = await asyncio.to_thread(lambda: Keyring(write(tmp_path / "keys.json", entry)))
    app: Celery = make_celery(web_url)
    app.conf.task_routes = _raises_for_seven
    async with running(app, keys=keys) as service:
        numbers, later = [7, *range(8)], {"countdown": 60}
        body = {"jobs": [{"task": "s.add", "input": [number], "options": later} for number in numbers]}
        answers = await service.post("/v1/batches", body, {"Authorization": f"Bearer {key}"})
        told = json.loads(answers.body)["jobs"]
        assert [each["status"] for each in told if "job" in each] == [202] * 3
        codes = [each["problem"]["code"] for each in told if "problem" in each]
        assert sorted(codes) == ["internal-error"] * 2 + ["too-many-unfinished-jobs"] * 4
        assert told[0]["problem"]["status"] == told[-1]["problem"]["status"] == 500
        for each in told:
            if "job" in each:
                path = f"{each['job']['links']['self']}/cancel"
                await service.post(path, {}, {"Authorization": f"Bearer {key}"})
    app.close()


def _raises_for_seven(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> None:
    """As a router of the app's own may."""
    if args and args[0] == 7:
        raise ValueError("no seven")


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
