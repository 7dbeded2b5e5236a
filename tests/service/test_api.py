"""The contract, over real sockets, with a real broker and a real worker."""

import asyncio
import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.servers import wait_for
from tests.service.site import Service, problem, until
from tornado_celery_bridge.service.http.handler import MAX_BODY, MAX_DISCARDED
from tornado_celery_bridge.service.process.logs import OneLineFormatter
from tornado_celery_bridge.service.resources.diagnosis import diagnose

MEMBERS = {
    *("id", "task", "state", "done", "progress", "queue", "priority", "attempt", "tags"),
    *("created_at", "started_at", "finished_at", "eta", "held", "links"),
}


def job(response: Any, status: int) -> dict[str, Any]:
    assert response.code == status, response.body
    assert response.headers["Content-Type"] == "application/json"
    document: dict[str, Any] = json.loads(response.body)
    assert MEMBERS <= document.keys() <= MEMBERS | {"result", "error", "queue_depth", "checkpoint"}
    return document


# Submitting and reading.


async def test_submit_and_wait(service: Service) -> None:
    response = await service.submit("s.add", {"input": {"x": 2}}, wait=10)
    made = job(response, 200)
    assert made["result"] == 3
    assert (made["task"], made["state"], made["done"], made["attempt"]) == ("s.add", "SUCCESS", True, 1)
    assert made["created_at"] <= made["finished_at"]
    assert made["finished_at"].endswith("Z")
    assert response.headers["Location"] == made["links"]["self"] == f"/v1/jobs/{made['id']}"
    assert response.headers["Preference-Applied"] == "wait=10"
    assert "Retry-After" not in response.headers
    assert job(await service.fetch(made["links"]["self"]), 200) == made


async def test_submit_without_waiting(service: Service) -> None:
    response = await service.submit("s.add", {"input": [2, 3], "options": {"tags": ["a", "b"], "priority": 4}})
    made = job(response, 202)
    assert (made["state"], made["done"], made["attempt"]) == ("PENDING", False, 0)
    assert (made["queue"], made["priority"], made["tags"]) == ("websample", 4, ["a", "b"])
    assert response.headers["Retry-After"] == "1"
    assert "Preference-Applied" not in response.headers
    done = job(await service.fetch(made["links"]["self"], headers={"Prefer": "respond-async, wait=10"}), 200)
    assert done["result"] == 5


async def test_a_wait_that_is_too_short_answers_202(service: Service) -> None:
    made = job(await service.submit("s.nap", {"input": {"seconds": 3}}, wait=1), 202)
    assert made["done"] is False
    read = job(await service.fetch(made["links"]["self"], headers={"Prefer": "wait=1"}), 200)
    assert (read["state"], read["done"]) == ("STARTED", False)
    assert job(await service.fetch(made["links"]["self"], headers={"Prefer": "wait=99"}), 200)["done"]


async def test_a_failed_task_is_an_answer_and_not_an_error(service: Service) -> None:
    made = job(await service.submit("s.fail", {"input": {"message": "<b>no</b>"}}, wait=10), 200)
    assert made["state"] == "FAILURE"
    assert made["done"] is True
    assert "result" not in made
    assert made["error"].pop("title")
    assert made["error"].pop("traceback").endswith("ValueError: <b>no</b>\n")
    assert made["error"] == {
        "type": "urn:problem:tornado-celery-bridge:task-failed",
        "detail": "<b>no</b>",
        "exception": "builtins.ValueError",
        "retryable": False,
    }


async def test_what_is_planted_in_the_result_backend_is_not_believed(service: Service) -> None:
    made = job(await service.submit("s.add", {"input": {"x": 1}, "options": {"queue": "quiet"}}), 202)
    planted = {"exc_type": "system", "exc_module": "os", "exc_message": ["touch /tmp/planted"]}
    meta: dict[str, Any] = {
        "status": "FAILURE",
        "result": planted,
        "traceback": None,
        "children": [],
        "date_done": None,
    }
    key = f"celery-task-meta-{made['id']}"
    await service.jobs.ledger.redis.client.set(key, json.dumps({**meta, "task_id": made["id"]}))
    read = job(await service.fetch(made["links"]["self"]), 200)
    assert (read["state"], read["done"]) == ("PENDING", False)


