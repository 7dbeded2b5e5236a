"""A session is its browser's: what else may stand for it, and how long."""

import json
from typing import Any

import pytest

from tests.service.keys import Guarded
from tests.service.logins import cookie_of, forget_attempts, log_in, with_cookie
from tests.service.site import problem
from tornado_celery_bridge.ledger import LedgerUnavailable


@pytest.fixture
async def town(town: Guarded) -> Guarded:
    await forget_attempts(town.service)
    return town


async def test_a_cookie_without_tls_counts_for_nothing_with_tls(town: Guarded) -> None:
    """Whoever sets one from another host of the domain, or on the way, has others work in their own session."""
    mine = cookie_of(await log_in(town, town.keys["alice"], Origin=f"https://127.0.0.1:{town.service.port}"))
    planted = cookie_of(await log_in(town, town.keys["bob"]))
    assert (mine.partition("=")[0], planted.partition("=")[0]) == ("__Host-session", "session")

    async def owner(cookie: str, **headers: Any) -> str | None:
        response = await with_cookie(town, cookie, "/v1/me", **headers)
        return str(json.loads(response.body)["owner"]) if response.code == 200 else None

    assert await owner(f"{planted}; {mine}") == await owner(f"{mine}; {planted}") == "alice"
    assert await owner(planted) == "bob"  # a browser without TLS
    assert await owner(planted, Host="jobs.example", Origin="https://jobs.example") is None
    assert await owner(planted, Host="jobs.example", Sec_Fetch_Site="same-origin") is None
    assert await owner(planted, Host="localhost", Sec_Fetch_Site="same-origin") == "bob"
    stale = "__Host-session=" + mine.partition("=")[2][:-1]
    assert await owner(f"{stale}; {planted}") is None


async def test_a_copied_cookie_ends_with_the_logout(town: Guarded) -> None:
    cookie, other = [cookie_of(await log_in(town, town.keys["alice"])) for _ in range(2)]
    assert cookie != other
    gone = await with_cookie(town, cookie, "/logout", "POST", b"", Sec_Fetch_Site="same-origin")
    assert gone.code == 303
    for path in ("/v1/me", "/v1/jobs", "/flower/", "/v1/schedules"):
        problem(await with_cookie(town, cookie, path), 401, "unauthorized")
    changed = await with_cookie(town, cookie, "/v1/jobs/x/cancel", "POST", b"{}", Sec_Fetch_Site="same-origin")
    problem(changed, 401, "unauthorized")
    assert b"logged in" not in (await with_cookie(town, cookie, "/login")).body
    openapi = json.loads((await with_cookie(town, cookie, "/openapi.json")).body)
    assert "/v1/tasks/{task}/jobs" in openapi["paths"]  # as nobody sees it
    assert (await with_cookie(town, other, "/v1/me")).code == 200


async def test_while_it_is_not_known_whether_a_session_has_ended(
    town: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = cookie_of(await log_in(town, town.keys["alice"]))

    async def away(*command: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(town.service.jobs.ledger.redis, "call", away)
    assert (await with_cookie(town, cookie, "/v1/me")).code == 200  # it needs no ledger, and changes nothing
    problem(await with_cookie(town, cookie, "/v1/jobs"), 503, "ledger-unavailable")
    changed = await with_cookie(town, cookie, "/flower/api/x", "POST", b"", Sec_Fetch_Site="same-origin")
    problem(changed, 503, "ledger-unavailable")


async def test_anothers_list_is_no_list(town: Guarded) -> None:
    """The id of an event of somebody else's stream is answered as one that was made up."""
    jobs = town.service.jobs.ledger.jobs
    name = await jobs.note_list("alice", ["x"])
    answers = [await town.fetch("bob", f"/v1/events?tag=a&after={each}:0") for each in (name, "0" * 16)]
    first, second = [problem(answer, 400, "invalid-event-id") for answer in answers]
    assert first["detail"] == second["detail"]
    assert await jobs.noted_list("alice", name) == ["x"]
