"""The audit log: who changed what, to be read by admins."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server
from tests.service.keys import Guarded, guarded
from tests.service.logins import cookie_of, forget_attempts, log_in, with_cookie
from tests.service.site import Service, problem
from tornado_celery_bridge.service.access import audit


@pytest.fixture
async def site(site: Guarded) -> Guarded:
    await forget_log(site.service)
    await forget_attempts(site.service)
    return site


async def forget_log(service: Service) -> None:
    redis = service.jobs.ledger.redis
    if names := await redis.call("KEYS", f"{redis.prefix}audit:*"):
        await redis.call("DEL", *names)


async def entries(site: Guarded, query: str = "") -> list[dict[str, Any]]:
    await site.service.product.audit.close()
    response = await site.fetch("admin", f"/v1/audit{query}")
    assert response.code == 200, response.body
    return list(json.loads(response.body)["entries"])


async def test_who_changed_what(site: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tornado_celery_bridge.access")
    submitted = await site.submit("alice", "s.add", [1])
    job_id = json.loads(submitted.body)["id"]
    await site.fetch("alice", f"/v1/jobs/{job_id}")
    await site.fetch("bob", f"/v1/jobs/{job_id}/cancel", "POST")
    await site.fetch("reader", "/v1/jobs/x/cancel", "POST")
    await site.fetch(None, "/v1/jobs/x/cancel", "POST")
    cookie = cookie_of(await log_in(site, site.keys["alice"]))
    await log_in(site, "wrong")
    await with_cookie(site, cookie, f"/v1/jobs/{job_id}/cancel", "POST", b"{}", Sec_Fetch_Site="same-origin")
    await with_cookie(site, cookie, "/logout", "POST", b"", Sec_Fetch_Site="same-origin")
    found = await entries(site)
    alice, bob, reader = (site.keys[name].split("_")[1] for name in ("alice", "bob", "reader"))
    cancel = f"/v1/jobs/{job_id}/cancel"
    told = [(each["key"], each["owner"], each["login"], each["path"], each["target"]) for each in found]
    assert sorted(told) == sorted(
        [
            (alice, "alice", "session", "/logout", "/logout"),
            (alice, "alice", "session", cancel, cancel),
            (alice, "alice", "session", "/login", "/login"),
            (alice, "alice", "key", "/v1/tasks/s.add/jobs", f"/v1/jobs/{job_id}"),
        ]
    )
    statuses = {(each["key"], each["path"], each["login"]): each["status"] for each in found}
    assert statuses[alice, "/v1/tasks/s.add/jobs", "key"] == 202
    refused = json.loads((await site.fetch("admin", "/v1/audit")).body)["refused"]
    assert {(each["key"], each["status"], each["times"]) for each in refused} == {(bob, 404, 1), (reader, 403, 1)}
    assert statuses[alice, "/login", "session"] == 303
    assert all((each["method"], each["ip"]) == ("POST", "127.0.0.1") for each in found)
    lines = {record.trace.request_id: record.getMessage() for record in caplog.records if hasattr(record, "trace")}
    for each in found:  # and in the log
        line = lines[each["request_id"]]
        assert line.endswith(f" key={each['key']}")
        assert f"path={each['path']} " in line


async def test_only_admins_read_it(site: Guarded) -> None:
    for name in ("alice", "reader", "scheduler"):
        problem(await site.fetch(name, "/v1/audit"), 403, "forbidden-scope")
    for query, code in (
        ("?limit=0", "invalid-query"),
        ("?limit=201", "invalid-query"),
        ("?since=1", "invalid-query"),
        ("?cursor=x", "invalid-cursor"),
        ("?cursor=-", "invalid-cursor"),
    ):
        problem(await site.fetch("admin", f"/v1/audit{query}"), 400, code)


def made(at: str, key: str = "k", **fields: Any) -> Any:
    return {"at": at, "key": key, "status": 200, "path": "/x", "target": "/x", **fields}


async def test_pages(site: Guarded) -> None:
    log = site.service.product.audit
    for number in range(25):
        log.record(made(str(number), key=f"k{number % 5}"), is_submission=number % 3 == 0)
        if number % 7 == 0:
            await log.close()
    await log.close()
    seen: list[str] = []
    cursor = ""
    for _ in range(30):
        response = json.loads((await site.fetch("admin", f"/v1/audit?limit=4{cursor}")).body)
        assert 1 <= len(response["entries"]) <= 4
        seen += [each["at"] for each in response["entries"]]
        if response["next_cursor"] is None:
            break
        cursor = f"&cursor={response['next_cursor']}"
    assert sorted(map(int, seen)) == list(range(25))
    assert int(seen[0]) >= 20


async def test_submissions_push_out_nothing_else(site: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST", 100)
    log = site.service.product.audit
    log.record(made("kept"), is_submission=False)
    log.record(made("another's", key="other"), is_submission=True)
    for number in range(2000):
        log.record(made(str(number)), is_submission=True)
    await log.close()
    redis = site.service.jobs.ledger.redis
    lengths = [await redis.call("XLEN", f"{redis.prefix}audit:{name}") for name in ("other:k", "submit:k")]
    assert lengths[0] == 1
    assert 100 <= lengths[1] <= 300  # Redis drops whole nodes of its tree
    assert {"kept", "another's"} <= {
        each["at"] for each in await entries(site, "?limit=200") if not each["at"].isdigit()
    }


async def test_it_holds_nobody_up(
    tmp_path: Path, keys: tuple[Path, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    server = await asyncio.to_thread(Server(tmp_path / "redis").start)
    try:
        async with guarded(server.url, keys) as site:
            await asyncio.to_thread(server.stop)
            for _ in range(3):
                problem(await site.fetch("alice", "/v1/jobs/x/cancel", "POST"), 503, "ledger-unavailable")
            await site.service.product.audit.close()
            assert "entries of the audit log are lost" in caplog.text
            problem(await site.fetch("admin", "/v1/audit"), 503, "ledger-unavailable")
    finally:
        await asyncio.to_thread(server.kill)


async def test_where_there_are_no_keys(service: Service) -> None:
    await service.submit("s.add", {"input": [1]})
    await service.post("/v1/jobs/x/cancel", {})
    await service.product.audit.close()
    told = json.loads((await service.fetch("/v1/audit?limit=1")).body)
    assert (None, 404) in {(each["key"], each["status"]) for each in told["refused"]}
    found = told["entries"]
    assert (found[0]["key"], found[0]["owner"], found[0]["login"]) == (None, "", "none")