async def test_a_result_that_is_not_json_is_shown_as_json(service: Service) -> None:
    made = job(await service.submit("s.nan", wait=10), 200)
    assert made["result"] == {"nan": None, "half": "?", "fine": [1.5]}


async def test_a_task_that_ignores_its_result_has_one_as_a_job(service: Service) -> None:
    assert job(await service.submit("s.forgetful", wait=10), 200)["result"] == 1


async def test_what_curl_sends_by_default(service: Service) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded", "Prefer": "wait=10"}
    text = "a=b&" * 5000 + "%zz;é"
    response = await service.post("/v1/tasks/s.echo/jobs", {"input": {"value": text}}, form)
    assert job(response, 200)["result"] == text


async def test_a_chunked_body(service: Service) -> None:
    body = json.dumps({"input": {"x": 1}}).encode()
    pieces = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body)
    head = b"POST /v1/tasks/s.add/jobs HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    reader, writer = await service.raw(head + pieces + b"0\r\n\r\n")
    assert b" 202 " in await reader.readline()
    writer.close()


# Options.


async def test_countdown_and_eta(service: Service) -> None:
    made = job(await service.submit("s.add", {"input": [1], "options": {"countdown": 1.5}}), 202)
    created, eta = (datetime.fromisoformat(made[name]) for name in ("created_at", "eta"))
    assert eta - created == timedelta(seconds=1.5)
    done = job(await service.fetch(made["links"]["self"], headers={"Prefer": "wait=20"}), 200)
    assert datetime.fromisoformat(done["finished_at"]) >= eta

    moment = datetime.now(UTC) + timedelta(hours=1)
    made = job(await service.submit("s.add", {"input": [1], "options": {"eta": moment.isoformat()}}), 202)
    assert abs(datetime.fromisoformat(made["eta"]) - moment) < timedelta(milliseconds=1)


async def test_expired_before_it_ran(service: Service) -> None:
    options = {"countdown": 1, "expires": 0.1}
    made = job(await service.submit("s.add", {"input": [1], "options": options}, wait=20), 200)
    assert made["state"] == "REVOKED"
    assert made["error"]["type"].endswith("task-revoked")


async def test_time_limit(service: Service) -> None:
    made = job(await service.submit("s.nap", {"input": [30], "options": {"time_limit": 0.5}}, wait=20), 200)
    assert made["state"] == "FAILURE"
    assert made["error"]["type"].endswith("time-limit-exceeded")
    assert made["error"]["retryable"] is True


async def test_another_queue(service: Service) -> None:
    made = job(await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}}), 202)
    assert made["queue"] == "quiet"
    assert job(await service.fetch(made["links"]["self"]), 200)["state"] == "PENDING"


async def test_nine_is_most_urgent_on_redis_too(service: Service) -> None:
    redis = service.jobs.ledger.redis.client
    steps = ("", "\x06\x163", "\x06\x166", "\x06\x169")
    await redis.delete(*(f"quiet{step}" for step in steps))
    for priority in (0, 9, 4, None):
        options = {"queue": "quiet", "priority": priority}
        job(await service.submit("s.add", {"input": [1], "options": options}), 202)
    # kombu pops its steps in this order: 0, 3, 6, 9.
    assert [await redis.llen(f"quiet{step}") for step in steps] == [1, 1, 0, 2]


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"headers": {"a": 1}}, "/options/headers"),
        ({"task_id": "x"}, "/options/task_id"),
        ({"link": []}, "/options/link"),
        ({"reply_to": "x"}, "/options/reply_to"),
        ({"serializer": "pickle"}, "/options/serializer"),
        ({"exchange": "x"}, "/options/exchange"),
        ({"queue": "no such"}, "/options/queue"),
        ({"queue": 5}, "/options/queue"),
        ({"priority": 10}, "/options/priority"),
        ({"priority": "9"}, "/options/priority"),
        ({"priority": True}, "/options/priority"),
        ({"countdown": -1}, "/options/countdown"),
        ({"countdown": 1e300}, "/options/countdown"),
        ({"countdown": 1, "eta": "2026-01-01T00:00:00Z"}, "/options"),
        ({"eta": "2026-01-01T00:00:00"}, "/options/eta"),
        ({"eta": "tomorrow"}, "/options/eta"),
        ({"expires": 0}, "/options/expires"),
        ({"time_limit": 0}, "/options/time_limit"),
        ({"soft_time_limit": "1"}, "/options/soft_time_limit"),
        ({"tags": "a"}, "/options/tags"),
        ({"tags": ["a", ""]}, "/options/tags/1"),
        ({"tags": ["a"] * 21}, "/options/tags"),
        ({"on_disconnect": "explode"}, "/options/on_disconnect"),
        ([], "/options"),
        (None, "/options"),
    ],
)
async def test_options_that_do_not_fit(service: Service, options: Any, pointer: str) -> None:
    response = await service.submit("s.add", {"input": [1], "options": options})
    assert problem(response, 422, "invalid-options")["errors"][0]["pointer"] == pointer


