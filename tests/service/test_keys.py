"""API keys: who may do what, whose a job is, and how often."""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from tests.servers import Server, free_port, wait_for
from tests.service.keys import UNLIKE, Guarded, command, guarded, made, write
from tests.service.processes import serving
from tests.service.site import Service, environment, problem, until
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.service.access.keys import EVERYBODY, SCOPES, Keyring, new_key
from tornado_celery_bridge.service.access.limits import Rate, take
from tornado_celery_bridge.service.http.handler import MAX_BODY, MAX_DISCARDED
from tornado_celery_bridge.service.process.routes import ENDPOINTS

PUBLIC = {"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{file}", "", "/", "/dashboard/{part}", "/login"}


# The file.


def test_what_a_principal_may_do() -> None:
    assert all(EVERYBODY.may(scope) for scope in SCOPES)
    assert EVERYBODY.may_run("anything")
    assert (EVERYBODY.owner, EVERYBODY.is_admin, EVERYBODY.rate) == ("", True, None)
    _, entry = new_key(
        (), owner="bob", scopes=["read"], tasks=["a.b", "c.*"], rate="600/m", max_unfinished=5, note="for tests"
    )
    bob = entry.principal
    assert (bob.owner, bob.is_admin, bob.rate, bob.max_unfinished) == ("bob", False, Rate(600, 60), 5)
    assert [bob.may(scope) for scope in SCOPES] == [False, True, False, False, False, False]
    assert [bob.may_run(name) for name in ("a.b", "a.bc", "a", "c.", "c.d.e", "c", "")] == [
        *(True, False, False, True, True, False, False)
    ]
    _, entry = new_key((), owner="root", scopes=["admin"], tasks=["a.*"])
    assert all(entry.principal.may(scope) for scope in SCOPES)
    assert not entry.principal.may_run("b")


def test_who_may_have_schedules_has_a_key_for_it_that_is_valid(tmp_path: Path) -> None:
    expired = datetime.now(UTC) - timedelta(days=1)
    entries = [
        made(owner="has", scopes=["schedule"]),
        made(owner="had", scopes=["schedule"], expires_at=expired.isoformat()),
        made(owner="never", scopes=["submit"]),
        made(owner="neither", scopes=["submit"], expires_at=expired.isoformat()),
        made(owner="root", scopes=["admin"]),
    ]
    keyring = Keyring(write(tmp_path / "keys.json", *(entry for _, entry in entries)))
    assert [each.owner for each in keyring.owners()] == ["has", "root"]


def test_keys_are_long_and_kept_as_hashes(tmp_path: Path) -> None:
    key, entry = made()
    assert len(key.split("_", 2)[2]) == 43  # 256 bits
    assert key not in json.dumps(entry)
    assert key.split("_", 2)[2] not in json.dumps(entry)
    keyring = Keyring(write(tmp_path / "keys.json", entry))
    found = keyring.find(key)
    assert found is not None
    assert found.key_id == entry["id"]
    for other in ("", key[:-1], key + "A", key.upper(), key[:-1] + ("A" if key[-1] != "A" else "B"), f" {key}", "é"):
        assert keyring.find(other) is None


