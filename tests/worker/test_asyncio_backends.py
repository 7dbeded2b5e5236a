"""
The asyncio pool with results that are not where the ledger is: in a database, and in messages.

A worker of an app without a result backend does not start.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from celery import chain

from tests.servers import Database, worker
from tests.worker.processes import ASYNCIO, ENVIRONMENT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge, BridgeConfig
from tornado_celery_bridge.ledger import Job

#: What jobs do, and how they end.
JOBS: dict[tuple[str, ...], tuple[str, Any]] = {
    ("a.adds", "1", "2"): ("SUCCESS", 3),
    ("a.silent",): ("SUCCESS", "done"),
    ("a.raises", '"ValueError"'): ("FAILURE", None),
    ("a.raises", '"Ignore"'): ("IGNORED", None),
    ("a.retries", "path"): ("SUCCESS", "done"),
    ("a.autoretries", "path"): ("SUCCESS", "done"),
    ("a.replaces",): ("SUCCESS", 3),
    ("ag.counts", "3"): ("SUCCESS", None),
    ("g.counts", "3"): ("SUCCESS", "done"),
    ("e.returns", "path"): ("SUCCESS", "done"),
}


@pytest.mark.parametrize("backend", ["db+sqlite:///{}/results.sqlite", "rpc://"])
async def test_jobs_and_other_tasks_end_as_they_should(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("SAMPLE_BACKEND", backend.format(tmp_path))
    running = worker("tests.worker.sample", {"SAMPLE_URL": database.url, **ENVIRONMENT}, tmp_path / "log", *ASYNCIO)
    await asyncio.to_thread(running.__enter__)
    app = make_app(database.url)
    try:
        async with Bridge(app, BridgeConfig(poll_interval=0.05)) as bridge, asyncio.timeout(60):
            ends = await asyncio.gather(*(ended(bridge, tmp_path, *each) for each in JOBS))
            assert dict(zip(JOBS, ends, strict=True)) == JOBS
            tells = await bridge.submit("a.tells", (0.001,))
            with bridge.ledger.events.follow(tells.id) as events:
                told = [event.kind async for event in events]
            assert {"log", "progress", "checkpoint", "end"} <= {*told}
            adds = app.tasks["a.adds"]
            results = [await bridge.dispatch(adds.s(number, 1)) for number in range(20)]
            assert await asyncio.gather(*(bridge.get(each) for each in results)) == [*range(1, 21)]
            assert await bridge.get(await bridge.dispatch(chain(adds.s(1, 2), adds.s(3)))) == 6
            assert await bridge.get(tells) == [tells.id, "a.tells", "half"]
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
        app.close()


async def ended(bridge: Bridge, folder: Path, name: str, *args: str) -> tuple[str, Any]:
    """Submit a job, and return how it ends."""
    path = str(folder / name)
    result = await bridge.submit(name, [path if each == "path" else json.loads(each) for each in args])
    with bridge.ledger.events.follow(result.id) as events:
        assert [event.kind async for event in events][-1] == "end"
    job = await bridge.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    return job.state, job.result