# What is refused.


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"input": {"x": "1"}}, "/input/x"),
        ({"input": {"X": 1}}, "/input/x"),
        ({"input": {"x": 1, "z": 1}}, "/input/z"),
        ({"input": {}}, "/input/x"),
        ({}, "/input/x"),
        ({"input": [1, 2, 3]}, "/input/2"),
        ({"input": "text"}, "/input"),
        ({"input": [1], "inptu": 1, "o/p": 1}, "/inptu"),
    ],
)
async def test_input_that_does_not_fit(service: Service, body: Any, pointer: str) -> None:
    before = await service.messages()
    response = await service.submit("s.add", body)
    document = problem(response, 422, json.loads(response.body)["code"])
    assert pointer in [error["pointer"] for error in document["errors"]]
    assert await service.messages() == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid-json"),
        (b"not json", "invalid-json"),
        (b"[1]", "invalid-json"),
        (b'{"input": {"x": NaN}}', "unacceptable-json"),
        (b'{"input": {"x": 1, "x": 2}}', "unacceptable-json"),
        (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too-deep"),
        (b'{"input": [' + b"1," * 20_000 + b"1]}", "too-large"),
    ],
)
async def test_the_door(service: Service, body: bytes, code: str) -> None:
    before = await service.messages()
    problem(await service.post("/v1/tasks/s.echo/jobs", body), 400, code)
    assert await service.messages() == before


@pytest.mark.parametrize(
    "name", ["s.hidden", "celery.backend_cleanup", "celery.chord", "no.such", "..", "%00", "s.ADD"]
)
async def test_unknown_and_unexposed_tasks_are_the_same_404(service: Service, name: str) -> None:
    for response in (
        await service.submit(name, {"input": {}}),
        await service.fetch(f"/v1/tasks/{name}"),
    ):
        document = problem(response, 404, "unknown-task")
        assert document["detail"] == "There is no task of this name."


@pytest.mark.parametrize("job_id", ["made-up", "00000000-0000-4000-8000-000000000000", "x" * 5000, "%0A"])
async def test_unknown_job(service: Service, job_id: str) -> None:
    problem(await service.fetch(f"/v1/jobs/{job_id}"), 404, "unknown-job")
    problem(await service.fetch(f"/v1/jobs/{job_id}/events"), 404, "unknown-job")
    problem(await service.post(f"/v1/jobs/{job_id}/cancel", {}), 404, "unknown-job")


async def test_a_result_without_a_record_is_no_job(service: Service) -> None:
    result = await service.bridge.dispatch("s.add", [1])
    assert await result == 2
    problem(await service.fetch(f"/v1/jobs/{result.id}"), 404, "unknown-job")


async def test_no_such_path_and_method(service: Service) -> None:
    for path in ("/nothing", "/v1", "/v1/jobs/a/b/c", "/v2/tasks"):
        problem(await service.fetch(path), 404, "not-found")
        problem(await service.post(path, {}), 404, "not-found")
    for method, path, allowed in (
        ("DELETE", "/v1/tasks", "GET, HEAD"),
        ("GET", "/v1/tasks/s.add/jobs", "POST"),
        ("BREW", "/healthz", "GET, HEAD"),
    ):
        response = await service.fetch(path, method)
        problem(response, 405, "method-not-allowed")
        assert response.headers["Allow"] == allowed
    problem(await service.fetch("/v1/tasks/%ff"), 400, "bad-request")


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x", "application/xml", "json"])
async def test_not_json(service: Service, content_type: str) -> None:
    response = await service.post("/v1/tasks/s.add/jobs", {"input": [1]}, {"Content-Type": content_type})
    problem(response, 415, "unsupported-media-type")


