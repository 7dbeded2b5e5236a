"""No list, and nothing that a request asks for in one word, is larger than its bound: in bytes, in work, in Redis."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from tests.servers import Database
from tests.service.keys import Guarded, guarded, made, write
from tests.service.site import problem
from tornado_celery_bridge.ledger import MAX_INLINE
from tornado_celery_bridge.ledger import jobs as ledger_jobs
from tornado_celery_bridge.schedules import Entry, Schedules
from tornado_celery_bridge.service.http.query import MAX_PAGE
from tornado_celery_bridge.service.resources.workflows import service as workflows

LARGE = "x" * (MAX_INLINE - 100)


@pytest.fixture
async def alone(database: Database, everybody: tuple[Path, dict[str, str]]) -> AsyncIterator[Guarded]:
    """The same service, in a database of its own, where no worker takes what is accepted."""
    async with guarded(database.url, everybody) as site:
        yield site


async def test_pages_of_schedules_have_a_bound_in_bytes(alone: Guarded) -> None:
    schedules = Schedules(alone.service.jobs.ledger, alone.app)
    names = [f"n{number:02}" for number in range(10)]
    for name in names:
        # Of every second one the page may show nothing.
        task = "s.echo" if int(name[1:]) % 2 else "s.add"
        await schedules.create(Entry(name=name, owner="alice", task=task, input=[LARGE], interval=3600))
    for query, wanted in (("limit=200", names), ("limit=200&task=s.echo", names[1::2]), ("limit=1", names)):
        found, cursor, pages = list[str](), "", 0
        while pages == 0 or cursor:
            page = await alone.fetch("alice", f"/v1/schedules?{query}&cursor={cursor}")
            assert len(page.body) < MAX_PAGE + MAX_INLINE + 10_000
            told = json.loads(page.body)
            found += [each["name"] for each in told["schedules"]]
            cursor, pages = told["next_cursor"], pages + 1
        assert found == wanted
        assert pages >= 2


async def test_a_workflow_of_failures_has_a_bound_in_bytes(town: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error may have 16 KiB: of a thousand there are those that fit, and the others are read alone."""
    monkeypatch.setattr(workflows, "MAX_SHOWN", 200_000)
    group = json.dumps({"group": [{"task": "s.fail", "input": ["x" * 7_900]}] * 100}).encode()
    sent = json.loads((await town.fetch("alice", "/v1/workflows", "POST", body=group)).body)
    done = await town.fetch("alice", sent["links"]["self"], headers={"Prefer": "wait=60"}, request_timeout=70)
    ended = json.loads(done.body)
    assert (ended["state"], ended["done"]) == ("FAILURE", 100)
    assert len(done.body) < 2 * 200_000
    steps = ended["tree"]["group"]
    shown = [step["error"]["detail"] for step in steps if "error" in step]
    assert shown[0] == "x" * 7_900
    assert 20 < len(shown) < 50
    alone = json.loads((await town.fetch("alice", steps[-1]["links"]["self"])).body)
    assert alone["error"]["detail"] == "x" * 7_900


