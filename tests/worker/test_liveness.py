"""A worker is alive if its work goes on, and not if its main process does."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.servers import Database, Server, wait_for, worker
from tests.worker.processes import ENVIRONMENT, OPTIONS, ROOT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.ledger import Monitor
from tornado_celery_bridge.worker.processes import children


async def test_a_worker_whose_pool_takes_nothing_is_not_alive(database: Database, tmp_path: Path) -> None:
    log, heartbeat = tmp_path / "worker.log", tmp_path / "heartbeat"
    settings = {"SAMPLE_URL": database.url, "PYTHONPATH": str(ROOT), "HEARTBEAT_FILE": str(heartbeat)}
    running = worker("tests.worker.sample", settings, log, *OPTIONS)
    process = await asyncio.to_thread(running.__enter__)
    app = make_app(database.url)
    try:
        async with Bridge(app) as bridge:
            monitor = Monitor(bridge.ledger)
            assert await bridge.get(await bridge.submit(app.tasks["e.process"].s()), timeout=20)
            pool = await asyncio.to_thread(children, process.pid)
            for pid in pool:
                os.kill(pid, signal.SIGSTOP)
            waits = await bridge.submit(app.tasks["e.process"].s())
            await asyncio.to_thread(
                wait_for, lambda: b"runs nothing any more: its pool takes no task" in log.read_bytes()
            )
            assert await shown(monitor, 0)
            touched = await asyncio.to_thread(heartbeat.stat)
            await asyncio.to_thread(wait_for, lambda: time.time() - heartbeat.stat().st_mtime > 4)
            assert (await asyncio.to_thread(heartbeat.stat)).st_mtime - touched.st_mtime < 2
            for pid in pool:
                os.kill(pid, signal.SIGCONT)
            assert await bridge.get(waits, timeout=20)
            assert await shown(monitor, 1)
            await asyncio.to_thread(wait_for, lambda: time.time() - heartbeat.stat().st_mtime < 2)
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
        app.close()


async def shown(monitor: Monitor, count: int) -> bool:
    """Return whether so many workers are shown, once they are."""
    async with asyncio.timeout(20):
        while len(await monitor.workers()) != count:
            await asyncio.sleep(0.1)
    return True


async def test_leases_are_renewed_whatever_the_broker_does(
    database: Database, own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLE_BROKER", own_server.url)
    app, path = make_app(database.url), tmp_path / "marks"

    def lease_ends() -> float:
        """Return until when the job is held, in ms; 0 if it is not."""
        with database.client() as client:
            return float(max((score for _, score in client.zrange("{tcb}held", 0, -1, withscores=True)), default=0))

    def wait_until_renewed() -> None:
        before = lease_ends()
        wait_for(lambda: lease_ends() > before)

    def renewed() -> None:
        with worker("tests.worker.sample", {"SAMPLE_URL": database.url, **ENVIRONMENT}, tmp_path / "log", *OPTIONS):
            wait_for(lease_ends)
            own_server.freeze()
            for _ in range(3):  # the threads that ask the broker have been blocked by then
                wait_until_renewed()

    async with Bridge(app) as bridge:
        await bridge.submit(app.tasks["e.stays"].s(str(path)))
        await asyncio.to_thread(renewed)
        own_server.thaw()
    app.close()
