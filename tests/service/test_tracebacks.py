"""A failed job's traceback: from a real worker to those who may see it, and to nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.keys import made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import Service, running
from tornado_celery_bridge.service.access.keys import ROLES, Keyring
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.resources.callbacks import deliverer as callbacks
from tornado_celery_bridge.service.resources.links import Links

#: Whether they see it.
READERS = {"admin": True, "operator": True, "client": False, "viewer": False}


@pytest.fixture
async def site(web_url: str, tmp_path: Path) -> AsyncIterator[tuple[Service, dict[str, dict[str, str]]]]:
    """A service, and the headers with which each of the readers asks."""
    scopes = {**ROLES, "client": ("submit", "read", "cancel")}
    keys = {name: made(scopes=list(scopes[name])) for name in READERS}
    entries = [entry for _, entry in keys.values()]
    keyring = await asyncio.to_thread(lambda: Keyring(write(tmp_path / "keys.json", *entries)))
    app = make_celery(web_url)
    async with running(app, keys=keyring) as service:
        yield service, {name: {"Authorization": f"Bearer {key}"} for name, (key, _) in keys.items()}
    app.close()


async def test_who_is_shown_it(site: tuple[Service, dict[str, dict[str, str]]]) -> None:
    service, headers = site
    asked = {**headers["operator"], "Prefer": "wait=20", "Idempotency-Key": "of the operator's"}
    body = {"input": {"message": "the end"}, "options": {"tags": ["to be found"]}}
    answer = await service.post("/v1/tasks/s.fail/jobs", body, asked)
    job = json.loads(answer.body)
    traceback = job["error"]["traceback"]
    assert traceback.startswith("Traceback (most recent call last):")
    assert "in fail\n    raise ValueError(message)\nValueError: the end" in traceback
    for name, sees_it in READERS.items():
        read = json.loads((await service.fetch(job["links"]["self"], headers=headers[name])).body)
        assert read["error"] == {
            **{key: value for key, value in job["error"].items() if key != "traceback"},
            **({"traceback": traceback} if sees_it else {}),
        }
        told = (await service.fetch(job["links"]["events"], headers=headers[name])).body
        assert b"event: end" in told
        assert (b"raise ValueError" in told) == sees_it, name
        listed = (await service.fetch("/v1/jobs?tag=to+be+found", headers=headers[name])).body
        assert job["id"].encode() in listed
        assert b"raise ValueError" not in listed
    again = await service.post("/v1/tasks/s.fail/jobs", body, asked | headers["client"])
    assert json.loads(again.body)["id"] == job["id"]
    assert b"raise ValueError" not in again.body


async def test_a_receiver_is_not_told_it(service: Service) -> None:
    made = json.loads((await service.submit("s.fail", wait=20)).body)
    job: Any = await service.jobs.ledger.jobs.get(made["id"])
    assert "raise ValueError" in job.traceback
    assert b"raise ValueError" not in encode(callbacks.event("a", job, Links()))


async def test_what_succeeded_or_was_tried_again_has_none(service: Service, tmp_path: Path) -> None:
    made = json.loads((await service.submit("s.flaky", {"input": {"path": str(tmp_path / "tries")}}, wait=20)).body)
    assert (made["state"], made["attempt"]) == ("SUCCESS", 3)
    assert await service.jobs.ledger.redis.client.exists(f"{{tcb}}traceback:{made['id']}") == 0