ENTRY = made()[1]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not JSON"),
        ("\xff", "not JSON"),
        ("[]", r'should be \{"keys"'),
        ('{"keys": {}}', r'should be \{"keys"'),
        ({"id": "UPPER"}, r"key 1: id: "),
        ({"hash": "tcb_secret"}, r"key 1 \(id [0-9a-z]+\): hash: "),
        ({"owner": ""}, "owner"),
        ({"scopes": ["read", "write"]}, r"scopes.1: .*'cancel'"),
        ({"scopes": []}, "scopes"),
        ({"tasks": ["*a"]}, "tasks.0"),
        ({"tasks": []}, "tasks"),
        ({"rate": "10"}, "rate: .*10/s"),
        ({"rate": "0/s"}, "rate"),
        ({"max_unfinished": 0}, "max_unfinished"),
        ({"max_unfinished": "5"}, "max_unfinished"),
        ({"created_at": "2026-01-01T00:00:00"}, "created_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"note": "a\nb"}, "note"),
        ({"scope": "read"}, "scope: Extra"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path: Path, content: Any, complaint: str) -> None:
    path = tmp_path / "keys.json"
    if isinstance(content, str):
        path.touch(mode=0o600)
        path.write_bytes(content.encode("latin1"))
    else:
        write(path, ENTRY | content)
    with pytest.raises(SettingsError, match=complaint) as refused:
        Keyring(path)
    assert str(path) in str(refused.value)
    assert "tcb_secret" not in str(refused.value)


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist: make the first key"):
        Keyring(tmp_path / "none.json")
    with pytest.raises(SettingsError, match="cannot be read"):
        Keyring(tmp_path)
    path = write(tmp_path / "keys.json", ENTRY, ENTRY)
    with pytest.raises(SettingsError, match=f"key 2: id {ENTRY['id']} is there twice"):
        Keyring(path)
    write(path, ENTRY, "no object")
    with pytest.raises(SettingsError, match="key 2: "):
        Keyring(path)
    write(path, ENTRY)
    for mode in (0o604, 0o602, 0o666):
        path.chmod(mode)
        with pytest.raises(SettingsError, match="chmod o="):
            Keyring(path)
    path.chmod(0o640)
    Keyring(path)


async def test_the_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tornado_celery_bridge.service.access.keys")
    first, first_entry = made()
    second, second_entry = made()
    path = tmp_path / "keys.json"
    await asyncio.to_thread(write, path, first_entry)
    keyring = await asyncio.to_thread(Keyring, path)
    await keyring.refresh()
    assert not caplog.records
    await asyncio.to_thread(write, path, second_entry)
    await keyring.refresh()
    assert keyring.find(first) is None
    assert keyring.find(second)
    for break_it in (lambda: path.write_text('{"keys": ['), lambda: path.chmod(0o644), path.unlink):
        caplog.clear()
        await asyncio.to_thread(break_it)
        await keyring.refresh()
        await keyring.refresh()
        assert keyring.find(second)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "keys stay as they were" in caplog.text
    await asyncio.to_thread(write, path)
    await keyring.refresh()
    assert keyring.find(second) is None


async def test_the_file_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_celery_bridge.service.access.keys.CHECK_EVERY", 0.01)
    key, entry = made()
    path = tmp_path / "keys.json"
    await asyncio.to_thread(write, path, entry)
    keyring = await asyncio.to_thread(Keyring, path)
    watching = asyncio.ensure_future(keyring.watch())
    await asyncio.to_thread(write, path)
    await until(lambda: keyring.find(key) is None)
    watching.cancel()


# Settings.


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.168.0.1"])
def test_with_keys_any_address_is_fine(bind: str) -> None:
    settings = Settings.from_environment({"BIND": bind, "API_KEYS_FILE": "k.json"})
    assert settings.api_keys_file == Path("k.json")
    with pytest.raises(SettingsError, match="set API_KEYS_FILE"):
        Settings.from_environment({"BIND": bind, "API_KEYS_FILE": ""})


def test_a_broken_file_keeps_the_service_from_starting(web_url: str, tmp_path: Path) -> None:
    path = write(tmp_path / "keys.json", ENTRY | {"rate": "fast"})
    settings = {"SAMPLE_URL": web_url, "REDIS_URL": web_url, "CELERY_APP": "tests.service.sample"}
    for processes in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-m", "tornado_celery_bridge", "serve", "--processes", processes],
            env=environment(PORT=str(free_port()), BIND="0.0.0.0", API_KEYS_FILE=str(path), **settings),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 78
        assert f"key 1 (id {ENTRY['id']}): rate: ".encode() in ended.stderr
        assert b"Traceback" not in ended.stderr


# The service.


def test_every_route_declares_its_scope() -> None:
    for endpoint in ENDPOINTS:
        route = endpoint.route
        assert route.is_public is (route.path in PUBLIC), route
        assert route.is_public or route.scope in SCOPES or route.path in ("/v1/me", "/logout"), route


ROUTES_WITH_SCOPES = [
    ("GET", "/v1/tasks", "read"),
    ("GET", "/v1/statistics", "monitor"),
    ("GET", "/v1/queues", "monitor"),
    ("GET", "/v1/workers", "monitor"),
    ("GET", "/metrics", "monitor"),
    ("GET", "/v1/tasks/s.add", "read"),
    ("POST", "/v1/tasks/s.add/jobs", "submit"),
    ("GET", "/v1/jobs/x", "read"),
    ("GET", "/v1/jobs/x/input", "read"),
    ("GET", "/v1/jobs/x/result", "read"),
    ("GET", "/v1/jobs/x/events", "read"),
    ("POST", "/v1/jobs/x/cancel", "cancel"),
    ("GET", "/v1/jobs/x/deliveries", "read"),
    ("POST", "/v1/jobs/x/deliveries/y/replay", "submit"),
    ("POST", "/v1/queues/x/pause", "admin"),
    ("POST", "/v1/queues/x/resume", "admin"),
    ("POST", "/v1/queues/x/purge", "admin"),
    ("POST", "/v1/workers/x/shutdown", "admin"),
    ("POST", "/v1/workers/x/grow", "admin"),
    ("POST", "/v1/workers/x/shrink", "admin"),
    ("GET", "/v1/operations", "read"),
    ("POST", "/v1/operations", "read"),
    ("POST", "/v1/operations/x/cancel", "cancel"),
    ("DELETE", "/v1/jobs/x", "cancel"),
    ("GET", "/v1/failures", "read"),
    ("POST", "/v1/failures/x/retry", "submit"),
    ("POST", "/v1/failures/x/resolve", "cancel"),
    ("GET", "/v1/schedules", "read"),
    ("GET", "/v1/schedules/x/runs", "read"),
    ("POST", "/v1/schedules/x/run", "schedule"),
    ("DELETE", "/v1/schedules/x", "schedule"),
]


async def test_without_a_valid_key(site: Guarded) -> None:
    good, other = site.keys["alice"], site.keys["bob"]
    mixed = "_".join([*good.split("_", 2)[:2], other.split("_", 2)[2]])
    headers: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": good},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Basic {good}"},
        {"Authorization": f"Bearer {good[:-1]}"},
        {"Authorization": f"Bearer {good}, Bearer {good}"},
        {"Authorization": f"Bearer {mixed}"},
        {"Authorization": f"Bearer {site.keys['expired']}"},
        {"X-Api-Key": good},
        {"Cookie": f"api_key={good}"},
    ]
    documents = []
    before = await site.service.messages()
    for method, path, _ in [*ROUTES_WITH_SCOPES, ("GET", "/nothing", ""), ("DELETE", "/v1/tasks", "")]:
        for given in headers:
            response = await site.fetch(None, path, method, headers=given)
            documents.append(problem(response, 401, "unauthorized") | UNLIKE)
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "RateLimit" not in response.headers
    assert all(document == documents[0] for document in documents)
    assert await site.service.messages() == before
    response = await site.fetch(None, "/v1/tasks", headers={"Authorization": f"bearer  {good}"})
    assert response.code == 200


