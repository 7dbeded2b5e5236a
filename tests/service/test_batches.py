"""Many jobs in one request."""

import json
from typing import Any

import pytest

from tests.service.site import Service, problem, until


async def test_each_is_answered_as_if_alone(service: Service) -> None:
    response = await service.post(
        "/v1/batches",
        {
            "jobs": [
                {"task": "s.add", "input": [1]},
                {"task": "s.hidden"},
                {"task": "s.add", "input": {"z": 1}},
                {"task": "s.add", "input": {"x": 2}, "options": {"tags": ["b"]}, "extra": 1},
                7,
                {"task": "s.echo", "input": {"value": "é"}},
            ]
        },
    )
    assert response.code == 207
    answers = json.loads(response.body)["jobs"]
    assert [answer["status"] for answer in answers] == [202, 404, 422, 422, 422, 202]
    assert answers[2]["problem"]["errors"][0]["pointer"] == "/input/x"
    assert answers[3]["problem"]["errors"][0]["pointer"] == "/extra"
    for answer, result in ((answers[0], 2), (answers[5], "é")):
        done = await service.fetch(answer["job"]["links"]["self"], headers={"Prefer": "wait=10"})
        assert json.loads(done.body)["result"] == result


async def test_a_thousand(patient_service: Service) -> None:
    service = patient_service
    body = {"jobs": [{"task": "s.add", "input": [number], "options": {"queue": "quiet"}} for number in range(1000)]}
    before = await service.messages()
    response = await service.post("/v1/batches", body)
    answers = json.loads(response.body)["jobs"]
    assert {answer["status"] for answer in answers} == {202}
    assert len({answer["job"]["id"] for answer in answers}) == 1000
    assert await service.messages() == before + 1000


async def test_again_with_the_same_key(service: Service) -> None:
    body = {"jobs": [{"task": "s.add", "input": [number]} for number in range(3)]}
    key = {"Idempotency-Key": "batch-1"}
    first = await service.post("/v1/batches", body, key)
    body["jobs"].append({"task": "s.add", "input": [3]})
    again = json.loads((await service.post("/v1/batches", body, key)).body)["jobs"]
    ids = [each["job"]["id"] for each in json.loads(first.body)["jobs"]]
    assert [each["job"]["id"] for each in again[:3]] == ids  # each as it is now
    assert again[3]["status"] == 202
    body["jobs"][0] = {"task": "s.add", "input": [9]}
    other = json.loads((await service.post("/v1/batches", body, key)).body)["jobs"]
    assert other[0]["problem"]["code"] == "idempotency-key-reused"
    assert [each["job"]["id"] for each in other[1:]] == [*ids[1:], again[3]["job"]["id"]]


@pytest.mark.parametrize("body", [{}, {"jobs": []}, {"jobs": 1}, {"jobs": [{}] * 1001}, {"jobs": [{}], "more": 1}])
async def test_bodies_that_do_not_fit(service: Service, body: Any) -> None:
    problem(await service.post("/v1/batches", body), 422, "invalid-body")
    await until(lambda: not service.lifecycle._requests)
