"""What is refused because the service does too much already, by its own bounds."""

import asyncio
import json

import pytest

from tests.service.sample import make_app as make_celery
from tests.service.site import Service, problem, running, until
from tornado_celery_bridge import BridgeConfig
from tornado_celery_bridge.bridge import sending
from tornado_celery_bridge.ledger import events


async def test_too_many_dispatches(web_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the ledger keeps no more jobs for later, what is refused was never accepted."""
    monkeypatch.setattr(sending, "MAX_OUTBOX", 0)
    app = make_celery(web_url)
    async with running(app, config=BridgeConfig(max_pending_dispatches=1)) as service:
        body = {"input": {"x": 1}, "options": {"queue": "quiet", "tags": ["too many"]}}
        answers = await asyncio.gather(*(service.submit("s.add", body) for _ in range(40)))
        refused = [answer for answer in answers if answer.code != 202]
        assert 0 < len(refused) < 40
        for answer in refused:
            problem(answer, 503, "dispatch-saturated")
            assert int(answer.headers["Retry-After"]) > 0
        accepted = json.loads((await service.fetch("/v1/jobs?tag=too%20many&limit=100")).body)["jobs"]
        assert len(accepted) == 40 - len(refused)
        await asyncio.gather(*(service.post(f"/v1/jobs/{job['id']}/cancel") for job in accepted))
    app.close()


async def test_too_many_followers(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that would wait are refused, and a job that was accepted is not."""
    monkeypatch.setattr(events, "MAX_FOLLOWERS", 1)
    made = await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}})
    path = json.loads(made.body)["links"]["self"]
    waiting = asyncio.ensure_future(service.fetch(path, headers={"Prefer": "wait=20"}))
    await until(lambda: service.jobs.ledger.events.following == 1)
    answer = await service.fetch(path, headers={"Prefer": "wait=5"})
    problem(answer, 503, "waiters-saturated")
    assert answer.headers["Retry-After"] == "1"
    assert (await service.fetch(path)).code == 200
    assert (await service.submit("s.add", {"input": {"x": 1}}, wait=5)).code == 202
    await service.post(f"{path}/cancel")
    assert json.loads((await waiting).body)["state"] == "REVOKED"
