"""Three Kafkas of which each topic has three copies: workers and nodes are killed, and no job is lost."""

import random
from pathlib import Path

import pytest

from tests.conformance.brokers import KAFKA_CLUSTER
from tests.faults.harness import running, under_fire
from tests.servers.kafka import KafkaCluster


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_kills_of_workers_and_nodes(tmp_path: Path) -> None:
    """1,000 jobs at 20 a second; every ten seconds a worker is killed, and after each second one a node."""
    KAFKA_CLUSTER.require()
    cluster = KAFKA_CLUSTER.make(tmp_path / "broker")
    cluster.start()
    try:
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


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_rolling_restart(tmp_path: Path) -> None:
    """1,000 jobs at 20 a second, while each of the nodes is ended in order and started again: none is lost or fails."""
    KAFKA_CLUSTER.require()
    cluster = KafkaCluster(tmp_path / "broker")
    cluster.start()
    try:
        with running(tmp_path, broker=cluster, sample="tests.conformance.sample") as system:

            def restart(_: random.Random) -> None:
                cluster.restart_one()

            figures = under_fire(system, 1000, 3, restart, seed=8, rate=20, seconds=0.02, allowed=4, task="c.nap")
            for worker in system.workers:
                assert b"Traceback" not in worker.log.read_bytes()
        assert figures.lost == figures.unfinished == figures.failed == figures.unexpected == []
        assert figures.second_starts <= figures.allowed, figures
        assert not any(figures.left.values()), figures
    finally:
        cluster.stop()