async def test_compressed(service: Service) -> None:
    response = await service.post("/v1/tasks/s.add/jobs", {"input": [1]}, {"Content-Encoding": "gzip"})
    problem(response, 415, "unsupported-media-type")


async def test_another_site_cannot_submit(service: Service) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        problem(await service.post("/v1/tasks/s.add/jobs", {"input": [1]}, headers), 403, "forbidden")


# Bodies that are too large.


async def test_the_largest_body_gets_in(service: Service) -> None:
    frame = len(json.dumps({"input": {"value": ""}}))
    for size, status in ((MAX_BODY, 202), (MAX_BODY + 1, 413), (2_000_000, 413)):
        response = await service.post("/v1/tasks/s.echo/jobs", {"input": {"value": "x" * (size - frame)}})
        if status == 413:
            problem(response, 413, "body-too-large")
        else:
            job(response, 202)


async def test_a_body_that_says_that_it_is_huge_is_answered_at_once(service: Service) -> None:
    head = b"POST /v1/tasks/s.echo/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%s\r\n"
    for length, more in ((10**10, b""), (10**30, b""), (2_000_000, b"Expect: 100-continue\r\n")):
        reader, writer = await service.raw(head % (length, more))
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"application/problem+json" in answer
        assert answer.count(b"HTTP/1.1") == 1
        writer.close()


async def test_a_chunked_body_without_end_is_cut(service: Service) -> None:
    head = b"POST /v1/tasks/s.echo/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await service.raw(head)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    answered = asyncio.ensure_future(reader.readline())
    try:
        while not answered.done():
            writer.write(chunk)
            sent += len(chunk)
            await writer.drain()
    except ConnectionError:
        pass
    assert b" 413 " in await answered
    assert sent > MAX_BODY + MAX_DISCARDED
    writer.close()