async def test_what_needs_no_key(site: Guarded) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await site.fetch(None, path)).code == 200
        assert (await site.fetch(None, path, headers={"Authorization": "Bearer wrong"})).code == 200
    problem(await site.fetch("reader", "/nothing"), 404, "not-found")
    problem(await site.fetch("reader", "/v1/tasks", "DELETE"), 405, "method-not-allowed")


async def test_what_the_service_stands_on_is_for_admins(site: Guarded) -> None:
    plain = json.loads((await site.fetch(None, "/readyz")).body)
    for name in (None, "reader", "watcher", "expired"):
        assert json.loads((await site.fetch(name, "/readyz?verbose")).body) == plain
    told = json.loads((await site.fetch("admin", "/readyz?verbose=1")).body)
    assert told.keys() == plain.keys() | {"broker", "findings"}
    assert json.loads((await site.fetch("admin", "/readyz")).body) == plain


@pytest.mark.parametrize("name", ["api_key", "key", "token", "access_token", "API_KEY", "%6bey"])
async def test_a_key_in_the_query(site: Guarded, caplog: pytest.LogCaptureFixture, name: str) -> None:
    key = site.keys["alice"]
    caplog.set_level(logging.DEBUG)
    for path in ("/v1/tasks", "/healthz", "/nothing"):
        for who in (None, "alice"):
            response = await site.fetch(who, f"{path}?a=b&{name}={key}")
            document = problem(response, 400, "key-in-query")
            assert key not in json.dumps(document)
    assert key.split("_", 2)[2] not in "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith("asyncio")
    )


