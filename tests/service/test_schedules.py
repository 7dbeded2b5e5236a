"""Schedules over HTTP, before a real beat and a real worker."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import HTTPResponse

from tests.servers import wait_for
from tests.service.keys import UNLIKE, made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import Service, environment, problem, running
from tornado_celery_bridge.ledger import MAX_INLINE
from tornado_celery_bridge.schedules import Entry, Schedules, calls
from tornado_celery_bridge.service.access.keys import Keyring
from tornado_celery_bridge.service.resources.schedules.documents import in_words
from tornado_celery_bridge.service.resources.schedules.fields import merged

HOURLY = {"name": "hourly", "task": "s.add", "input": {"x": 1}, "crontab": "0 * * * *"}
IF_FIRST = {"If-Match": '"1"'}


@pytest.fixture
async def service(service: Service) -> Service:
    await forget_all(service)
    return service


async def forget_all(service: Service) -> None:
    """Remove all schedules, but for what beats have among themselves."""
    theirs = {f"{{tcb}}schedules:{name}".encode() for name in ("leader", "fence", "wake")}
    keys = set(await service.jobs.ledger.redis.call("KEYS", "{tcb}schedule*")) - theirs
    if keys:
        await service.jobs.ledger.redis.call("DEL", *keys)


@pytest.fixture(scope="module")
def beat(web_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A stock beat with our scheduler, which leads."""
    log = tmp_path_factory.mktemp("web-beat") / "beat.log"
    command = [sys.executable, "-m", "celery", "-A", "tests.service.sample", "beat", "--pidfile=", "-l", "INFO"]
    command += ["-S", "tornado_celery_bridge.schedules:Scheduler"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(SAMPLE_URL=web_url), stdout=out, stderr=out)
    try:
        wait_for(lambda: "this beat leads" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


async def runs_of(service: Service, name: str, least: int) -> list[dict[str, Any]]:
    """Return a schedule's runs, the latest first, once there are so many."""
    async with asyncio.timeout(30):
        while True:
            runs: list[dict[str, Any]] = shown(await send(service, "GET", f"/{name}/runs"))["runs"]
            if len(runs) >= least:
                return runs
            await asyncio.sleep(0.05)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


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
    assert response.headers["ETag"].startswith('"1-')
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
    assert read.headers["ETag"].startswith('"1-')
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
    assert (response.headers["Location"], response.headers["ETag"][:3]) == ("/v1/schedules/new", '"1-')
    assert json.loads(response.body)["anchor"]
    response = await send(service, "PUT", "/new", {"name": "new", "task": "s.echo", "crontab": "5 5 * * *"})
    assert "interval" not in shown(response)
    assert response.headers["ETag"].startswith('"2-')
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
    for changing, pointer in {
        '{"task": null}': "/task",
        '{"crontab": "0 * * * *"}': "/crontab",
        '{"input": {"z": 1}}': "/input/z",
        '{"name": "other"}': "/name",
        '{"interval": null}': "/crontab",
        '{"nothing": 1}': "/nothing",
    }.items():
        response = await send(service, "PATCH", "/hourly", json.loads(changing))
        document = problem(response, 422, "invalid-input" if "input" in changing else "invalid-schedule")
        assert [fault["pointer"] for fault in document["errors"]] == [pointer]
    assert shown(await send(service, "GET", "/hourly")) == changed


async def test_a_schedule_that_is_removed(service: Service) -> None:
    await make(service)
    response = await send(service, "DELETE", "/hourly")
    assert (response.code, response.body) == (204, b"")
    body: dict[str, Any] | None
    for method, body in {"GET": None, "DELETE": None, "PATCH": {}}.items():
        problem(await send(service, method, "/hourly", body), 404, "unknown-schedule")
    for action, body in {"run": None, "pause": {}, "resume": None}.items():
        problem(await send(service, "POST", f"/hourly/{action}", body), 404, "unknown-schedule")
    for part in ("next", "runs"):
        problem(await send(service, "GET", f"/hourly/{part}"), 404, "unknown-schedule")
    await make(service)


# Conditions.


async def test_an_entity_tag_is_of_what_is_shown(service: Service) -> None:
    """A run makes another representation, and so another tag; it refuses no change."""
    await make(service)
    etag = (await send(service, "GET", "/hourly")).headers["ETag"]
    assert (await send(service, "POST", "/hourly/run")).code == 202
    ran = await send(service, "GET", "/hourly", headers={"If-None-Match": etag})
    assert shown(ran)["last_run"] is not None
    assert ran.headers["ETag"] != etag
    changed = await send(service, "PATCH", "/hourly", {"note": "x"}, {"If-Match": etag})
    assert shown(changed)["version"] == 2
    assert (await send(service, "GET", "/hourly")).headers["ETag"] == changed.headers["ETag"]
    assert (await send(service, "DELETE", "/hourly", headers={"If-Match": etag})).code == 412
    assert (await send(service, "DELETE", "/hourly", headers={"If-Match": changed.headers["ETag"]})).code == 204


async def test_conditions(service: Service) -> None:
    await make(service)
    etag = (await send(service, "GET", "/hourly")).headers["ETag"]
    for known in (etag, f'"0", W/{etag}', "*"):
        unchanged = await send(service, "GET", "/hourly", headers={"If-None-Match": known})
        assert (unchanged.code, unchanged.body, unchanged.headers["ETag"]) == (304, b"", etag)
    assert (await send(service, "GET", "/hourly", headers={"If-None-Match": '"1"'})).code == 200
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


async def test_of_changes_at_once_each_is_made_or_refused(service: Service) -> None:
    await make(service)
    patches = [{"jitter": number} for number in range(1, 9)]
    responses = await asyncio.gather(*(send(service, "PATCH", "/hourly", each, IF_FIRST) for each in patches))
    assert sorted(response.code for response in responses) == [200] + [412] * 7
    members = ({"jitter": 60}, {"grace": 7}, {"note": "x"}, {"tags": ["y"]})
    responses = await asyncio.gather(*(send(service, "PATCH", "/hourly", each) for each in members))
    now = shown(await send(service, "GET", "/hourly"))
    assert now["version"] == 2 + [response.code for response in responses].count(200)
    for member, response in zip(members, responses, strict=True):
        if response.code == 200:
            assert now.items() >= member.items()  # type: ignore[attr-defined]
        else:
            problem(response, 409, "schedule-conflict")
    responses = await asyncio.gather(*(send(service, "PUT", "/other", HOURLY | {"name": "other"}) for _ in range(4)))
    assert [response.code for response in responses].count(201) == 1


# What does not fit.


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "a b"}, "/name"),
        ({"name": None}, "/name"),
        ({"task": "s.hidden"}, "/task"),
        ({"task": "no.such"}, "/task"),
        ({"crontab": "0 0 30 2 *"}, "/crontab"),
        ({"crontab": "* * * *"}, "/crontab"),
        ({"crontab": 5}, "/crontab"),
        ({"crontab": None}, "/crontab"),
        ({"interval": 60}, "/crontab"),
        ({"timezone": "Europe/Nowhere"}, "/timezone"),
        ({"timezone": "../../etc/passwd"}, "/timezone"),
        ({"crontab": None, "interval": 0.01}, "/interval"),
        ({"crontab": None, "once": "2020-01-01T00:00:00Z"}, "/once"),
        ({"crontab": None, "once": "2120-01-01T00:00:00"}, "/once"),
        ({"crontab": None, "once": "0001-01-01T00:00:00Z"}, "/once"),
        ({"crontab": None, "solar": {"event": "sunrise", "lat": 91, "lon": 0}}, "/solar/lat"),
        ({"crontab": None, "solar": {"event": "lunch", "lat": 9, "lon": 0}}, "/solar"),
        ({"start": "2100-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z"}, "/end"),
        ({"end": "2001-01-01T00:00:00Z"}, "/end"),
        ({"overlap": "wait"}, "/overlap"),
        ({"max_runs": 0}, "/max_runs"),
        ({"tags": ["\n"]}, "/tags"),
        ({"jitter": -1}, "/jitter"),
        ({"options": {"queue": "nowhere"}}, "/options/queue"),
        ({"options": {"priority": 10}}, "/options/priority"),
        ({"options": {"countdown": 5}}, "/options/countdown"),
        ({"options": {"callback_url": "https://callback.invalid/"}}, "/options/callback_url"),
        ({"owner": "me", "nothing": 1}, "/nothing"),
    ],
)
async def test_a_schedule_that_does_not_fit(service: Service, change: dict[str, Any], pointer: str) -> None:
    document = problem(await send(service, "POST", "", HOURLY | change), 422, "invalid-schedule")
    assert [fault["pointer"] for fault in document["errors"]] == [pointer]
    problem(await send(service, "GET", "/hourly"), 404, "unknown-schedule")


