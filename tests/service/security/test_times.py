"""No time that is accepted can break what shows it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.service.keys import Guarded
from tests.service.site import problem
from tornado_celery_bridge.service.http.documents import rfc3339

ENDS = (
    *("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00Z"),
    *("9001-01-01T00:00:00Z", "1969-12-31T23:59:59Z"),
)


@pytest.mark.parametrize("moment", ENDS)
async def test_a_time_at_the_ends_of_the_calendar(town: Guarded, moment: str) -> None:
    async def refused(method: str, path: str, body: Any) -> None:
        content = json.dumps(body).encode()
        assert (await town.fetch("alice", path, method, body=content)).code == 422, (path, body)

    for name in ("eta", "expires"):
        await refused("POST", "/v1/tasks/s.add/jobs", {"input": [1], "options": {name: moment}})
        chain = {"chain": [{"task": "s.add", "input": [1], "options": {name: moment}}]}
        await refused("POST", "/v1/workflows", chain)
    when: dict[str, dict[str, Any]] = {
        **{name: {"interval": 60, name: moment} for name in ("anchor", "start", "end", "paused_until")},
        "once": {"once": moment},
        "options": {"interval": 60, "options": {"expires": moment}},
    }
    for fields in when.values():
        await refused("POST", "/v1/schedules", {"name": "ends", "task": "s.add", "input": [1], **fields})
    for path in ("/v1/jobs?since=", "/v1/statistics?since=", "/v1/statistics?until="):
        problem(await town.fetch("alice", path + moment.replace("+", "%2B")), 400, "invalid-query")
    for name in ("alice", "admin"):
        assert (await town.fetch(name, "/v1/jobs")).code == 200


async def test_an_eta_may_be_as_far_away_as_a_countdown(town: Guarded) -> None:
    for days, status in ((400, 422), (365, 202)):
        eta = (datetime.now(UTC) + timedelta(days=days)).isoformat()
        body = json.dumps({"input": [1], "options": {"eta": eta}}).encode()
        response = await town.fetch("alice", "/v1/tasks/s.add/jobs", "POST", body=body)
        assert response.code == status, response.body
    await town.fetch("alice", f"{json.loads(response.body)['links']['self']}/cancel", "POST")


async def test_a_time_that_cannot_be_shown_is_shown_as_the_last_that_can(town: Guarded) -> None:
    """As a library's user may store one: a list of other jobs is shown all the same."""
    made = json.loads((await town.submit("alice", "s.add", [1])).body)
    ledger = town.service.jobs.ledger
    for far, shown in (
        (10**15, "9999-12-31T23:59:59.999Z"),
        (10**18, "9999-12-31T23:59:59.999Z"),
        (-(10**15), "0001-01-01T00:00:00.000Z"),
    ):
        await ledger.redis.client.hset(f"{ledger.redis.prefix}job:{made['id']}", "eta", str(far))
        listed = json.loads((await town.fetch("alice", "/v1/jobs")).body)["jobs"]
        assert [job["eta"] for job in listed if job["id"] == made["id"]] == [shown]
        assert json.loads((await town.fetch("alice", made["links"]["self"])).body)["eta"] == shown


def test_what_rfc_3339_has_is_shown_to_the_millisecond() -> None:
    for text in ("0001-01-01T00:00:00.000Z", "1969-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"):
        moment = datetime.fromisoformat(text)
        assert rfc3339((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)) == text