async def test_a_client_that_leaves_while_it_sends(service: Service) -> None:
    head = b"POST /v1/tasks/s.echo/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    _, writer = await service.raw(head + b"{")
    await until(lambda: service.lifecycle._requests)
    writer.close()
    await asyncio.wait_for(service.lifecycle._idle.wait(), 5)


# Cancelling.


async def test_cancel_a_running_job(service: Service) -> None:
    made = job(await service.submit("s.nap", {"input": [60]}), 202)
    await service.started(made["id"])
    job(await service.post(f"{made['links']['self']}/cancel", {"terminate": True}), 202)
    done = job(await service.fetch(made["links"]["self"], headers={"Prefer": "wait=20"}), 200)
    assert done["state"] == "REVOKED"
    assert job(await service.fetch(f"{made['links']['self']}/cancel", "POST"), 200)["state"] == "REVOKED"


async def test_cancel_before_it_runs(service: Service) -> None:
    made = job(await service.submit("s.add", {"input": [1], "options": {"countdown": 0.5}}), 202)
    done = job(await service.fetch(f"{made['links']['self']}/cancel", "POST"), 200)
    assert (done["state"], done["attempt"], done["started_at"]) == ("REVOKED", 0, None)
    assert (await service.bridge.wait(made["id"], timeout=20)).state == "REVOKED"  # the worker has seen to it
    assert job(await service.fetch(made["links"]["self"]), 200) == done


@pytest.mark.parametrize(("body", "pointer"), [({"terminate": 1}, "/terminate"), ({"kill": True}, "/kill")])
async def test_cancel_with_something_else(service: Service, body: Any, pointer: str) -> None:
    response = await service.post("/v1/jobs/x/cancel", body)
    assert problem(response, 422, "invalid-body")["errors"][0]["pointer"] == pointer


# Listing, and trying again.


async def listed(service: Service, query: str) -> tuple[list[str], str | None]:
    response = await service.fetch(f"/v1/jobs?{query}")
    assert response.code == 200, response.body
    page = json.loads(response.body)
    return [job["id"] for job in page["jobs"]], page["next_cursor"]


async def test_queued_with_no_worker_pending_with_its_queues_depth(service: Service) -> None:
    async def depth(job_id: str) -> int:
        shown = job(await service.fetch(f"/v1/jobs/{job_id}"), 200)
        assert shown["state"] == "PENDING"
        found: int = shown["queue_depth"]
        return found

    async def submitted(**options: Any) -> str:
        body = {"input": [1], "options": {"queue": "quiet", **options}}
        made: str = job(await service.submit("s.add", body), 202)["id"]
        return made

    first = await submitted()
    before = await depth(first)
    assert before >= 1
    more = [await submitted(priority=priority) for priority in (0, 9)]
    assert await depth(first) == await depth(more[1]) == before + 2
    job(await service.post(f"/v1/jobs/{more[0]}/cancel"), 200)
    assert await depth(first) == before + 1
    done = job(await service.submit("s.add", {"input": [1]}, wait=10), 200)
    assert "queue_depth" not in job(await service.fetch(f"/v1/jobs/{done['id']}"), 200)


async def test_a_job_that_was_given_up(service: Service) -> None:
    dead = job(await service.submit("s.poison", wait=60), 200)
    assert (dead["state"], dead["attempt"], dead["error"]["retryable"]) == ("FAILURE", 3, False)
    assert dead["error"]["type"].endswith(":dead-lettered")
    ids, _ = await listed(service, "dead=true")
    assert ids == [dead["id"]]
    assert dead["id"] in (await listed(service, "dead=false&task=s.poison"))[0]
    assert (await listed(service, "dead=true&state=SUCCESS"))[0] == []
    job(await service.post(f"/v1/jobs/{dead['id']}/retry", {"options": {"queue": "quiet"}}), 202)


async def test_listing(service: Service) -> None:
    ids: list[str] = []
    for number in range(7):
        tags = ["list", "even" if number % 2 == 0 else "odd"]
        task = "s.add" if number < 4 else "s.fail"
        made = job(await service.submit(task, {"input": {}, "options": {"tags": tags}} if task == "s.fail" else
                                        {"input": [number], "options": {"tags": tags}}, wait=10), 200)  # fmt: skip
        ids.insert(0, made["id"])
    assert await listed(service, "tag=list") == (ids, None)
    long = "\N{EURO SIGN}" * 200
    await service.submit("s.echo", {"input": [long], "options": {"tags": ["list-long"]}}, wait=10)
    found = json.loads((await service.fetch("/v1/jobs?tag=list")).body)["jobs"]
    assert [each["arguments"] for each in found] == ["{}"] * 3 + ["[3]", "[2]", "[1]", "[0]"]
    (only,) = json.loads((await service.fetch("/v1/jobs?tag=list-long")).body)["jobs"]
    assert only["arguments"].startswith(f'["{long[:50]}')
    assert (len(only["arguments"]) <= 100, only["arguments"][-1]) == (True, "…")
    assert await listed(service, "tag=list&tag=odd") == (ids[1::2], None)
    assert await listed(service, "tag=list&task=s.fail") == (ids[:3], None)
    assert await listed(service, "tag=list&state=SUCCESS") == (ids[3:], None)
    assert await listed(service, "tag=list&state=PENDING") == ([], None)
    moment = json.loads((await service.fetch(f"/v1/jobs/{ids[2]}")).body)["created_at"]
    assert ids[:2] == (await listed(service, f"tag=list&since={moment}"))[0][:2]
    pages: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page, cursor = await listed(service, f"tag=list&limit=3{cursor and '&cursor=' + cursor}")
        assert len(page) <= 3
        pages += page
    assert pages == ids


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("stat=x", "/stat"),
        ("state=x", "/state"),
        ("limit=0", "/limit"),
        ("since=2026", "/since"),
        ("tag=", "/tag/0"),
        ("dead=1", "/dead"),
        ("limit=1&limit=2", "/limit"),
    ],
)
async def test_listing_with_something_else(service: Service, query: str, pointer: str) -> None:
    response = await service.fetch(f"/v1/jobs?{query}")
    assert problem(response, 400, "invalid-query")["errors"][0]["pointer"] == pointer
    problem(await service.fetch("/v1/jobs?cursor=x"), 400, "invalid-cursor")


async def test_a_query_where_there_is_none_is_refused(service: Service) -> None:
    """Not taken for something else: whoever comes from Flower writes ``?terminate=true``."""
    url = job(await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}}), 202)["links"]["self"]
    for path, name in (("", "timeout"), ("/input", "x"), ("/deliveries", "x")):
        response = await service.fetch(f"{url}{path}?{name}=5")
        assert problem(response, 400, "invalid-query")["errors"][0]["pointer"] == f"/{name}"
    problem(await service.post(f"{url}/cancel?terminate=true"), 400, "invalid-query")
    problem(await service.post("/v1/tasks/s.add/jobs?wait=1", {"input": [1]}), 400, "invalid-query")
    assert (await service.fetch("/healthz?from=a-proxy")).code == 200


