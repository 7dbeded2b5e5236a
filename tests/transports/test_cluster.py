"""A Redis Cluster as broker, ledger and result backend: its keys move, and its master dies."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from celery import Celery, chord, group

from tests.conformance.sample import make_app
from tests.doctor import said_of
from tests.faults.sample import QUEUE
from tests.servers import Server, wait_for, worker
from tests.servers.redis_cluster import RedisCluster
from tornado_celery_bridge import Bridge, BridgeConfig, DispatchError, ResultTimeout
from tornado_celery_bridge.ledger import Job, LedgerUnavailable


@contextmanager
def started(folder: Path, *, replicas: bool) -> Iterator[RedisCluster]:
    made = RedisCluster(folder, replicas=replicas)
    try:
        yield made.start()
    finally:
        made.stop()


def working(cluster: RedisCluster, journal: Server, folder: Path) -> AbstractContextManager[object]:
    """Run a worker for a block."""
    given = {"BROKER_URL": cluster.url, "FAULTS_JOURNAL": journal.url, "DATA_DIR": str(folder)} | cluster.environment
    return worker("tests.conformance.sample", given, folder / "worker.log", "-c", "2", "-Q", QUEUE)


def app_of(cluster: RedisCluster) -> Celery:
    with patch.dict(os.environ, cluster.environment):
        made = make_app(cluster.url, cluster.url)
    assert made.tasks  # made now: it reads files
    return made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with started(tmp_path_factory.mktemp("cluster"), replicas=False) as made:
        yield made


@pytest.fixture(scope="module")
def running(cluster: RedisCluster, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with working(cluster, server, tmp_path_factory.mktemp("worker")):
        yield


@pytest.fixture
def app(cluster: RedisCluster) -> Iterator[Celery]:
    made = app_of(cluster)
    yield made
    made.close()


CONFIG = BridgeConfig(dispatch_timeout=5, result_timeout=60)


@pytest.mark.usefixtures("running")
async def test_tasks_jobs_and_canvases(app: Celery) -> None:
    add, total = (app.tasks[name] for name in ("c.add", "c.total"))
    async with Bridge(app, CONFIG) as bridge:
        assert await (await bridge.dispatch(add.s(1, 1))) == 2
        assert await (await bridge.submit("c.add", (2, 2))) == 4
        assert await (await bridge.dispatch(chord(group(add.s(n, n) for n in range(3)), total.s()))) == 6
        progress = await bridge.submit("c.steps", (3,))
        assert await progress == 3
        job = await bridge.ledger.jobs.get(progress.id)
        assert isinstance(job, Job)
        assert job.state == "SUCCESS"
        assert await asyncio.to_thread(app.control.ping, timeout=2.0)


@pytest.mark.usefixtures("running")
async def test_keys_that_move(cluster: RedisCluster, app: Celery) -> None:
    """What is awaited comes, and nobody has to do anything."""
    async with Bridge(app, CONFIG) as bridge:
        slow = await bridge.submit("c.nap", (2.0,))
        await asyncio.to_thread(cluster.move)
        assert await (await bridge.submit("c.add", (1, 1))) == 2
        assert "@" in await slow
        assert await (await bridge.dispatch("c.add", (1, 1))) == 2


def test_the_doctor(cluster: RedisCluster) -> None:
    status, said = said_of(app_of(cluster), "worker")
    assert status == 0, said
    assert "failover the ledger is in a Redis Cluster: what its master has confirmed" in said
    assert " broker Valkey 9." in said


def test_the_doctor_where_the_settings_know_nothing_of_a_cluster(cluster: RedisCluster) -> None:
    status, said = said_of(make_app(cluster.url, cluster.url), "worker")
    assert status == 1
    assert "is a Redis Cluster, and the settings do not say so" in said
    assert "REDIS_CLUSTER=HOST:PORT in the environment" in said


def test_the_doctor_of_slots_that_nobody_serves(cluster: RedisCluster) -> None:
    """With one of three masters gone, and no replica of it, the cluster refuses all. It comes last in this file."""
    master = cluster.master
    other = next(server for server in cluster.servers if server is not master)
    other.kill()
    wait_for(lambda: not master.is_whole)
    status, said = said_of(app_of(cluster), "worker")
    assert status == 1, said
    assert "UNSAFE unserved-slots " in said
    assert "a Redis Cluster, refuses commands: " in said
    assert "redis-cli --cluster check" in said


@pytest.fixture
def copied(server: Server, tmp_path: Path) -> Iterator[tuple[RedisCluster, Celery]]:
    """A cluster with replicas, and a worker."""
    with started(tmp_path / "cluster", replicas=True) as cluster, working(cluster, server, tmp_path):
        app = app_of(cluster)
        yield cluster, app
        app.close()


@pytest.mark.nightly
async def test_the_master_dies(copied: tuple[RedisCluster, Celery]) -> None:
    """A replica takes its place. What ran, waited and was awaited goes on."""
    cluster, app = copied
    async with Bridge(app, CONFIG) as bridge:
        slow, done = await bridge.submit("c.nap", (2.0,)), await bridge.submit("c.add", (2, 2))
        assert await done == 4
        await asyncio.to_thread(wait_for, cluster.is_copied)
        await asyncio.to_thread(cluster.kill)
        with pytest.raises(LedgerUnavailable):
            await bridge.submit("c.add", (3, 3))
        assert "@" in await slow
        assert await comes(bridge)
        jobs = [await bridge.ledger.jobs.get(result.id) for result in (slow, done)]
        # What runs when a worker loses its broker is ended, and begins again: celeryconfig.py says so.
        assert [(job.state, job.attempt <= 2) for job in jobs if isinstance(job, Job)] == [("SUCCESS", True)] * 2


async def comes(bridge: Bridge) -> bool:
    """Dispatch until a result comes, which is after the failover."""
    while True:
        try:
            return bool(await bridge.get(await bridge.dispatch("c.add", (1, 2)), timeout=10))
        except (DispatchError, ResultTimeout):
            await asyncio.sleep(0.2)