async def test_all_that_does_not_fit_is_said_at_once(service: Service) -> None:
    body = {
        "name": "hourly",
        "task": "no.such",
        "args": [1],
        "interval": "often",
        "timezone": "Europe/Nowhere",
        "options": {"queue": "nowhere"},
        "end": "2001-01-01T00:00:00Z",
        "start": "2002-01-01T00:00:00Z",
    }
    document = problem(await send(service, "POST", "", body), 422, "invalid-schedule")
    pointers = [fault["pointer"] for fault in document["errors"]]
    assert sorted(pointers) == ["/args", "/end", "/interval", "/options/queue", "/task", "/timezone"]
    told = "; give input: a list of arguments by position, or an object of arguments by name"
    assert document["errors"][pointers.index("/args")]["detail"].endswith(told)
    document = problem(await service.submit("s.add", {"args": [1], "kwargs": {}}), 422, "invalid-body")  # a job, too
    assert [fault["detail"] for fault in document["errors"]] == [f"Only input and options are known here{told}."] * 2


async def test_an_input_that_does_not_fit(service: Service) -> None:
    for given, pointers in {
        '{"y": "a"}': ["/input/x", "/input/y"],
        '["a"]': ["/input/0"],
        "[1, 2, 3]": ["/input/2"],
    }.items():
        response = await send(service, "POST", "", HOURLY | {"input": json.loads(given)})
        document = problem(response, 422, "invalid-input")
        assert sorted(fault["pointer"] for fault in document["errors"]) == pointers
        assert (
            document["errors"]
            == problem(await service.submit("s.add", {"input": json.loads(given)}), 422, "invalid-input")["errors"]
        )
    large = HOURLY | {"task": "s.echo", "input": {"value": "x" * MAX_INLINE}}
    document = problem(await send(service, "POST", "", large), 422, "invalid-schedule")
    assert [fault["pointer"] for fault in document["errors"]] == ["/input"]


