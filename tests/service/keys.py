"""Files of API keys, and a service that asks for them."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery
from tornado.httpclient import HTTPResponse

from tests.service.sample import make_app as make_celery
from tests.service.site import Service, running
from tornado_celery_bridge.cli.main import main
from tornado_celery_bridge.service.access.keys import Keyring, new_key

#: What is another in each problem.
UNLIKE = {"instance": "", "request_id": "", "trace_id": ""}


def write(path: Path, *entries: dict[str, Any] | Any) -> Path:
    """Put another file in the place of the one that is there, as ``keys make`` does."""
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps({"keys": entries}))
    return part.replace(path)


def made(**fields: Any) -> tuple[str, dict[str, Any]]:
    """Return a key and its entry."""
    given = {"owner": "alice", "scopes": ["submit", "read", "cancel"], **fields}
    key, entry = new_key((), **given)
    return key, entry.model_dump(mode="json", exclude_none=True)


@dataclass
class Guarded:
    """A running service with keys, by name, and its Celery app."""

    service: Service
    keys: dict[str, str]
    keyring: Keyring
    app: Celery

    async def fetch(self, name: str | None, path: str, method: str = "GET", **options: Any) -> HTTPResponse:
        headers = {**options.pop("headers", {})}
        if name is not None:
            headers["Authorization"] = f"Bearer {self.keys[name]}"
        if method == "POST":
            headers["Content-Type"] = "application/json"
            options.setdefault("body", b"{}")
        return await self.service.fetch(path, method, headers=headers, **options)

    async def submit(self, name: str | None, task: str, given: Any, **headers: str) -> HTTPResponse:
        body = json.dumps({"input": given}).encode()
        return await self.fetch(name, f"/v1/tasks/{task}/jobs", "POST", body=body, headers=headers)


KEYS: dict[str, dict[str, Any]] = {
    "alice": {},
    "alice2": {"scopes": ["read"]},
    "bob": {"owner": "bob"},
    "admin": {"owner": "root", "scopes": ["admin"]},
    "submitter": {"scopes": ["submit"]},
    "reader": {"scopes": ["read"]},
    "canceller": {"scopes": ["cancel"]},
    "scheduler": {"scopes": ["schedule"]},
    "watcher": {"scopes": ["monitor"]},
    "some": {"owner": "some", "tasks": ["s.add", "s.e*", "celery.*", "no.such"]},
    "expired": {"expires_at": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()},
    "limited": {"owner": "limited", "rate": "20/h"},
    "limited2": {"owner": "limited", "rate": "20/h"},
    "slow": {"rate": "1/h", "scopes": ["read"]},
}


@asynccontextmanager
async def guarded(url: str, keys: tuple[Path, dict[str, str]]) -> AsyncIterator[Guarded]:
    app = make_celery(url)
    keyring = await asyncio.to_thread(Keyring, keys[0])
    async with running(app, keys=keyring) as service:
        yield Guarded(service, keys[1], keyring, app)
    app.close()


class Said(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def command(path: Path | None, *words: str) -> Said:
    """Run ``tcb keys`` in this process."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        patch.setenv("API_KEYS_FILE", str(path or ""))
        status = main(["keys", *words])
    return Said(status, out.getvalue(), err.getvalue())
