"""The contract on a Redis Cluster; and its masters are killed, and come back."""

import random
from pathlib import Path

import pytest

from tests.conformance.brokers import REDIS_CLUSTER
from tests.conformance.contract import Contract
from tests.faults.harness import running, under_fire
from tests.servers.redis_cluster import RedisCluster

pytestmark = pytest.mark.nightly


class TestRedisCluster(Contract):
    kind = REDIS_CLUSTER


@pytest.mark.timeout(600)
def test_kills_of_workers_and_masters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 jobs at 20 a second; every ten seconds a worker is killed, and after each second one the keys' master."""
    cluster = RedisCluster(tmp_path / "broker")
    monkeypatch.setenv("REDIS_CLUSTER", ",".join(cluster.named))
    try:
        cluster.start()
        with running(tmp_path, broker=cluster, sample="tests.conformance.sample") as system:
            kills = iter([system.kill_worker, system.kill_broker, system.kill_worker] * 3)

            def kill(chance: random.Random) -> None:
                next(kills)(chance)

            figures = under_fire(system, 1000, 7, kill, seed=7, rate=20, seconds=0.02, allowed=4, task="c.nap")
        assert figures.lost == figures.unfinished == figures.failed == figures.unexpected == []
        assert figures.second_starts <= figures.allowed, figures
        assert not any(figures.left.values()), figures
    finally:
        cluster.stop()