async def test_trying_again(service: Service) -> None:
    body = {"input": {"x": 2, "y": 3}, "options": {"tags": ["again"], "priority": 7}}
    first = job(await service.submit("s.add", body, wait=10), 200)
    again = await service.post(f"{first['links']['self']}/retry", headers={"Prefer": "wait=10"})
    second = job(again, 200)
    assert (second["result"], second["tags"], second["priority"]) == (5, ["again"], 7)
    assert second["links"]["retry_of"] == first["links"]["self"]
    assert second["id"] != first["id"]
    edited = job(await service.post(f"{first['links']['self']}/retry", {"input": [4]}, {"Prefer": "wait=10"}), 200)
    assert edited["result"] == 5
    waiting = job(await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}}), 202)
    problem(await service.post(f"{waiting['links']['self']}/retry"), 409, "job-unfinished")


async def test_trying_again_from_where_it_was(service: Service) -> None:
    failed = job(await service.submit("s.goes_on", wait=10), 200)
    path = failed["links"]["self"]
    saved = failed["checkpoint"]
    assert (failed["state"], saved["value"], saved["attempt"]) == ("FAILURE", {"items": {"done": 3}}, 1)
    assert failed["started_at"] <= saved["saved_at"] <= failed["finished_at"]
    wait = {"Prefer": "wait=10"}
    assert job(await service.post(f"{path}/retry", {}, wait), 200)["state"] == "FAILURE"
    again = job(await service.post(f"{path}/retry", {"from_checkpoint": True}, wait), 200)
    assert (again["state"], again["result"], again["links"]["retry_of"]) == ("SUCCESS", [3, 4, 5], path)
    assert "checkpoint" not in again
    longer = {"from_checkpoint": True, "input": {"count": 5}, "options": {"tags": ["longer"]}}
    edited = job(await service.post(f"{path}/retry", longer, wait), 200)
    assert (edited["result"], edited["tags"]) == ([3, 4], ["longer"])
    response = await service.post(f"{again['links']['self']}/retry", {"from_checkpoint": True})
    problem(response, 409, "no-checkpoint")
    response = await service.post(f"{path}/retry", {"from_checkpoint": 1})
    assert problem(response, 422, "invalid-body")["errors"][0]["pointer"] == "/from_checkpoint"


async def test_a_cancelled_job_is_told_when_it_reports(service: Service) -> None:
    made = job(await service.submit("s.steps", {"input": {"count": 100}}, wait=1), 202)
    assert (await service.post(f"{made['links']['self']}/cancel", {})).code in (200, 202)  # it may end at once
    done = job(await service.fetch(made["links"]["self"], headers={"Prefer": "wait=5"}), 200)
    assert (done["state"], done["attempt"]) == ("REVOKED", 1)


# What a worker goes through.


async def test_celerys_own_retries(service: Service, tmp_path: Path) -> None:
    made = job(await service.submit("s.flaky", {"input": [str(tmp_path / "tries")]}, wait=20), 200)
    assert (made["state"], made["result"], made["attempt"]) == ("SUCCESS", 3, 3)
    assert "error" not in made
    with service.jobs.ledger.events.follow(made["id"]) as events:
        states = [json.loads(event.data).get("state") async for event in events if event.kind == "state"]
    assert states == ["STARTED", "RETRY", "STARTED", "RETRY", "STARTED"]
    told = (await service.fetch(f"{made['links']['self']}/events")).body.decode()
    assert told.count("event: state") == 1 + len(states)
    assert told.count('"detail":"not yet"') == 2


