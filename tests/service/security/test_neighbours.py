"""What one tenant does takes nothing from another: names, jobs, schedules, places, and time."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.servers import Database
from tests.service.keys import Guarded, guarded, write
from tests.service.site import problem
from tornado_celery_bridge.schedules import Entry, RunRefused, Schedules
from tornado_celery_bridge.schedules import scheduler as beat
from tornado_celery_bridge.service.access.keys import ApiKey, Principal
from tornado_celery_bridge.service.http.problems import Problem

ADD: dict[str, Any] = {"task": "s.add", "input": [1], "interval": 60}


async def send(town: Guarded, name: str, method: str, path: str = "", body: Any = None, **headers: str) -> Any:
    content = None if body is None else json.dumps(body).encode()
    headers["Content-Type"] = "application/json"
    return await town.fetch(name, f"/v1/schedules{path}", method, body=content, headers=headers)


@pytest.fixture
async def alone(database: Database, everybody: tuple[Path, dict[str, str]]) -> AsyncIterator[Guarded]:
    """The same service, in a database of its own, where no worker takes what is accepted."""
    async with guarded(database.url, everybody) as site:
        yield site


@pytest.fixture
def schedules(alone: Guarded) -> Schedules:
    return Schedules(alone.service.jobs.ledger, alone.app)


async def test_names_of_schedules_are_their_owners(alone: Guarded) -> None:
    for name in ("alice", "bob"):
        made = await send(alone, name, "POST", "", {"name": "nightly", **ADD, "note": name})
        assert (made.code, made.headers["Location"]) == (201, f"/v1/schedules/{name}~nightly")
    for name, other in (("alice", "bob"), ("bob", "alice")):
        for path in ("/nightly", f"/{name}~nightly"):
            shown = json.loads((await send(alone, name, "GET", path)).body)
            assert (shown["name"], shown["note"], shown["owner"]) == ("nightly", name, name)
        for method, path in (
            *(("GET", ""), ("GET", "/next"), ("GET", "/runs"), ("DELETE", ""), ("POST", "/run"), ("POST", "/pause")),
            *(("PUT", ""), ("PATCH", ""), ("POST", "/backfill")),
        ):
            body: Any = {"POST": {}, "PUT": ADD, "PATCH": {"note": "x"}}.get(method)
            if path == "/backfill":
                body = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}
            # Of a schedule that is there, and of one that is not, they learn the same.
            answers = [await send(alone, name, method, f"/{other}~{which}{path}", body) for which in ("nightly", "x")]
            for answer in answers:
                problem(answer, 404, "unknown-schedule")
    listed = json.loads((await send(alone, "admin", "GET")).body)["schedules"]
    assert [(each["name"], each["owner"]) for each in listed] == [("nightly", "alice"), ("nightly", "bob")]
    assert json.loads((await send(alone, "admin", "GET", "/bob~nightly")).body)["note"] == "bob"
    problem(await send(alone, "admin", "GET", "/nightly"), 404, "unknown-schedule")
    changed = json.loads((await send(alone, "admin", "PATCH", "/bob~nightly", {"note": "by root"})).body)
    assert (changed["owner"], changed["note"], changed["links"]["self"]) == (
        *("bob", "by root"),
        "/v1/schedules/bob~nightly",
    )
    problem(await send(alone, "bob", "POST", "", {"name": "nightly", **ADD}), 409, "schedule-exists")
    problem(await send(alone, "bob", "POST", "", {"name": "alice~x", **ADD}), 422, "invalid-schedule")


async def test_the_runs_of_a_backfill_are_their_owners(alone: Guarded) -> None:
    past = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T03:00:00Z", "dry_run": False}
    ids = {}
    for name in ("alice", "bob"):
        crontab = {"name": "hourly", "task": "s.add", "input": [1], "crontab": "0 * * * *"}
        assert (await send(alone, name, "POST", "", crontab)).code == 201
        begun = json.loads((await send(alone, name, "POST", "/hourly/backfill", past)).body)
        assert len(begun["job_ids"]) == 3
        ids[name] = begun["job_ids"]
        job = json.loads((await alone.fetch(name, f"/v1/jobs/{begun['job_ids'][0]}")).body)
        assert (job["schedule"], job["links"]["schedule"]) == ("hourly", f"/v1/schedules/{name}~hourly")
    assert not set(ids["alice"]) & set(ids["bob"])
    problem(await alone.fetch("bob", f"/v1/jobs/{ids['alice'][0]}"), 404, "unknown-job")


async def test_an_entity_tag_is_no_others(alone: Guarded) -> None:
    """Of a schedule that was deleted, and of the one that has its name now."""
    first = await send(alone, "alice", "POST", "", {"name": "mine", **ADD})
    assert (await send(alone, "alice", "DELETE", "/mine", None, **{"If-Match": first.headers["Etag"]})).code == 204
    second = await send(alone, "alice", "POST", "", {"name": "mine", **ADD})
    assert second.headers["Etag"] != first.headers["Etag"]
    for method, body in (("DELETE", None), ("PUT", ADD), ("PATCH", {"note": "x"})):
        stale = await send(alone, "alice", method, "/mine", body, **{"If-Match": first.headers["Etag"]})
        problem(stale, 412, "precondition-failed")


async def test_an_admins_retry_leaves_the_job_its_owner(town: Guarded) -> None:
    failed = json.loads((await town.submit("alice", "s.fail", ["no"], Prefer="wait=20")).body)
    assert failed["state"] == "FAILURE"
    again = json.loads((await town.fetch("admin", f"/v1/jobs/{failed['id']}/retry", "POST")).body)
    seen = await town.fetch("alice", f"/v1/jobs/{again['id']}", headers={"Prefer": "wait=20"})
    assert json.loads(seen.body)["links"]["retry_of"] == f"/v1/jobs/{failed['id']}"
    job = await town.service.jobs.ledger.jobs.get(again["id"])
    assert job is not None
    assert job.owner == "alice"
    problem(await town.fetch("bob", f"/v1/jobs/{again['id']}"), 404, "unknown-job")
    groups = json.loads((await town.fetch("alice", "/v1/failures")).body)["failures"]
    [group] = [each for each in groups if each["task"] == "s.fail"]
    body = b'{"dry_run": false}'
    of_group = await town.fetch("admin", f"/v1/failures/{group['id']}/retry", "POST", body=body)
    for job_id in json.loads(of_group.body)["job_ids"]:
        found = await town.service.jobs.ledger.jobs.get(job_id)
        assert found is not None
        assert found.owner == "alice"


# Bounds of an owner's schedules.


async def test_an_owner_has_so_many_schedules(alone: Guarded) -> None:
    most = ApiKey.model_fields["max_schedules"].default
    for number in range(most):
        assert (await send(alone, "alice", "POST", "", {"name": f"s{number}", **ADD})).code == 201
    problem(await send(alone, "alice", "POST", "", {"name": "more", **ADD}), 429, "too-many-schedules")
    problem(await send(alone, "alice", "PUT", "/more", ADD), 429, "too-many-schedules")
    assert (await send(alone, "alice", "PUT", "/s0", ADD)).code == 200
    assert (await send(alone, "bob", "POST", "", {"name": "s0", **ADD})).code == 201
    assert (await send(alone, "alice", "DELETE", "/s1")).code == 204
    assert (await send(alone, "alice", "PUT", "/more", ADD)).code == 201


async def test_no_schedule_runs_more_often_than_once_a_second(alone: Guarded) -> None:
    for interval, status in ((0.1, 422), (0.99, 422), (1.0, 201)):
        response = await send(alone, "alice", "PUT", "/often", {**ADD, "interval": interval})
        assert response.code == status
    problem(await send(alone, "alice", "PATCH", "/often", {"interval": 0.5}), 422, "invalid-schedule")


@pytest.fixture
def ticking(alone: Guarded) -> Iterator[Any]:
    """Beat's scheduler, which leads: call it to do what is due."""
    app: Celery = alone.app
    made = beat.Scheduler(app, lazy=False)
    yield made
    made.close()