async def test_scopes(site: Guarded) -> None:
    holders = {
        "read": "reader",
        "submit": "submitter",
        "cancel": "canceller",
        "schedule": "scheduler",
        "monitor": "watcher",
    }
    for method, path, scope in ROUTES_WITH_SCOPES:
        for held, name in holders.items():
            response = await site.fetch(name, path, method)
            if held == scope:
                assert response.code in (200, 404, 422)
            else:
                assert scope in problem(response, 403, "forbidden-scope")["detail"]
        assert (await site.fetch("admin", path, method)).code in (200, 404, 422)


async def test_only_exposed_and_allowed_tasks(site: Guarded) -> None:
    inputs: dict[str, Any] = {"s.add": [1], "s.echo": {}}
    answers = []
    for name in [*sorted(site.app.tasks), "no.such"]:
        response = await site.submit("some", name, inputs.get(name, {}))
        if name in inputs:
            assert response.code == 202, response.body
            assert (await site.fetch("some", f"/v1/tasks/{name}")).code == 200
            continue
        shown = await site.fetch("some", f"/v1/tasks/{name}")
        for refused in (response, shown):
            answers.append(problem(refused, 404, "unknown-task") | UNLIKE)
    assert len(answers) > 20
    assert all(answer == answers[0] for answer in answers)
    shown = await site.fetch("some", "/v1/tasks")
    assert {task["name"] for task in json.loads(shown.body)["tasks"]} == {"s.add", "s.echo"}
    everything = json.loads((await site.fetch("alice", "/v1/tasks")).body)["tasks"]
    assert {"s.add", "s.fail", "s.nap"} <= {task["name"] for task in everything}


async def test_another_owners_job_is_no_job(site: Guarded) -> None:
    body = b'{"input": [1], "options": {"callback_url": "https://callback.invalid/"}}'
    response = await site.fetch("alice", "/v1/tasks/s.add/jobs", "POST", body=body, headers={"Prefer": "wait=10"})
    assert response.code == 200
    job = json.loads(response.body)
    path = job["links"]["self"]
    assert "owner" not in job
    never = "00000000-0000-4000-8000-000000000000"
    delivery = json.loads((await site.fetch("alice", f"{path}/deliveries")).body)["deliveries"][0]
    replay = f"/deliveries/{delivery['id']}/replay"
    tails = {"": "GET", "/events": "GET", "/cancel": "POST", "/deliveries": "GET", replay: "POST"}
    for tail, method in tails.items():
        theirs, nobodys = [
            problem(await site.fetch("bob", f"/v1/jobs/{job_id}{tail}", method), 404, "unknown-job")
            for job_id in (job["id"], never)
        ]
        for document in (theirs, nobodys):
            document |= UNLIKE
        assert theirs == nobodys
    body = b'{"input": [1], "options": {"queue": "quiet", "tags": ["theirs"]}}'
    tagged = json.loads((await site.fetch("alice", "/v1/tasks/s.add/jobs", "POST", body=body)).body)["id"]
    assert (await site.fetch("bob", "/v1/events?tag=theirs")).code == 204
    # As the ids of her stream's events have it.
    stream = await site.service.jobs.ledger.jobs.note_list("alice", [tagged])
    problem(await site.fetch("bob", f"/v1/events?tag=theirs&after={stream}:0"), 400, "invalid-event-id")
    for name in ("alice", "alice2", "reader", "admin"):  # the same owner, and who sees all
        assert json.loads((await site.fetch(name, f"/v1/jobs/{job['id']}")).body) == job
        events = await site.fetch(name, f"/v1/jobs/{job['id']}/events")
        assert b"event: end" in events.body
    assert (await site.fetch("admin", f"/v1/jobs/{job['id']}/cancel", "POST")).code == 200


async def test_another_owner_cannot_cancel(site: Guarded) -> None:
    job = json.loads((await site.submit("alice", "s.nap", [60])).body)
    await site.service.started(job["id"])
    path = f"/v1/jobs/{job['id']}"
    body = b'{"terminate": true}'
    problem(await site.fetch("bob", f"{path}/cancel", "POST", body=body), 404, "unknown-job")
    assert json.loads((await site.fetch("alice", path)).body)["done"] is False
    assert (await site.fetch("canceller", f"{path}/cancel", "POST", body=body)).code == 202
    done = json.loads((await site.fetch("alice", path, headers={"Prefer": "wait=20"})).body)
    assert done["state"] == "REVOKED"