async def test_a_job_whose_process_is_killed_runs_again(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    made = job(await service.submit("s.pid", {"input": [str(path)]}), 202)
    await asyncio.to_thread(wait_for, lambda: path.exists() and path.read_text().endswith("\n"))
    first = int(await asyncio.to_thread(path.read_text))
    os.kill(first, signal.SIGKILL)
    done = job(await service.fetch(made["links"]["self"], headers={"Prefer": "wait=20"}), 200)
    assert (done["state"], done["attempt"]) == ("SUCCESS", 2)
    assert done["result"] != first


# Tasks.


async def test_tasks(service: Service) -> None:
    everything = json.loads((await service.fetch("/v1/tasks")).body)["tasks"]
    # Celery shares tasks among the apps of a process: other tests' tasks may be there as well.
    tasks = [task for task in everything if task["name"].startswith("s.")]
    assert [task["name"] for task in tasks] == [
        *(
            "s.add",
            "s.again",
            "s.echo",
            "s.fail",
            "s.flaky",
            "s.flat",
            "s.forgetful",
            "s.goes_on",
            "s.headers",
            "s.kinds",
            "s.letters",
            "s.log",
            "s.mark",
            "s.moments",
            "s.nan",
            "s.nap",
            "s.nests",
            "s.once",
            "s.paced",
            "s.pid",
            "s.poison",
            "s.size",
            "s.stay",
            "s.steps",
            "s.tells",
            "s.ticks",
            "s.total",
            "s.yields",
        )
    ]
    add = json.loads((await service.fetch(tasks[0]["links"]["self"])).body)
    assert add["summary"] == "Add two numbers."
    assert add["description"].endswith("More about it.")
    assert add["queue"] == add["defaults"]["queue"] == "websample"
    assert add["input"]["properties"]["y"] == {"default": 1, "title": "Y", "type": "integer"}
    assert add["input"]["required"] == ["x"]
    assert add["result"]["type"] == "integer"
    assert json.loads((await service.fetch("/v1/tasks/s.nap")).body)["defaults"]["time_limit"] == 60


# The process.


async def test_health_and_readiness(service: Service) -> None:
    assert json.loads((await service.fetch("/healthz")).body) == {"status": "alive"}
    ready = json.loads((await service.fetch("/readyz")).body)
    assert ready == {"status": "ready", "checks": {"broker": "ok", "result_backend": "ok", "ledger": "ok"}}
    service.lifecycle.closing.set()
    response = await service.fetch("/readyz")
    problem(response, 503, "shutting-down")
    assert response.headers["Connection"] == "close"
    problem(await service.submit("s.add", {"input": [1]}), 503, "shutting-down")


async def test_what_the_service_stands_on(service: Service) -> None:
    """As `tcb doctor` says it; see test_process.py."""
    service.bridge.app.conf.worker_prefetch_multiplier = 4
    ready = json.loads((await service.fetch("/readyz?verbose")).body)
    findings, broker = await asyncio.to_thread(diagnose, service.bridge.app)
    assert ready["broker"] == {"url": broker.url, "server": broker.server, "capabilities": broker.capabilities}
    assert [each["name"] for each in ready["findings"]] == [finding.name for finding in findings]
    (prefetch,) = (each for each in ready["findings"] if each["name"] == "prefetch")
    assert prefetch == {
        "name": "prefetch",
        "verdict": "unwise",
        "what": "worker_prefetch_multiplier is 4: jobs wait in the hands of busy workers",
        "remedy": "`app.conf.update(worker_prefetch_multiplier=1)` beside the app",
    }


async def test_headers_of_every_answer(service: Service) -> None:
    for path in ("/healthz", "/no", "/v1/jobs/no", "/v1/tasks"):
        response = await service.fetch(path)
        assert "Server" not in response.headers
        assert ("Etag" in response.headers) == (path == "/v1/tasks")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert len(response.headers["X-Request-Id"]) == 16


async def test_one_log_line_for_a_request_whatever_is_in_it(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tornado_celery_bridge.access")
    response = await service.fetch("/v1/jobs/%0aINFO%20forged?secret=1", headers={"X-Evil": "a"})
    await service.submit("s.echo", {"input": {"value": "confidential"}})
    lines = [
        OneLineFormatter().format(record) for record in caplog.records if record.name == "tornado_celery_bridge.access"
    ]
    assert len(lines) == 2
    assert f"request={response.headers['X-Request-Id']}" in lines[0]
    assert f"trace={response.headers['traceparent'].split('-')[1]}" in lines[0]
    assert "status=400" in lines[0]
    assert "secret" not in lines[0]
    assert "confidential" not in caplog.text


async def test_a_task_that_calls_itself(service: Service) -> None:
    assert job(await service.submit("s.flat", {"input": [["a", ["bc", []]]]}, wait=10), 200)["result"] == [1, [2, []]]
