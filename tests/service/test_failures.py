"""Groups of failures over HTTP: read, tried again, resolved."""

import json
from typing import Any

import pytest

from tests.service.keys import Guarded
from tests.service.site import problem


@pytest.fixture
async def site(site: Guarded) -> Guarded:
    for group in await site.service.jobs.ledger.failures.groups():  # of other tests
        await site.service.jobs.ledger.failures.resolve(group.id)
    return site


async def failed(site: Guarded, name: str, message: str) -> str:
    response = await site.submit(name, "s.fail", {"message": message}, Prefer="wait=30")
    job: dict[str, Any] = json.loads(response.body)
    assert job["state"] == "FAILURE"
    return str(job["id"])


async def groups(site: Guarded, name: str) -> list[dict[str, Any]]:
    response = await site.fetch(name, "/v1/failures")
    assert response.code == 200, response.body
    return list(json.loads(response.body)["failures"])


async def post(site: Guarded, name: str, path: str, body: Any = None) -> Any:
    response = await site.fetch(name, path, "POST", body=json.dumps(body or {}).encode())
    assert response.code in (200, 202, 204), response.body
    return json.loads(response.body) if response.body else None


async def test_a_group_is_read_tried_again_and_resolved(site: Guarded) -> None:
    first, second = await failed(site, "alice", "first"), await failed(site, "alice", "second")
    (group,) = await groups(site, "alice")
    assert {name: group[name] for name in ("owner", "task", "exception", "place", "detail", "count", "jobs")} == {
        **{
            "owner": "alice",
            "task": "s.fail",
            "exception": "builtins.ValueError",
            "place": "service/sample.py in fail",
        },
        **{"detail": "second", "count": 2, "jobs": 2},
    }
    assert group["first_seen"] < group["last_seen"]
    listed = json.loads((await site.fetch("alice", group["links"]["jobs"])).body)["jobs"]
    assert [job["id"] for job in listed] == [second, first]
    counted = await post(site, "alice", group["links"]["retry"])
    assert counted == {"dry_run": True, "jobs": 2, "job_ids": [], "refused": []}
    done = await post(site, "alice", group["links"]["retry"], {"dry_run": False})
    assert (done["jobs"], len(done["job_ids"]), done["refused"]) == (2, 2, [])
    again = [
        json.loads((await site.fetch("alice", f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"})).body)
        for job_id in done["job_ids"]
    ]
    assert {job["links"]["retry_of"][-36:] for job in again} == {first, second}
    assert {job["error"]["detail"] for job in again} == {"first", "second"}
    (group,) = await groups(site, "alice")
    assert (group["count"], group["jobs"]) == (4, 2)  # the new ones
    await post(site, "alice", group["links"]["resolve"])
    assert await groups(site, "alice") == []
    await failed(site, "alice", "third")
    assert [(group["count"], group["jobs"]) for group in await groups(site, "alice")] == [(1, 1)]


async def test_others_failures_are_none(site: Guarded) -> None:
    await failed(site, "alice", "hers")
    assert await groups(site, "bob") == []
    (group,) = await groups(site, "admin")
    for action in ("retry", "resolve"):
        problem(await site.fetch("bob", group["links"][action], "POST"), 404, "unknown-failure")
    assert await groups(site, "alice") == [group]


async def test_what_is_refused_is_said(site: Guarded) -> None:
    job_id = await failed(site, "alice", "lost input")
    (group,) = await groups(site, "alice")
    await site.service.jobs.ledger.redis.call("DEL", f"{site.service.jobs.ledger.redis.prefix}input:{job_id}")
    done = await post(site, "alice", group["links"]["retry"], {"dry_run": False})
    (refused,) = done["refused"]
    assert (done["jobs"], done["job_ids"], refused["job_id"], refused["problem"]["code"]) == (
        *(1, [], job_id, "expired-job"),
    )
    for body in ({"dry_run": 0}, {"dry": False}):
        response = await site.fetch("alice", group["links"]["retry"], "POST", body=json.dumps(body).encode())
        problem(response, 422, "invalid-body")