async def test_lists_that_are_followed_are_kept_for_each_owner(alone: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer who asks for ever other tags leaves no lists for a day without end."""
    monkeypatch.setattr(ledger_jobs, "MAX_LISTS", 5)
    redis = alone.service.jobs.ledger.redis
    tags = [f"t{number}" for number in range(12)]
    submit = ("/v1/tasks/s.add/jobs", "POST")
    for number, _ in enumerate(tags):
        options = {"countdown": 600, "tags": tags[: number + 1]}
        body = json.dumps({"input": [number], "options": options}).encode()
        assert (await alone.fetch("alice", *submit, body=body)).code == 202
    assert (
        await alone.fetch("bob", *submit, body=b'{"input": [1], "options": {"countdown": 600, "tags": ["t0"]}}')
    ).code == 202

    async def first_id(name: str, tag: str) -> str:
        head = (
            f"GET /v1/events?tag={tag} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {alone.keys[name]}\r\n\r\n"
        )
        reader, writer = await alone.service.raw(head.encode())
        await reader.readuntil(b"id: ")
        found = (await reader.readline()).strip().decode()
        writer.close()
        return found

    of_bob = await first_id("bob", "t0")
    ids = [await first_id("viewer", tag) for tag in tags]
    assert len(await redis.call("KEYS", f"{redis.prefix}list:*")) == 6
    problem(await alone.fetch("viewer", f"/v1/events?tag=t0&after={ids[0]}"), 400, "invalid-event-id")
    noted = alone.service.jobs.ledger.jobs.noted_list
    assert len(await noted("alice", ids[-1].partition(":")[0]) or ()) == 1
    assert await noted("bob", of_bob.partition(":")[0])


async def test_what_is_many_jobs_costs_as_many_requests(database: Database, tmp_path: Path) -> None:
    """A workflow, and a retry of a group, as a batch: there is no door by which a key does more than its rate."""
    key, entry = made(owner="alice", rate="5/h")
    keys = await asyncio.to_thread(write, tmp_path / "keys.json", entry)
    async with guarded(database.url, (keys, {"alice": key})) as site:

        async def workflow(count: int) -> HTTPResponse:
            body = json.dumps({"group": [{"task": "s.add", "input": [1]}] * count}).encode()
            return await site.fetch("alice", "/v1/workflows", "POST", body=body)

        first = await workflow(3)
        assert (first.code, first.headers["RateLimit"][:9]) == (202, '"key";r=2')
        # More than are left: the workflow is accepted, and what it costs has to come back before the next request.
        second = await workflow(12)
        assert (second.code, second.headers["RateLimit"][:9]) == (202, '"key";r=0')
        refused = await workflow(1)
        assert problem(refused, 429, "rate-limited")
        assert 10 * 720 < int(refused.headers["Retry-After"]) <= 11 * 720


async def test_retrying_a_group_costs_as_many_requests(url_of_ours: str, tmp_path: Path) -> None:
    key, entry = made(owner="alice", rate="20/h")
    keys = await asyncio.to_thread(write, tmp_path / "keys.json", entry)
    async with guarded(url_of_ours, (keys, {"alice": key})) as site:
        batch = json.dumps({"jobs": [{"task": "s.fail", "input": []}] * 10}).encode()
        told = json.loads((await site.fetch("alice", "/v1/batches", "POST", body=batch)).body)["jobs"]
        for each in told:
            await site.service.jobs.wait_for_end(each["job"]["id"], 0, 20)
        [group] = await site.service.jobs.ledger.failures.groups("alice")
        again = await site.fetch("alice", f"/v1/failures/{group.id}/retry", "POST", body=b'{"dry_run": false}')
        retried = json.loads(again.body)
        assert (retried["jobs"], len(retried["job_ids"])) == (10, 10)
        [group] = await site.service.jobs.ledger.failures.groups("alice")
        again = await site.fetch("alice", f"/v1/failures/{group.id}/retry", "POST", body=b'{"dry_run": false}')
        assert problem(again, 429, "rate-limited")


async def test_a_backfill_of_large_inputs_comes_in_steps(alone: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = Schedules(alone.service.jobs.ledger, alone.app)
    await schedules.create(Entry(name="big", owner="alice", task="s.echo", input=[LARGE], crontab="0 * * * *"))
    sizes = list[int]()
    run = alone.service.jobs.ledger.redis.run

    async def measured(call: Any) -> Any:
        sizes.append(sum(len(each) for each in call.arguments("") if isinstance(each, str | bytes)))
        return await run(call)

    monkeypatch.setattr(alone.service.jobs.ledger.redis, "run", measured)
    past = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T12:00:00Z"}
    path = "/v1/schedules/big/backfill"
    dry = await alone.fetch("alice", path, "POST", body=json.dumps(past).encode())
    assert len(json.loads(dry.body)["slots"]) == 12
    assert max(sizes) < 50_000
    begun = await alone.fetch("alice", path, "POST", body=json.dumps({**past, "dry_run": False}).encode())
    assert (begun.code, len(json.loads(begun.body)["job_ids"])) == (202, 12)
    assert max(sizes) < 1_100_000
    assert (
        await schedules.backfill("alice~big", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 12, tzinfo=UTC))
    ).slots == []


async def test_times_that_are_hard_to_find_take_no_more_than_a_while(
    alone: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near a pole each of the sun's times takes 30 ms: a list of a hundred such schedules took 4 s of CPU."""
    body: dict[str, Any] = {"name": "pole", "task": "s.add", "input": [1]}
    body["solar"] = {"event": "sunrise", "lat": 90, "lon": 180}
    assert (await alone.fetch("alice", "/v1/schedules", "POST", body=json.dumps(body).encode())).code == 201
    found = list[int]()
    find = Entry._next_solar

    def counted(self: Entry, after: datetime) -> datetime:
        found.append(1)
        return find(self, after)

    monkeypatch.setattr(Entry, "_next_solar", counted)
    assert len(json.loads((await alone.fetch("alice", "/v1/schedules")).body)["schedules"]) == 1
    assert not found  # to show it nothing needs to be found
    monkeypatch.setattr("tornado_celery_bridge.schedules.schedules.PATIENCE", 0.01)
    told = json.loads((await alone.fetch("alice", "/v1/schedules/pole/next?count=100")).body)
    assert 1 <= len(told["next"]) < 100
    past = json.dumps({"since": "1970-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}).encode()
    problem(await alone.fetch("alice", "/v1/schedules/pole/backfill", "POST", body=past), 422, "backfill-too-large")
