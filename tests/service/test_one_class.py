"""A new route with a body, a query parameter and a problem of its own is one class in one file, and a page's marker."""

import json
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field
from typing_extensions import TypedDict

from tests.service import tables
from tests.service.keys import Guarded
from tests.service.site import Service, problem
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.endpoint import Answer, post
from tornado_celery_bridge.service.http.openapi import Operation, make_document
from tornado_celery_bridge.service.http.problems import Kind
from tornado_celery_bridge.service.http.query import Query
from tornado_celery_bridge.service.process.routes import ENDPOINTS
from tornado_celery_bridge.service.resources.jobs.endpoint import JobId, ResourceEndpoint

# The route. This is all of it.

TOO_LOUD = Kind("too-loud", 409, "More than three times.")


class Greeting(Body):
    """Whom to greet."""

    name: Annotated[str, Field(min_length=1)]


class Loudness(Query):
    """How loud to be."""

    times: Annotated[int, Field(ge=1, description="How often.")] = 1


class Greeted(TypedDict):
    """What was said."""

    job: str
    said: list[str]


class GreetJob(ResourceEndpoint):
    """
    Greet a job.

    Once, or several times.
    """

    route = post("/v1/jobs/{id}/greet", scope="cancel", tag="jobs")
    answers: ClassVar = {200: Answer("The service.")}
    problems: ClassVar = (TOO_LOUD,)

    async def answer(self, id: JobId, body: Greeting, query: Loudness) -> Greeted:
        if query.times > 3:
            raise TOO_LOUD(f"{query.times} times is too loud.")
        return {"job": id, "said": [f"hello {body.name}"] * query.times}


# What follows from it.


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints = (*ENDPOINTS, GreetJob)
    monkeypatch.setattr("tornado_celery_bridge.service.process.application.ENDPOINTS", endpoints)
    monkeypatch.setattr(tables, "SHOWN", endpoints)


async def test_it_is_served_and_checked(service: Service) -> None:
    answer = await service.post("/v1/jobs/j/greet?times=2", {"name": "you"})
    assert (answer.code, json.loads(answer.body)) == (200, {"job": "j", "said": ["hello you"] * 2})
    errors = problem(await service.post("/v1/jobs/j/greet", {"nam": 1}), 422, "invalid-body")["errors"]
    assert {error["pointer"] for error in errors} == {"/name", "/nam"}
    assert any("did you mean name?" in error["detail"] for error in errors)
    problem(await service.post("/v1/jobs/j/greet", b""), 400, "invalid-json")
    [error] = problem(await service.post("/v1/jobs/j/greet?tims=2", {"name": "you"}), 400, "invalid-query")["errors"]
    assert "did you mean times?" in error["detail"]
    assert problem(await service.post("/v1/jobs/j/greet?times=4", {"name": "you"}), 409, "too-loud")["detail"]
    read = await service.fetch("/v1/jobs/j/greet")
    problem(read, 405, "method-not-allowed")
    assert read.headers["Allow"] == "POST"
    metrics = (await service.fetch("/metrics")).body.decode()
    assert 'route="/v1/jobs/*/greet",status="200"' in metrics


async def test_its_scope_is_asked_for(site: Guarded) -> None:
    body = b'{"name": "you"}'
    assert (await site.fetch("canceller", "/v1/jobs/j/greet", "POST", body=body)).code == 200
    problem(await site.fetch("reader", "/v1/jobs/j/greet", "POST", body=body), 403, "forbidden-scope")
    problem(await site.fetch(None, "/v1/jobs/j/greet", "POST", body=body), 401, "unauthorized")


def test_it_is_in_the_document() -> None:
    document = make_document([Operation.of(GreetJob)], {}, {})
    operation = document["paths"]["/v1/jobs/{id}/greet"]["post"]
    assert (operation["operationId"], operation["summary"]) == ("greet_job", "Greet a job")
    assert operation["description"] == "Once, or several times."
    assert {(each["in"], each["name"]) for each in operation["parameters"]} == {("path", "id"), ("query", "times")}
    reference = {"$ref": "#/components/schemas/Greeting"}
    assert operation["requestBody"] == {"required": True, "content": {"application/json": {"schema": reference}}}
    assert operation["responses"]["409"] == {"$ref": "#/components/responses/409.too-loud"}
    assert {"Greeting", "Greeted"} <= document["components"]["schemas"].keys()


def test_it_is_in_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- routes /v1/jobs/{id}/greet -->\n<!-- end -->\n")
    row = "| `POST /v1/jobs/{id}/greet` | `cancel` | Greet a job | `name`, `?times` | **200**; 409 `too-loud` |"
    assert row in tables.rewritten(page)