async def due_now(alone: Guarded, key: str) -> None:
    """Have an entry be due now, whenever its next run is."""
    redis, prefix = alone.service.jobs.ledger.redis, alone.service.jobs.ledger.redis.prefix
    seconds, micros = await redis.call("TIME")
    slot = int(seconds) * 1000 + int(micros) // 1000
    await redis.call("HSET", f"{prefix}schedule:{key}", "slot", slot)
    await redis.call("ZADD", f"{prefix}schedules:due", slot, key)


async def outcome(alone: Guarded, scheduler: Any, key: str, schedules: Schedules) -> str | None:
    """Let beat see to an entry that is due, and return why its run did not begin; None if it did."""
    before = len(await schedules.runs(key))
    await due_now(alone, key)
    async with asyncio.timeout(20):
        while len(runs := await schedules.runs(key)) == before:
            await asyncio.to_thread(scheduler.tick)
    return runs[0].why or None


async def test_runs_begin_while_the_owners_key_lets_them(
    alone: Guarded, ticking: Any, schedules: Schedules, everybody: tuple[Path, dict[str, str]]
) -> None:
    keyring, product = alone.keyring, alone.service.product

    async def keys_are(change: Any) -> None:
        """Change alice's and her viewer's keys, as an administrator would."""
        entries = [key.model_dump(mode="json", exclude_none=True) for key in keyring._keys.values()]
        await asyncio.to_thread(write, everybody[0], *(made for entry in entries if (made := change(entry))))
        await keyring.refresh()
        await product.tell_owners()

    def alices(**fields: Any) -> Any:
        return lambda entry: entry | fields if entry["owner"] == "alice" and "submit" in entry["scopes"] else entry

    for name in ("alice", "bob"):
        assert (await send(alone, name, "POST", "", {"name": "x", **ADD})).code == 201
    assert await outcome(alone, ticking, "alice~x", schedules) is None
    await keys_are(alices(expires_at="2026-01-01T00:00:00Z"))
    assert await outcome(alone, ticking, "alice~x", schedules) == "revoked"
    await keys_are(alices(expires_at="2099-01-01T00:00:00Z"))
    assert await outcome(alone, ticking, "alice~x", schedules) is None
    await keys_are(alices(tasks=["s.echo", "s.a"]))
    assert await outcome(alone, ticking, "alice~x", schedules) == "revoked"
    await keys_are(alices(tasks=["s.a*"], max_unfinished=2))
    assert await outcome(alone, ticking, "alice~x", schedules) == "full"  # two runs are unfinished: nobody takes them
    problem(await send(alone, "alice", "POST", "/x/run", {}), 429, "too-many-unfinished-jobs")
    past = {"since": "2026-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z", "dry_run": False}
    await keys_are(alices(max_unfinished=3))
    assert (await send(alone, "alice", "POST", "/x/run", {})).code == 202
    problem(await send(alone, "alice", "POST", "/x/run", {}), 429, "too-many-unfinished-jobs")
    crontab = {"name": "hourly", "task": "s.add", "input": [1], "crontab": "0 * * * *"}
    assert (await send(alone, "alice", "POST", "", crontab)).code == 201
    past["until"] = "2026-01-01T05:00:00Z"
    problem(await send(alone, "alice", "POST", "/hourly/backfill", past), 429, "too-many-unfinished-jobs")
    await keys_are(alices(max_unfinished=5))
    assert len(json.loads((await send(alone, "alice", "POST", "/hourly/backfill", past)).body)["job_ids"]) == 2
    await keys_are(lambda entry: None if entry["owner"] == "alice" else entry)
    assert await outcome(alone, ticking, "alice~x", schedules) == "revoked"
    problem(await send(alone, "admin", "POST", "/alice~x/run", {}), 409, "schedule-revoked")
    assert await outcome(alone, ticking, "bob~x", schedules) is None