async def test_what_is_asked_wrong(service: Service) -> None:
    await make(service)
    for query in ("?limit=0", "?limit=201", "?enabled=maybe", "?colour=red", "?tag="):
        problem(await send(service, "GET", query), 400, "invalid-query")
    for query in ("?count=0", "?count=101", "?count=x", "?limit=5"):
        problem(await send(service, "GET", f"/hourly/next{query}"), 400, "invalid-query")
    for action, body in {"run": {"x": 1}, "resume": {"x": 1}, "pause": {"until": "soon"}, "backfill": {}}.items():
        problem(await send(service, "POST", f"/hourly/{action}", body), 422, "invalid-body")
    problem(await send(service, "PATCH", "/hourly", [1]), 400, "invalid-json")


def test_the_merge_patches_of_rfc_7396() -> None:
    """Its appendix A."""
    for target, patch, result in [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]:
        assert merged(target, patch) == result


# Lists.


async def test_a_list(service: Service) -> None:
    names = [f"n{number}" for number in range(5)]
    for name in names:
        await make(service, name=name, tags=["odd"] if name in ("n1", "n3") else [], task="s.echo", input={})
    await make(service, name="other", tags=["odd", "x"])
    await send(service, "POST", "/n3/pause")
    for query, found in {
        "": [*names, "other"],
        "?task=s.echo": names,
        "?tag=odd": ["n1", "n3", "other"],
        "?tag=odd&tag=x": ["other"],
        "?enabled=false": ["n3"],
        "?enabled=true&tag=odd": ["n1", "other"],
        "?task=nothing": [],
    }.items():
        document = shown(await send(service, "GET", query))
        assert [each["name"] for each in document["schedules"]] == found
        assert (document["next_cursor"], document["quarantined"]) == (None, [])
    pages, query = [], "?limit=2"
    while query:
        document = shown(await send(service, "GET", query))
        pages.append([each["name"] for each in document["schedules"]])
        query = document["next_cursor"] and f"?limit=2&cursor={document['next_cursor']}"
    assert pages == [["n0", "n1"], ["n2", "n3"], ["n4", "other"]]