async def test_jobs_from_before_the_keys_are_the_admins(site: Guarded, service: Service) -> None:
    job = json.loads((await service.submit("s.add", {"input": [1]}, wait=10)).body)
    problem(await site.fetch("alice", job["links"]["self"]), 404, "unknown-job")
    assert (await site.fetch("admin", job["links"]["self"])).code == 200


# A refusal comes before the body.


async def test_a_refusal_does_not_wait_for_a_large_body_nor_end_a_connection_for_a_small_one(site: Guarded) -> None:
    head = b"POST /v1/tasks/s.echo/jobs HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    for more in (
        b"Content-Length: %d\r\n" % 10**10,
        b"Content-Length: %d\r\n" % 10**30,
        b"Content-Length: 10\r\nExpect: 100-continue\r\n",
    ):
        reader, writer = await site.service.raw(head % more)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert answer.count(b"HTTP/1.1") == 1
        writer.close()
    body = b'{"input": {"value": 1}}'
    request = head % (b"Content-Length: %d\r\n" % len(body)) + body
    reader, writer = await site.service.raw(request * 2 + request.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"))
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.count(b" 401 ") == 3
    writer.close()


async def test_a_refused_body_is_not_kept_and_is_cut(site: Guarded) -> None:
    head = b"POST /v1/tasks/s.echo/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await site.service.raw(head)
    answered = asyncio.ensure_future(reader.readline())
    sent = 0
    try:
        while not answered.done():
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            sent += 0x10000
            await writer.drain()
    except ConnectionError:
        pass
    assert b" 401 " in await answered
    assert sent > MAX_BODY + MAX_DISCARDED
    writer.close()


# Rates.


@pytest.mark.parametrize("text", ["10", "10/d", "0/s", "-1/s", "1.5/s", "1000000/s", "10/ s", "", "\u0661/s"])
def test_rates_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="10/s"):
        Rate.parse(text)


def test_rates() -> None:
    for text in ("10/s", "600/m", "5000/h", "999999/s"):
        assert str(Rate.parse(text)) == text
    assert Rate.parse("10/s").interval == Rate.parse("600/m").interval == 100_000


async def test_an_allowance_comes_back_one_by_one(service: Service) -> None:
    ledger, redis = service.jobs.ledger, service.jobs.ledger.redis.client
    await redis.delete("{tcb}rate:one")
    rate = Rate(4, 3600)
    left = [await take(ledger, "one", rate) for _ in range(6)]
    assert [each.is_granted for each in left] == [True] * 4 + [False] * 2
    assert [each.remaining for each in left] == [3, 2, 1, 0, 0, 0]
    assert all(0 < each.wait <= 900 for each in left)
    assert left[3].headers == {"RateLimit-Policy": '"key";q=4;w=3600', "RateLimit": f'"key";r=0;t={left[3].wait}'}
    assert 3_000_000 < await redis.pttl("{tcb}rate:one") <= 3_600_000
    # As if two intervals and a bit had gone by.
    await redis.set("{tcb}rate:one", int(await redis.get("{tcb}rate:one")) - 1_900_000_000)  # type: ignore[arg-type]
    left = [await take(ledger, "one", rate) for _ in range(3)]
    assert [each.is_granted for each in left] == [True, True, False]
    await redis.delete("{tcb}rate:one")  # it expires by itself once it is whole
    assert (await take(ledger, "one", rate)).remaining == 3


def tally(responses: list[HTTPResponse]) -> Counter[int]:
    return Counter(response.code for response in responses)


