"""Schedules over HTTP, before a real beat and a real worker."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from tests.web.conftest import Service, problem, running
from tests.web.sample import make_app as make_celery
from tornado_celery_bridge.schedules import Schedules

pytestmark = [pytest.mark.server, pytest.mark.worker]

HOURLY = {"name": "hourly", "task": "s.add", "input": {"x": 1}, "crontab": "0 * * * *"}


@pytest.fixture
async def service(web_url: str) -> AsyncIterator[Service]:
    app = make_celery(web_url)
    async with running(app) as made:
        keys = await made.jobs.ledger.call("KEYS", "tcb:schedule*")
        if keys:
            await made.jobs.ledger.call("DEL", *keys)
        yield made
    app.close()


async def send(
    service: Service, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> HTTPResponse:
    content = None if body is None else json.dumps(body).encode()
    return await service.fetch(
        f"/v1/schedules{path}", method, body=content, headers={"Content-Type": "application/json", **(headers or {})}
    )


async def make(service: Service, **fields: Any) -> dict[str, Any]:
    response = await send(service, "POST", "", HOURLY | fields)
    assert response.code == 201, response.body
    made: dict[str, Any] = json.loads(response.body)
    return made


def shown(response: HTTPResponse) -> dict[str, Any]:
    assert response.code == 200, response.body
    document: dict[str, Any] = json.loads(response.body)
    return document


# To make, read, change and remove.


async def test_a_schedule_that_is_made(service: Service) -> None:
    response = await send(service, "POST", "", HOURLY | {"note": "é", "tags": ["x"], "options": {"priority": 9}})
    assert response.code == 201, response.body
    assert response.headers["Location"] == "/v1/schedules/hourly"
    assert response.headers["ETag"] == '"1"'
    made = json.loads(response.body)
    assert made.pop("next_run").endswith(":00:00.000Z")
    assert made == {
        **{"name": "hourly", "task": "s.add", "input": {"x": 1}, "options": {"priority": 9}, "crontab": "0 * * * *"},
        **{"timezone": "UTC", "enabled": True, "paused_until": None, "start": None, "end": None, "max_runs": None},
        **{"overlap": "allow", "misfire": "once", "misfire_cap": 100, "grace": 60.0, "pause_after": None},
        **{"jitter": 0.0, "note": "é", "tags": ["x"], "owner": "", "version": 1, "static": False, "halted": None},
        **{"failures": 0, "runs": 0, "last_run": None},
        "links": {
            **{"self": "/v1/schedules/hourly", "task": "/v1/tasks/s.add"},
            **{"next": "/v1/schedules/hourly/next", "runs": "/v1/schedules/hourly/runs"},
        },
    }
    entry = (await Schedules(service.jobs.ledger, service.bridge.app).get("hourly")).entry
    assert entry.options == {"priority": 0}  # as kombu's Redis has it
    read = await send(service, "GET", "/hourly")
    assert shown(read) | {"next_run": None} == made | {"next_run": None}
    assert read.headers["ETag"] == '"1"'
    problem(await send(service, "POST", "", HOURLY), 409, "schedule-exists")


@pytest.mark.parametrize(
    "when",
    [
        {"crontab": "0 6 * * mon-fri", "timezone": "Europe/Paris"},
        {"interval": 90, "anchor": "2026-01-01T00:00:00.000Z"},
        {"once": "2126-01-01T00:00:00.000Z"},
    ],
)
async def test_what_was_read_may_be_sent_back(service: Service, when: dict[str, Any]) -> None:
    given = {name: value for name, value in HOURLY.items() if name != "crontab"} | when
    given |= {"options": {"queue": "quiet", "priority": 2, "expires": 60.0, "time_limit": 5.0}, "jitter": 2.5}
    given |= {"start": "2026-01-01T00:00:00.000Z", "end": "2226-01-01T00:00:00.000Z", "max_runs": 3, "grace": 1.5}
    given |= {"overlap": "queue", "misfire": "all", "misfire_cap": 7, "pause_after": 2, "tags": ["a", "b"]}
    given |= {"paused_until": "2026-02-01T00:00:00.000Z", "input": [1, 2]}
    made = json.loads((await send(service, "POST", "", given)).body)
    assert {name: made[name] for name in given} == given
    again = shown(await send(service, "PUT", "/hourly", made))
    assert again == made | {"version": 2}
    unchanged = shown(await send(service, "PATCH", "/hourly", {}))
    assert unchanged == made | {"version": 3}


async def test_put_makes_and_replaces(service: Service) -> None:
    body = {"task": "s.add", "input": [1], "interval": 3600}
    response = await send(service, "PUT", "/new", body)
    assert response.code == 201
    assert (response.headers["Location"], response.headers["ETag"]) == ("/v1/schedules/new", '"1"')
    assert json.loads(response.body)["anchor"]
    response = await send(service, "PUT", "/new", {"name": "new", "task": "s.echo", "crontab": "5 5 * * *"})
    assert "interval" not in shown(response)
    assert response.headers["ETag"] == '"2"'
    assert "Location" not in response.headers
    document = problem(await send(service, "PUT", "/new", body | {"name": "old"}), 422, "invalid-schedule")
    assert [fault["pointer"] for fault in document["errors"]] == ["/name"]
    for name in ("-x", "a%20b", "a%2Fb", "%C3%A9", "x" * 101, "a%0A"):
        document = problem(await send(service, "PUT", f"/{name}", body), 422, "invalid-schedule")
        assert [fault["pointer"] for fault in document["errors"]] == ["/name"]


async def test_a_merge_patch(service: Service) -> None:
    await make(service, input={"x": 1, "y": 2}, options={"queue": "quiet", "expires": 60}, note="old")
    patch = {"input": {"x": 5}, "options": {"queue": None}, "note": None, "crontab": None, "interval": 60}
    headers = {"Content-Type": "application/merge-patch+json"}
    changed = shown(await send(service, "PATCH", "/hourly", patch, headers))
    assert changed["input"] == {"x": 5, "y": 2}
    assert changed["options"] == {"expires": 60.0}
    assert (changed["note"], changed["interval"], changed["version"]) == ("", 60.0, 2)
    assert "crontab" not in changed
    for patch, pointer in {
        '{"task": null}': "/task",
        '{"crontab": "0 * * * *"}': "/crontab",
        '{"input": {"z": 1}}': "/input/z",
        '{"name": "other"}': "/name",
        '{"interval": null}': "/crontab",
        '{"nothing": 1}': "/nothing",
    }.items():
        response = await send(service, "PATCH", "/hourly", json.loads(patch))
        document = problem(response, 422, "invalid-input" if "input" in patch else "invalid-schedule")
        assert [fault["pointer"] for fault in document["errors"]] == [pointer]
    assert shown(await send(service, "GET", "/hourly")) == changed


async def test_a_schedule_that_is_removed(service: Service) -> None:
    await make(service)
    response = await send(service, "DELETE", "/hourly")
    assert (response.code, response.body) == (204, b"")
    for method, body in {"GET": None, "DELETE": None, "PATCH": {}}.items():
        problem(await send(service, method, "/hourly", body), 404, "unknown-schedule")
    for action, body in {"run": None, "pause": {}, "resume": None}.items():
        problem(await send(service, "POST", f"/hourly/{action}", body), 404, "unknown-schedule")
    for part in ("next", "runs"):
        problem(await send(service, "GET", f"/hourly/{part}"), 404, "unknown-schedule")
    await make(service)


# Conditions.


async def test_conditions(service: Service) -> None:
    await make(service)
    assert (await send(service, "GET", "/hourly", headers={"If-None-Match": '"1"'})).code == 304
    assert (await send(service, "GET", "/hourly", headers={"If-None-Match": '"0", W/"1"'})).code == 304
    assert (await send(service, "GET", "/hourly", headers={"If-None-Match": '"2"'})).code == 200
    for headers in ({"If-Match": '"2"'}, {"If-Match": 'W/"1"'}, {"If-None-Match": "*"}, {"If-None-Match": '"1"'}):
        for method, body in {"PUT": HOURLY, "PATCH": {"note": "x"}, "DELETE": None}.items():
            problem(await send(service, method, "/hourly", body, headers), 412, "precondition-failed")
    assert shown(await send(service, "PUT", "/hourly", HOURLY, {"If-Match": '"7", "1"'}))["version"] == 2
    assert shown(await send(service, "PATCH", "/hourly", {"note": "x"}, {"If-Match": "*"}))["version"] == 3
    problem(await send(service, "DELETE", "/hourly", headers={"If-Match": '"2"'}), 412, "precondition-failed")
    assert (await send(service, "DELETE", "/hourly", headers={"If-Match": '"3"'})).code == 204
    problem(await send(service, "PUT", "/hourly", HOURLY, {"If-Match": "*"}), 412, "precondition-failed")
    problem(await send(service, "PATCH", "/hourly", {}, {"If-Match": "*"}), 404, "unknown-schedule")
    assert (await send(service, "PUT", "/hourly", HOURLY, {"If-None-Match": "*"})).code == 201
    problem(await send(service, "PUT", "/hourly", HOURLY, {"If-None-Match": "*"}), 412, "precondition-failed")