# What it will do, and what it has done.


async def test_when_it_is_due_next(service: Service) -> None:
    await make(service, crontab="0 9 * * mon-fri", timezone="Europe/Paris", start="2126-10-25T00:00:00Z")
    document = shown(await send(service, "GET", "/hourly/next?count=6"))
    assert document["description"] == "At 09:00, Monday through Friday"
    assert document["timezone"] == "Europe/Paris"
    assert document["next"][0] == {"utc": "2126-10-25T07:00:00.000Z", "local": "2126-10-25T09:00:00.000+02:00"}
    assert document["next"][2]["local"] == "2126-10-29T09:00:00.000+01:00"  # the clocks were changed
    assert len(document["next"]) == 6
    assert len(shown(await send(service, "GET", "/hourly/next"))["next"]) == 10
    await send(service, "POST", "/hourly/pause")
    assert shown(await send(service, "GET", "/hourly/next"))["next"] == []


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"crontab": "*/15 1-3 * * *"}, "Every 15 minutes, between 01:00 and 03:59"),
        ({"crontab": "0 9 1-7 * monday"}, "At 09:00, between day 1 and 7 of the month, and only on Monday"),
        (
            {"crontab": "0 0 L * fridayL"},
            "At 00:00, on the last day of the month, on the last Friday of the month",
        ),
        ({"crontab": "0 0 * december friL"}, "At 00:00, on the last Friday of the month, only in December"),
        ({"crontab": "0 0 * APRIL *"}, "0 0 * APRIL *"),
        ({"interval": 90}, "Every 90 seconds"),
        ({"once": datetime(2126, 1, 1, tzinfo=UTC)}, "Once, at 2126-01-01T00:00:00.000Z"),
    ],
)
def test_a_schedule_in_words(when: dict[str, Any], words: str) -> None:
    assert in_words(Entry(name="e", task="t", **when)) == words


async def test_a_run_on_demand(service: Service) -> None:
    await make(service, tags=["x"])
    response = await send(service, "POST", "/hourly/run", headers={"Prefer": "wait=20"})
    job = shown(response)
    assert response.headers["Location"] == job["links"]["self"]
    assert (job["state"], job["result"], job["tags"], job["schedule"]) == ("SUCCESS", 2, ["x"], "hourly")
    assert job["links"]["schedule"] == "/v1/schedules/hourly"
    assert shown(await service.fetch(job["links"]["self"])) == job
    [run] = shown(await send(service, "GET", "/hourly/runs"))["runs"]
    assert run.pop("at")
    assert job.pop("result") == 2  # a list has none
    listed = job | {"result_size": 1, "links": {**job["links"], "result": f"{job['links']['self']}/result"}}
    assert run == {"slot": None, "delay": None, "job_id": job["id"], "job": listed, "reason": None}
    found = shown(await send(service, "GET", "/hourly"))
    assert (found["runs"], found["links"]["last_job"]) == (0, job["links"]["self"])
    assert found["last_run"]
    again = await service.post(f"{job['links']['self']}/retry", headers={"Prefer": "wait=20"})
    assert "schedule" not in shown(again)
    assert (await send(service, "POST", "/hourly/run")).code in (200, 202)  # the worker may be quicker than the answer