async def test_a_rate_holds_for_all_services_together(
    web_url: str, keys: tuple[Path, dict[str, str]], site: Guarded
) -> None:
    async with guarded(web_url, keys) as second:
        responses = await asyncio.gather(
            *(
                each.fetch("limited", path)
                for _ in range(10)
                for each in (site, second)
                for path in ("/v1/tasks", "/nothing")
            )
        )
    codes = tally(responses)
    assert codes[429] == 20
    assert codes[200] + codes[404] == 20
    for response in responses:
        assert response.headers["RateLimit-Policy"] == '"key";q=20;w=3600'
        if response.code == 429:
            document = problem(response, 429, "rate-limited")
            assert "20/h" in document["detail"]
            assert 1 <= int(response.headers["Retry-After"]) <= 180
            assert response.headers["RateLimit"] == f'"key";r=0;t={response.headers["Retry-After"]}'
    left = sorted(
        int(response.headers["RateLimit"].split(";")[1][2:]) for response in responses if response.code != 429
    )
    assert left == list(range(20))
    other = await site.fetch("limited2", "/v1/tasks")  # a rate is the key's, not the owner's
    assert other.headers["RateLimit"].startswith('"key";r=19;t=')
    assert "RateLimit" not in (await site.fetch("alice", "/v1/tasks")).headers


async def test_a_refused_request_counts_too(site: Guarded) -> None:
    response = await site.fetch("slow", "/v1/tasks/s.add/jobs", "POST")
    problem(response, 403, "forbidden-scope")
    assert response.headers["RateLimit"].startswith('"key";r=0;t=')
    problem(await site.fetch("slow", "/v1/tasks"), 429, "rate-limited")
    assert (await site.fetch("slow", "/healthz")).code == 200


