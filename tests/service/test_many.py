"""Jobs that are deleted, and operations on all jobs that a filter fits; over HTTP, with keys and a real worker."""

import json
import uuid
from typing import Any

from tests.service.keys import Guarded
from tests.service.site import problem
from tornado_celery_bridge.ledger import Filter


async def ask(site: Guarded, name: str, path: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
    content = None if body is None else json.dumps(body).encode()
    options: dict[str, Any] = {} if content is None else {"body": content}
    return await site.fetch(name, path, method, headers=headers, **options)


async def operate(site: Guarded, name: str, action: str, narrowed: Any, code: int = 200, **more: Any) -> Any:
    body = {"action": action, "filter": narrowed, "dry_run": False, **more}
    response = await ask(site, name, "/v1/operations", "POST", body, Prefer="wait=20")
    assert response.code == code, response.body
    return json.loads(response.body)


async def submitted(site: Guarded, name: str, task: str, given: Any, tag: str, **options: Any) -> str:
    body = {"input": given, "options": {"tags": [tag], **options}}
    prefer = {} if "countdown" in options else {"Prefer": "wait=20"}
    response = await ask(site, name, f"/v1/tasks/{task}/jobs", "POST", body, **prefer)
    assert response.code in (200, 202), response.body
    return str(json.loads(response.body)["id"])


async def states(site: Guarded, name: str, query: str) -> list[str]:
    jobs = json.loads((await ask(site, name, f"/v1/jobs?{query}")).body)["jobs"]
    return sorted(job["state"] for job in jobs)


def of(entries: Any, path: str) -> list[tuple[str, int]]:
    """Return method and status of the entries about a path. Others' are there as well, and some are no requests."""
    return [(each["method"], each["status"]) for each in entries if each.get("target") == path]


async def test_a_job_is_deleted(site: Guarded) -> None:
    waiting = await submitted(site, "alice", "s.add", {"x": 1}, "gone", countdown=600)
    problem(await ask(site, "alice", f"/v1/jobs/{waiting}", "DELETE"), 409, "job-unfinished")
    done = await submitted(site, "alice", "s.add", {"x": 1}, "gone")
    path = f"/v1/jobs/{done}"
    problem(await ask(site, "bob", path, "DELETE"), 404, "unknown-job")
    problem(await ask(site, "reader", path, "DELETE"), 403, "forbidden-scope")
    assert (await ask(site, "alice", path, "DELETE")).code == 204
    problem(await ask(site, "alice", path), 410, "expired-job")
    assert await site.service.jobs.ledger.redis.call("EXISTS", f"celery-task-meta-{done}") == 0
    assert await states(site, "alice", "tag=gone") == ["PENDING"]
    await site.service.product.audit.close()
    entries = json.loads((await ask(site, "admin", "/v1/audit")).body)["entries"]
    assert ("DELETE", 204) in of(entries, path)
    await ask(site, "alice", f"/v1/jobs/{waiting}/cancel", "POST", {})


async def test_many_are_counted_cancelled_retried_and_deleted(site: Guarded) -> None:
    tag = f"many-{uuid.uuid4()}"  # other tests' jobs are in the same ledger
    for number in range(3):
        await submitted(site, "alice", "s.add", {"x": number}, tag, countdown=600)
    await submitted(site, "alice", "s.add", {"x": 1}, tag)
    theirs = await submitted(site, "bob", "s.add", {"x": 1}, tag, countdown=600)
    narrowed = {"tag": [tag], "task": "s.add", "since": "2026-01-01T00:00:00Z"}
    counted = await operate(site, "alice", "cancel", narrowed, dry_run=True)
    assert (counted["state"], counted["matched"], counted["acted"], counted["skipped"]) == ("DONE", 4, 3, {"ended": 1})
    assert counted["filter"] == {**narrowed, "owner": "alice", "since": "2026-01-01T00:00:00.000Z"}
    assert await states(site, "alice", f"tag={tag}&state=PENDING") == ["PENDING"] * 3
    done = await operate(site, "alice", "cancel", narrowed)
    assert (done["acted"], done["done"], done["progress"]["current"]) == (3, True, done["progress"]["total"])
    assert json.loads((await ask(site, "alice", done["links"]["self"])).body) == done
    assert await states(site, "alice", f"tag={tag}") == ["REVOKED"] * 3 + ["SUCCESS"]
    assert await states(site, "bob", f"tag={tag}") == ["PENDING"]
    again = await operate(site, "alice", "retry", {"tag": [tag]})
    assert (again["acted"], again["skipped"]) == (3, {"succeeded": 1})
    for each in json.loads((await ask(site, "alice", f"/v1/jobs?tag={tag}")).body)["jobs"]:
        await ask(site, "alice", f"/v1/jobs/{each['id']}", "GET", Prefer="wait=20")
    assert await states(site, "alice", f"tag={tag}") == ["REVOKED"] * 3 + ["SUCCESS"] * 4
    once_more = await operate(site, "alice", "retry", {"tag": [tag]})
    assert (once_more["acted"], once_more["skipped"]) == (0, {"retried-before": 3, "succeeded": 4})
    gone = await operate(site, "admin", "delete", {"tag": [tag]})
    assert (gone["acted"], gone["skipped"]) == (7, {"not-ended": 1})
    assert await states(site, "admin", f"tag={tag}") == ["PENDING"]
    await ask(site, "bob", f"/v1/jobs/{theirs}/cancel", "POST", {})


async def test_jobs_are_searched(site: Guarded) -> None:
    body = {"input": {"message": "of order 777"}, "options": {"metadata": {"customer": "Grace"}, "tags": ["searched"]}}
    made = json.loads((await ask(site, "alice", "/v1/tasks/s.fail/jobs", "POST", body, Prefer="wait=20")).body)
    assert made["metadata"] == {"customer": "Grace"}
    for query, fit in (
        ("q=%22order%20777%22", [made["id"]]),
        ("q=grace+valueerror&worker=nobody", []),
        ("q=grace+valueerror&min_duration=0", [made["id"]]),
        ("q=order+778", []),
    ):
        found = json.loads((await ask(site, "alice", f"/v1/jobs?tag=searched&{query}")).body)
        assert ([job["id"] for job in found["jobs"]], found["next_cursor"]) == (fit, None), query
    again = json.loads((await ask(site, "alice", f"/v1/jobs/{made['id']}/retry", "POST", {})).body)
    assert again["metadata"] == {"customer": "Grace"}
    assert await states(site, "bob", "q=grace") == []
    problem(await ask(site, "alice", "/v1/jobs?q="), 400, "invalid-query")


async def test_who_may(site: Guarded) -> None:
    body = {"action": "retry", "filter": {}, "dry_run": False}
    problem(await ask(site, "canceller", "/v1/operations", "POST", body), 403, "forbidden-scope")
    problem(await ask(site, "reader", "/v1/operations", "POST", {**body, "action": "delete"}), 403, "forbidden-scope")
    problem(await ask(site, "submitter", "/v1/operations", "POST", {**body, "dry_run": True}), 403, "forbidden-scope")
    counted = await operate(site, "reader", "delete", {"owner": "bob"}, dry_run=True)
    assert (counted["owner"], counted["matched"]) == ("alice", 0)
    for name, code in (("alice", 200), ("admin", 200), ("bob", 404)):
        assert (await ask(site, name, counted["links"]["self"])).code == code
    problem(await ask(site, "bob", counted["links"]["cancel"], "POST", {}), 404, "unknown-operation")
    ended = json.loads((await ask(site, "alice", counted["links"]["cancel"], "POST", {})).body)
    assert ended["state"] == "DONE"  # as it was
    listed = json.loads((await ask(site, "alice", "/v1/operations")).body)["operations"]
    assert counted["id"] in [each["id"] for each in listed]
    for wrong in ({"action": "cancel"}, {"action": "stop", "filter": {}}, {"action": "cancel", "filter": {"since": 5}}):
        problem(await ask(site, "alice", "/v1/operations", "POST", wrong), 422, "invalid-body")


async def test_an_operation_ends_with_its_key(site: Guarded) -> None:
    operations = site.service.jobs.ledger.operations
    made = await operations.begin("cancel", Filter(), owner="o", by="no.key")
    assert made is not None
    site.service.product.operator.wake()
    found = json.loads((await ask(site, "admin", f"/v1/operations/{made.id}", Prefer="wait=20")).body)
    assert (found["state"], found["matched"]) == ("CANCELLED", 0)
    assert "key" in found["detail"]


async def patch(site: Guarded, name: str, job_id: str, body: Any) -> Any:
    return await site.fetch(name, f"/v1/jobs/{job_id}", "PATCH", body=json.dumps(body).encode(), headers=MERGE)


MERGE = {"Content-Type": "application/merge-patch+json"}


async def test_a_job_that_waits_is_changed(site: Guarded) -> None:
    """Later, now, with another input; held back and released: by a real worker, whose broker has the old message."""
    job_id = await submitted(site, "alice", "s.add", {"x": 1}, "changed", countdown=600)
    held = json.loads(
        (await patch(site, "alice", job_id, {"held": True, "priority": 7, "input": {"x": 40, "y": 2}})).body
    )
    assert (held["held"], held["priority"], held["state"]) == (True, 7, "PENDING")
    now = json.loads((await patch(site, "alice", job_id, {"eta": None})).body)
    assert (now["eta"], now["held"]) == (None, True)
    released = await patch(site, "alice", job_id, {"held": False})
    assert released.code == 200
    done = json.loads((await ask(site, "alice", f"/v1/jobs/{job_id}", Prefer="wait=20")).body)
    assert (done["state"], done["result"], done["attempt"]) == ("SUCCESS", 42, 1)
    assert json.loads((await ask(site, "alice", f"/v1/jobs/{job_id}/input")).body) == {"x": 40, "y": 2}
    refused = problem(await patch(site, "alice", job_id, {"held": True}), 409, "job-begun")
    assert "SUCCESS" in refused["detail"]
    events = (await ask(site, "alice", f"/v1/jobs/{job_id}/events?after=0")).body.decode()
    assert events.count("event: changed") == 3
    await site.service.product.audit.close()
    entries = json.loads((await ask(site, "admin", "/v1/audit")).body)["entries"]
    assert of(entries, f"/v1/jobs/{job_id}") == [*[("PATCH", 200)] * 3, ("POST", 202)]


async def test_what_no_change_may_be(site: Guarded) -> None:
    job_id = await submitted(site, "alice", "s.add", {"x": 1}, "unchanged", countdown=600)
    for body, code in (
        ({"queue": "nowhere"}, "invalid-options"),
        ({"input": {"z": 1}}, "invalid-input"),
        ({"priority": 10}, "invalid-body"),
        ({"queue": None}, "invalid-body"),
        ({"eta": "2099-01-01T00:00:00Z"}, "invalid-body"),
        ({"state": "SUCCESS"}, "invalid-body"),
        ({}, "invalid-body"),
    ):
        problem(await patch(site, "alice", job_id, body), 422, code)
    problem(await patch(site, "bob", job_id, {"held": True}), 404, "unknown-job")
    problem(await patch(site, "reader", job_id, {"held": True}), 403, "forbidden-scope")
    chain = {"chain": [{"task": "s.add", "input": {"x": 1}, "options": {"countdown": 600}}, {"task": "s.add"}]}
    made = json.loads((await ask(site, "alice", "/v1/workflows", "POST", chain)).body)
    jobs = json.loads((await ask(site, "alice", "/v1/jobs?task=s.add&state=PENDING")).body)["jobs"]
    steps = [job["id"] for job in jobs if job["links"].get("workflow") == f"/v1/workflows/{made['id']}"]
    assert len(steps) == 2
    for step in steps:
        assert "workflow" in problem(await patch(site, "alice", step, {"held": True}), 409, "job-begun")["detail"]
    assert json.loads((await ask(site, "alice", f"/v1/jobs/{job_id}")).body)["held"] is False
    await operate(site, "alice", "cancel", {"tag": ["unchanged"]})
    await ask(site, "alice", f"/v1/workflows/{made['id']}/cancel", "POST", {})