async def test_pause_and_resume(service: Service) -> None:
    made = await make(service)
    paused = shown(await send(service, "POST", "/hourly/pause"))
    assert (paused["enabled"], paused["paused_until"], paused["next_run"], paused["version"]) == (False, None, None, 2)
    paused = shown(await send(service, "POST", "/hourly/pause", {"until": "2126-01-01T00:30:00+00:00"}))
    assert (paused["enabled"], paused["paused_until"]) == (True, "2126-01-01T00:30:00.000Z")
    assert paused["next_run"] == "2126-01-01T01:00:00.000Z"
    assert shown(await send(service, "POST", "/hourly/resume", {})) == made | {"version": 4}


async def test_a_backfill(service: Service) -> None:
    await make(service, start="2026-01-01T00:00:00Z")
    asked = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T03:00:00Z"}
    slots = [f"2026-01-01T0{hour}:00:00.000Z" for hour in range(3)]
    document = shown(await send(service, "POST", "/hourly/backfill", asked))
    assert document == {"dry_run": True, "slots": slots, "job_ids": []}
    response = await send(service, "POST", "/hourly/backfill", asked | {"dry_run": False})
    assert response.code == 202
    document = json.loads(response.body)
    assert (document["dry_run"], document["slots"], len(document["job_ids"])) == (False, slots, 3)
    for job_id in document["job_ids"]:
        job = shown(await service.fetch(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"}))
        assert (job["state"], job["schedule"]) == ("SUCCESS", "hourly")
    assert shown(await send(service, "POST", "/hourly/backfill", asked))["slots"] == []
    asked["until"] = "2026-06-01T00:00:00Z"
    problem(await send(service, "POST", "/hourly/backfill", asked), 422, "backfill-too-large")


# Those of the configuration, and those that nobody can use.


async def test_a_static_schedule(service: Service) -> None:
    entry = Entry(name="of the/config", task="s.hidden", crontab="0 * * * *", options={"headers": {"a": 1}})
    await service.jobs.ledger.redis.run(calls.load(rows=[calls.StaticEntry(entry.name, entry.encode())]))
    path = "/of%20the%2Fconfig"
    found = shown(await send(service, "GET", path))
    assert (found["static"], found["links"]["self"], found["options"]) == (
        *(True, f"/v1/schedules{path}", {"headers": {"a": 1}}),
    )
    for method, body in {"PUT": HOURLY | {"name": None}, "PATCH": {}, "DELETE": None}.items():
        problem(await send(service, method, path, body), 409, "static-schedule")
    assert shown(await send(service, "POST", f"{path}/pause"))["enabled"] is False
    assert shown(await send(service, "POST", f"{path}/resume"))["enabled"] is True
    assert (await send(service, "POST", f"{path}/run")).code in (200, 202)  # though the task is not exposed


async def test_an_entry_that_nobody_can_use(service: Service, beat: None) -> None:
    ledger = service.jobs.ledger

    async def spoil(name: str, *command: Any) -> None:
        await ledger.redis.call(*command)
        await ledger.redis.call("ZADD", "{tcb}schedules:due", 1, name)
        await ledger.redis.call("LPUSH", "{tcb}schedules:wake", 1)

    await spoil("text", "SET", "{tcb}schedule:text", "no hash")
    await spoil("hash", "HSET", "{tcb}schedule:hash", "entry", "{", "version", 3, "slot", 1)
    async with asyncio.timeout(20):
        while len(found := shown(await send(service, "GET", ""))["quarantined"]) < 2:
            await asyncio.sleep(0.05)
    assert [each["name"] for each in found] == ["hash", "text"]
    for name in ("hash", "text"):
        assert "stored" in problem(await send(service, "GET", f"/{name}"), 409, "schedule-quarantined")["detail"]
        problem(await send(service, "PATCH", f"/{name}", {}), 409, "schedule-quarantined")
        problem(await send(service, "POST", f"/{name}/run"), 409, "schedule-quarantined")
    assert shown(await send(service, "PUT", "/hash", HOURLY | {"name": "hash"}))["name"] == "hash"
    assert (await send(service, "DELETE", "/text")).code == 204
    assert shown(await send(service, "GET", ""))["quarantined"] == []


# Whose they are.


@pytest.fixture
async def keyed(web_url: str, tmp_path: Path) -> AsyncIterator[tuple[Service, dict[str, dict[str, str]]]]:
    """A service with keys, and the headers of each."""
    app = make_celery(web_url)
    given: dict[str, dict[str, Any]] = {
        "alice": {"scopes": ["read", "schedule"]},
        "adder": {"scopes": ["read", "schedule"], "tasks": ["s.add"]},
        "reader": {"scopes": ["read"]},
        "bob": {"owner": "bob", "scopes": ["read", "schedule"]},
        "admin": {"owner": "root", "scopes": ["admin"]},
    }
    all_made = {name: made(**fields) for name, fields in given.items()}
    path = await asyncio.to_thread(write, tmp_path / "keys.json", *(entry for _, entry in all_made.values()))
    keyring = await asyncio.to_thread(Keyring, path)
    async with running(app, keys=keyring) as service:
        await forget_all(service)
        yield service, {name: {"Authorization": f"Bearer {key}"} for name, (key, _) in all_made.items()}
    app.close()


async def test_another_owners_schedule_is_no_schedule(keyed: tuple[Service, dict[str, dict[str, str]]]) -> None:
    service, keys = keyed
    made = await send(service, "POST", "", HOURLY | {"name": "hers", "task": "s.echo", "input": {}}, keys["alice"])
    assert json.loads(made.body)["owner"] == "alice"
    assert (await send(service, "POST", "", HOURLY | {"name": "his"}, keys["bob"])).code == 201
    changes: dict[str, Any] = {"PATCH": {}, "DELETE": None}
    for method, path, body in [
        *((method, "", body) for method, body in {"GET": None, **changes}.items()),
        *(("POST", f"/{action}", None) for action in ("run", "pause", "resume")),
        ("POST", "/backfill", {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T03:00:00Z"}),
        *(("GET", f"/{part}", None) for part in ("next", "runs")),
    ]:
        theirs, nobodys = [
            problem(await send(service, method, f"/{name}{path}", body, keys["bob"]), 404, "unknown-schedule") | UNLIKE
            for name in ("hers", "never")
        ]
        assert theirs == nobodys
    assert (await send(service, "PUT", "/hers", HOURLY | {"name": "hers"}, keys["bob"])).code == 201  # his own
    assert (await send(service, "DELETE", "/hers", None, keys["bob"])).code == 204
    for name, names in {"alice": ["hers"], "reader": ["hers"], "bob": ["his"], "admin": ["hers", "his"]}.items():
        document = shown(await send(service, "GET", "", None, keys[name]))
        assert [each["name"] for each in document["schedules"]] == names
    changed = shown(await send(service, "PATCH", "/alice~hers", {"note": "seen"}, keys["admin"]))
    assert (changed["owner"], changed["note"]) == ("alice", "seen")
    job = json.loads((await send(service, "POST", "/alice~hers/run", None, keys["admin"])).body)
    assert shown(await service.fetch(job["links"]["self"], headers=keys["reader"]))["schedule"] == "hers"
    problem(await service.fetch(job["links"]["self"], headers=keys["bob"]), 404, "unknown-job")


async def test_scopes_and_tasks(keyed: tuple[Service, dict[str, dict[str, str]]]) -> None:
    service, keys = keyed
    echo = HOURLY | {"name": "echo", "task": "s.echo", "input": {}}
    document = problem(await send(service, "POST", "", echo, keys["adder"]), 422, "invalid-schedule")
    assert document["errors"][0]["pointer"] == "/task"
    assert (await send(service, "POST", "", echo, keys["alice"])).code == 201
    for action in ("run", "resume"):
        problem(await send(service, "POST", f"/echo/{action}", None, keys["adder"]), 404, "unknown-task")
    assert (await send(service, "POST", "/echo/pause", None, keys["adder"])).code == 200
    for method, path in [("POST", ""), ("PUT", "/x"), ("PATCH", "/x"), ("DELETE", "/x"), ("POST", "/x/run")]:
        problem(await send(service, method, path, {}, keys["reader"]), 403, "forbidden-scope")


async def test_an_entry_that_nobody_can_use_is_the_admins(keyed: tuple[Service, dict[str, dict[str, str]]]) -> None:
    service, keys = keyed
    await service.jobs.ledger.redis.call("HSET", "{tcb}schedule:bad", "entry", "{", "version", 1)
    problem(await send(service, "GET", "/bad", None, keys["alice"]), 404, "unknown-schedule")
    assert (await send(service, "PUT", "/bad", HOURLY | {"name": "bad"}, keys["alice"])).code == 201  # her own
    problem(await send(service, "GET", "/bad", None, keys["admin"]), 409, "schedule-quarantined")
    assert (await send(service, "DELETE", "/bad", None, keys["admin"])).code == 204


# While beat runs.


async def test_made_while_beat_runs_each_is_run_in_time(service: Service, beat: None) -> None:
    """The best of some is what it takes; the others are what this machine has to do besides."""
    delays = []
    for number in range(4):
        once = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat(timespec="milliseconds")
        body = {"name": f"once{number}", "task": "s.add", "input": [number], "once": once}
        made = json.loads((await send(service, "POST", "", body)).body)
        [run] = await runs_of(service, made["name"], 1)
        assert run["slot"] == made["once"] == made["next_run"]
        job = shown(await service.fetch(f"/v1/jobs/{run['job_id']}", headers={"Prefer": "wait=20"}))
        assert (job["state"], job["result"], job["schedule"]) == ("SUCCESS", number + 1, made["name"])
        late = (moment(job["created_at"]) - moment(made["once"])).total_seconds()
        assert run["delay"] == pytest.approx(late)
        delays.append(late)
        found = shown(await send(service, "GET", f"/{made['name']}"))
        assert (found["next_run"], found["runs"], found["last_run"] is None) == (None, 1, False)
    assert 0 <= min(delays) < 1, delays
    text = (await service.fetch("/metrics")).body.decode()
    told = {family.name: family for family in text_string_to_metric_families(text)}
    begun = [each.value for each in told["tcb_schedule_runs"].samples if each.labels == {"outcome": "begun"}]
    lateness = [each.value for each in told["tcb_schedule_lateness_seconds"].samples if each.name.endswith("_count")]
    assert begun == lateness
    assert begun[0] >= 4
    assert [each.value for each in told["tcb_beat_leader"].samples] == [1]


async def test_an_edit_is_what_the_next_run_follows(service: Service, beat: None) -> None:
    await make(service, name="edited", task="s.echo", input={"value": "before"})
    edited = datetime.now(UTC)
    patch = {"input": {"value": "after"}, "crontab": None, "interval": 0.5}
    changed = shown(await send(service, "PATCH", "/edited", patch))
    runs = await runs_of(service, "edited", 3)
    assert all(moment(run["slot"]) >= edited for run in runs)
    steps = {moment(first["slot"]) - moment(second["slot"]) for first, second in pairwise(runs)}
    assert all(step % timedelta(seconds=0.5) == timedelta() for step in steps)
    assert all(
        (moment(run["slot"]) - moment(changed["anchor"])) % timedelta(seconds=0.5) == timedelta() for run in runs
    )
    job = shown(await service.fetch(f"/v1/jobs/{runs[0]['job_id']}", headers={"Prefer": "wait=20"}))
    assert job["result"] == "after"
    paused = shown(await send(service, "POST", "/edited/pause"))
    count = shown(await send(service, "GET", "/edited"))["runs"]
    assert paused["next_run"] is None
    await asyncio.sleep(1.5)
    assert shown(await send(service, "GET", "/edited"))["runs"] == count
    assert (await send(service, "DELETE", "/edited")).code == 204


async def test_why_a_run_did_not_begin(service: Service, beat: None) -> None:
    fields = {"name": "slow", "task": "s.nap", "input": [3], "crontab": None, "interval": 0.5, "overlap": "skip"}
    await make(service, **fields)
    async with asyncio.timeout(20):
        while not (skipped := [run for run in await runs_of(service, "slow", 1) if run["reason"]]):
            await asyncio.sleep(0.05)
    assert (skipped[0]["reason"], skipped[0]["job_id"], skipped[0]["job"]) == ("skipped", None, None)
    await send(service, "DELETE", "/slow")