def test_a_rate_holds_for_all_processes_together(
    web_url: str, keys: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    settings = {"SAMPLE_URL": web_url, "REDIS_URL": web_url, "CELERY_APP": "tests.service.sample"}
    with serving(tmp_path / "log", "--processes", "2", API_KEYS_FILE=str(keys[0]), **settings) as process:
        codes = Counter(process.fetch("/v1/tasks", Authorization=f"Bearer {keys[1]['limited']}")[0] for _ in range(40))
        assert codes == {200: 20, 429: 20}
        status, job = process.fetch(
            "/v1/tasks/s.add/jobs", {"input": [1]}, Prefer="wait=10", Authorization=f"Bearer {keys[1]['alice']}"
        )
        assert (status, job["result"]) == (200, 2)
    text = (tmp_path / "log").read_text()
    assert "tcb_" not in text
    assert "Bearer" not in text
    assert f"key={keys[1]['alice'].split('_')[1]} " in text


def test_a_file_that_breaks_while_the_service_runs_does_not_end_it(
    web_url: str, keys: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    settings = {"SAMPLE_URL": web_url, "REDIS_URL": web_url, "CELERY_APP": "tests.service.sample"}
    path, log = keys[0], tmp_path / "log"
    whole = path.read_text()
    with serving(log, "--processes", "2", API_KEYS_FILE=str(path), **settings) as process:
        wait_for(lambda: log.read_text().count("serving http://") == 2)
        path.write_text("{")
        wait_for(lambda: log.read_text().count("keys stay as they were") == 2)
        os.kill(process.children()[0], signal.SIGKILL)
        wait_for(lambda: "ended with status 78" in log.read_text())  # it cannot start, and the other goes on
        assert process.fetch("/v1/tasks", Authorization=f"Bearer {keys[1]['alice']}")[0] == 200
        path.write_text(whole)
        wait_for(lambda: log.read_text().count("serving http://") == 3)


async def test_without_redis_nothing_is_limited_and_nothing_breaks(
    tmp_path: Path, keys: tuple[Path, dict[str, str]]
) -> None:
    server = await asyncio.to_thread(Server(tmp_path / "redis").start)
    try:
        async with guarded(server.url, keys) as site:
            assert (await site.fetch("slow", "/v1/tasks")).code == 200
            problem(await site.fetch("slow", "/v1/tasks"), 429, "rate-limited")
            server.freeze()
            begun = time.monotonic()
            problem(await site.submit("limited", "s.add", [1]), 503, "ledger-unavailable")
            assert time.monotonic() - begun < 3.5  # 2 s for the rate, and not as much again for the job
            await asyncio.to_thread(server.stop)
            for _ in range(2):
                assert (await site.fetch("slow", "/v1/tasks")).code == 200
                problem(await site.fetch("slow", "/v1/jobs/x"), 503, "ledger-unavailable")
                response = await site.submit("limited", "s.add", [1])
                problem(response, 503, "ledger-unavailable")
                assert response.headers["Retry-After"] == "1"
                problem(await site.fetch("slow", "/nothing"), 404, "not-found")
    finally:
        await asyncio.to_thread(server.kill)


# The command.


def test_make_list_and_revoke(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    result = command(
        *(path, "make", "--owner", "alice", "--scopes", "submit,read", "--tasks", "tasks.text.*,s.add"),
        *(
            "--rate",
            "10/s",
            "--max-unfinished",
            "100",
            "--note",
            "for the shop",
            "--expires-at",
            "2999-01-01T00:00:00Z",
        ),
    )
    assert result.returncode == 0, result.stderr
    key = result.stdout.strip()
    assert key not in result.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["keys.json"]
    secret = key.split("_", 2)[2]
    assert secret not in path.read_text()
    principal = Keyring(path).find(key)
    assert principal is not None
    assert (principal.owner, principal.scopes, principal.tasks) == (
        *("alice", frozenset({"submit", "read"}), ("tasks.text.*", "s.add")),
    )
    assert (principal.rate, principal.max_unfinished) == (Rate(10, 1), 100)

    path.chmod(0o640)
    other = command(path, "make", "--owner", "bob").stdout.strip()
    assert path.stat().st_mode & 0o777 == 0o640
    listed = command(path, "list").stdout
    assert listed.count("\n") == 3
    for shown in ("alice", "bob", "submit,read", "tasks.text.*,s.add", "10/s", "100", "for the shop", "2999-01-01"):
        assert shown in listed
    assert secret not in listed
    assert Keyring(path)._keys[principal.key_id].hash not in listed

    assert command(path, "revoke", principal.key_id).returncode == 0
    assert Keyring(path).find(key) is None
    assert Keyring(path).find(other)
    again = command(path, "revoke", principal.key_id)
    assert (again.returncode, "no key with this id" in again.stderr) == (78, True)


def test_an_owners_secret_is_shown_and_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    words = [sys.executable, "-m", "tornado_celery_bridge", "keys", "secret"]
    settings = environment(CALLBACK_SECRET_FILE=str(path))
    shown = [
        subprocess.run([*words, *owner], env=settings, capture_output=True, text=True, timeout=60, check=True).stdout
        for owner in (["alice"], ["alice"], ["bob"], [])
    ]
    assert shown[0] == shown[1]
    assert len(set(shown)) == 3
    assert all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", each) for each in shown)
    assert path.stat().st_mode & 0o777 == 0o600


def test_keys_made_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    words = [sys.executable, "-m", "tornado_celery_bridge", "keys", "make", "--owner"]
    processes = [
        subprocess.Popen(
            [*words, f"owner{number}"],
            env=environment(API_KEYS_FILE=str(path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(6)
    ]
    made = [process.communicate(timeout=60)[0].strip() for process in processes]
    keyring = Keyring(path)
    assert sorted(found.owner for key in made if (found := keyring.find(key))) == [f"owner{n}" for n in range(6)]
    assert os.listdir(tmp_path) == ["keys.json"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("make",), "--owner"),
        (("make", "--owner", "a b"), "owner"),
        (("make", "--owner", "a", "--scopes", "read,write"), "scopes.1"),
        (("make", "--owner", "a", "--rate", "fast"), "10/s"),
        (("make", "--owner", "a", "--max-unfinished", "0"), "max_unfinished"),
        (("make", "--owner", "a", "--max-unfinished", "many"), "--max-unfinished"),
        (("make", "--owner", "a", "--expires-at", "soon"), "expires_at"),
        ((), "COMMAND"),
    ],
)
def test_what_makes_no_sense_makes_no_file(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    result = command(tmp_path / "keys.json", *words)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert not os.listdir(tmp_path)


def test_where_there_is_no_file(tmp_path: Path) -> None:
    for words in (("list",), ("revoke", "x")):
        result = command(tmp_path / "keys.json", *words)
        assert (result.returncode, "make the first key" in result.stderr) == (78, True)
    result = command(None, "list")
    assert (result.returncode, "API_KEYS_FILE is not set" in result.stderr) == (78, True)
    result = command(tmp_path / "none" / "keys.json", "make", "--owner", "a")
    assert (result.returncode, "cannot be written" in result.stderr) == (78, True)
    assert not os.listdir(tmp_path)