async def test_an_owner_has_so_many_unfinished_runs(alone: Guarded, schedules: Schedules) -> None:
    """Beside what keys allow: 1,000."""
    redis, prefix = alone.service.jobs.ledger.redis, alone.service.jobs.ledger.redis.prefix
    await redis.call("HSET", f"{prefix}open:runs", "alice", 999)
    entry = Entry(name="x", owner="alice", task="s.add", input=[1], interval=60)
    assert (await schedules.create(entry)).entry.key == "alice~x"
    job_id = await schedules.run("alice~x")
    with pytest.raises(RunRefused, match="as many unfinished jobs"):
        await schedules.run("alice~x")
    await alone.service.jobs.ledger.jobs.cancel(job_id)
    assert await schedules.run("alice~x")
    await schedules.create(Entry(name="x", task="s.add", input=[1], interval=60))
    assert await schedules.run("x")  # nobody's: the deployment's own
    assert await redis.call("HGET", f"{prefix}open:runs", "alice") == b"1000"


# What a process has for all.


async def test_a_key_follows_so_many_jobs(town: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in town.keyring._keys.values():
        if each.owner == "bob":
            each.__dict__.pop("principal", None)
            object.__setattr__(each, "max_followed", 3)
    jobs = [json.loads((await town.submit("alice", "s.nap", [30])).body) for _ in range(2)]
    mine = [json.loads((await town.fetch("bob", "/v1/tasks/s.add/jobs", "POST", body=COUNTDOWN)).body) for _ in "abcd"]
    key = town.keys["bob"]

    async def opened(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
        reader, writer = await town.service.raw(head.encode())
        assert b" 200 " in await reader.readline()
        await reader.readuntil(b"event: state")
        return reader, writer

    both = f"/v1/events?job={mine[0]['id']}&job={mine[1]['id']}"
    _, first = await opened(both)
    problem(await town.fetch("bob", both), 429, "too-many-followed")
    _, second = await opened(mine[2]["links"]["events"])
    for path in (mine[3]["links"]["events"], mine[3]["links"]["events"].replace("/events", "/ws")):
        handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        handshake["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        refused = await town.fetch("bob", path, headers=handshake if path.endswith("ws") else {})
        problem(refused, 429, "too-many-followed")
    problem(await town.fetch("bob", mine[3]["links"]["self"], headers={"Prefer": "wait=5"}), 429, "too-many-followed")
    # What is submitted is accepted, and not waited for.
    at_once = await town.fetch("bob", "/v1/tasks/s.add/jobs", "POST", body=COUNTDOWN, headers={"Prefer": "wait=20"})
    assert at_once.code == 202
    assert (await town.fetch("alice", jobs[0]["links"]["self"], headers={"Prefer": "wait=1"})).code == 200
    first.close()
    second.close()
    async with asyncio.timeout(10):
        while (await town.fetch("bob", mine[3]["links"]["self"], headers={"Prefer": "wait=1"})).code != 200:
            await asyncio.sleep(0.02)
    for name, made in (("alice", jobs), ("bob", [*mine, json.loads(at_once.body)])):
        for job in made:
            await town.fetch(name, f"{job['links']['self']}/cancel", "POST", body=b'{"terminate": true}')


async def test_an_owner_follows_no_more_jobs_by_several_keys(town: Guarded) -> None:
    one, other, neighbour = (
        Principal(owner=owner, scopes=frozenset(), max_followed=3, key_id=key_id)
        for owner, key_id in (("bob", "a"), ("bob", "b"), ("alice", "c"))
    )
    jobs = town.service.jobs
    with jobs.follows(one, 2), jobs.follows(neighbour, 3):
        with pytest.raises(Problem, match="429"), jobs.follows(other, 2):
            pass
        with jobs.follows(other, 1):
            pass
    with jobs.follows(other, 3):
        pass


COUNTDOWN = b'{"input": [1], "options": {"countdown": 60}}'
