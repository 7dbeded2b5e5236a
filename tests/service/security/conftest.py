"""A service with two tenants, each with an operator's key, a viewer's key, an admin's, and whoever has none."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.service.keys import Guarded, guarded, made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import Service, running
from tornado_celery_bridge.service.access.keys import ROLES

PEOPLE: dict[str, dict[str, Any]] = {
    "alice": {"owner": "alice", "scopes": list(ROLES["operator"])},
    "bob": {"owner": "bob", "scopes": list(ROLES["operator"]), "tasks": ["s.add", "s.echo", "s.fail"]},
    "viewer": {"owner": "alice", "scopes": list(ROLES["viewer"])},
    "admin": {"owner": "root", "scopes": ["admin"]},
}


@pytest.fixture
def everybody(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file with the keys above, and the keys."""
    all_made = {name: made(**fields) for name, fields in PEOPLE.items()}
    path = write(tmp_path / "keys.json", *(entry for _, entry in all_made.values()))
    return path, {name: key for name, (key, _) in all_made.items()}


@pytest.fixture
async def town(web_url: str, everybody: tuple[Path, dict[str, str]]) -> AsyncIterator[Guarded]:
    """The service with these keys; a request by None has none."""
    async with guarded(web_url, everybody) as site:
        yield site


@pytest.fixture
async def keyless(web_url: str) -> AsyncIterator[Service]:
    """The service without keys, as `tcb serve` starts it when nobody has made any."""
    app: Celery = await asyncio.to_thread(make_celery, web_url)
    async with running(app) as service:
        yield service
    app.close()
