"""What differs between versions of RabbitMQ, and what a server does that is full, or that is in a hurry."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Consumer

from tests.conformance.sample import QUIET, make_app
from tests.doctor import said_of
from tests.faults.sample import QUEUE
from tests.servers import Server, wait_for, worker
from tests.servers.rabbitmq import Configured
from tornado_celery_bridge import (
    AsyncResult,
    Bridge,
    BridgeConfig,
    TaskFailed,
    TaskRevoked,
)
from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.ledger.checks import Finding, check
from tornado_celery_bridge.transports import Priorities, depth, describe
from tornado_celery_bridge.transports.rabbitmq import declare
from tornado_celery_bridge.transports.servers import RabbitMQ, met

pytestmark = pytest.mark.nightly

SAMPLE = "tests.conformance.sample"
#: This machine's own RabbitMQ, which is 3.10 on Debian 12, and 4.0 and 4.3.
SUITES = ("", "trixie", "sid")
#: Seconds after which a server takes messages back. It looks for such messages each second.
HURRY = 3


class Hurried:
    """A RabbitMQ that takes messages back soon, a Redis for the ledger, and a worker."""

    def __init__(self, folder: Path, suite: str) -> None:
        self.broker = Configured(
            folder / "rabbitmq", suite=suite, consumer_timeout=HURRY * 1000, channel_tick_interval=1000
        ).start()
        self.redis = Server(folder / "redis").start()
        self.app = make_app(self.redis.url, self.broker.url)
        self.environment = {
            "REDIS_URL": self.redis.url,
            "BROKER_URL": self.broker.url,
            "FAULTS_JOURNAL": self.redis.url,
            "DATA_DIR": str(folder),
        }
        self._log = folder / "worker.log"

    def server(self) -> RabbitMQ:
        describe(self.app)
        found = met(self.app, "amqp")
        assert isinstance(found, RabbitMQ)
        return found

    def worker(self) -> AbstractContextManager[Any]:
        return worker(SAMPLE, self.environment, self._log, "-Q", QUEUE, "-c", "2")

    def close(self) -> None:
        self.app.close()
        self.redis.stop()
        self.broker.stop()


@pytest.fixture(scope="module", params=SUITES, ids=("here", *SUITES[1:]))
def hurried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hurried]:
    made = Hurried(tmp_path_factory.mktemp("hurried"), request.param)
    yield made
    made.close()


async def test_a_task_that_runs_for_too_long_ends_and_costs_no_other_job(hurried: Hurried) -> None:
    """From 4.3 on the server is told that it may run. Else it ends as a FAILURE, once, and the worker goes on."""
    server = await asyncio.to_thread(hurried.server)
    with_worker = hurried.worker()
    await asyncio.to_thread(with_worker.__enter__)
    try:
        async with Bridge(hurried.app, BridgeConfig(dispatch_timeout=10, result_timeout=60)) as bridge:
            long, short = await bridge.submit("c.nap", (2.5 * HURRY,)), await bridge.submit("c.nap", (0.8 * HURRY,))
            assert await short
            if server.has_consumer_timeout:
                assert await long
            else:
                with pytest.raises(TaskFailed, match=f"RabbitMQ gives a task {HURRY} s: raise its consumer_timeout"):
                    await long
            assert await (await bridge.submit("c.add", (1, 1))) == 2
            assert [await attempts(bridge, each) for each in (long, short)] == [1, 1]
    finally:
        await asyncio.to_thread(with_worker.__exit__, None, None, None)


async def attempts(bridge: Bridge, result: AsyncResult[Any]) -> int:
    job = await bridge.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    return job.attempt


def timeouts(app: Celery) -> list[Finding]:
    return [each for each in check(app, environment={}) if each.name == "consumer-timeout"]


def test_the_doctor_says_it(hurried: Hurried) -> None:
    server = hurried.server()
    assert not timeouts(hurried.app)  # its limit is 600 s
    app = make_app(hurried.redis.url, hurried.broker.url)
    app.conf.task_time_limit = 7200
    found = timeouts(app)
    app.close()
    if server.has_consumer_timeout:
        assert not found
        return
    (finding,) = found
    assert finding.is_unsafe
    assert f"{server} takes a message back" in finding.what
    assert "`consumer_timeout = 7260000` in rabbitmq.conf" in finding.remedy
    assert ("x-consumer-timeout" in finding.remedy) is server.has_queue_timeout
    app = make_app(hurried.redis.url, hurried.broker.url)
    app.conf.task_time_limit = 7200
    assert said_of(app)[0] == 1


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_the_doctor_says_that_there_are_no_dead_letters(hurried: Hurried, kind: str) -> None:
    assert said_of(make_app(hurried.redis.url, hurried.broker.url))[0] == 0
    app = make_app(hurried.redis.url, hurried.broker.url)
    app.conf.task_queues = {"plain": {"queue_arguments": {"x-queue-type": kind}}}
    status, said = said_of(app)
    assert status == 1
    assert "UNSAFE no-dead-letters RabbitMQ drops what no worker can read" in said
    assert "too often: plain has no dead letters" in said


def test_priorities_of_quorum_queues(hurried: Hurried) -> None:
    """As the server's version is: served, in their order, or refused."""
    server = hurried.server()
    served = Priorities(hurried.app).are_served(QUIET)
    assert served is (server.numbers >= (4, 3))
    with hurried.app.connection_for_write() as connection:
        declare(hurried.app, connection)
        producer, queue = hurried.app.amqp.Producer(connection), hurried.app.amqp.queues[QUIET]
        for number in (1, 5, 3, 9, 0, 7, 2, 8, 4, 6):
            producer.publish(number, exchange=queue.exchange, routing_key=queue.routing_key, priority=number)
        wait_for(lambda: depth(connection, QUIET) == 10)
        taken = list[int]()

        def take(number: int, message: Any) -> None:
            taken.append(number)
            message.ack()

        with connection.channel() as channel:
            channel.basic_qos(0, 1, False)
            with Consumer(channel, [queue], callbacks=[take], accept=["json"]):
                while len(taken) < 10:
                    connection.drain_events(timeout=10)
    assert (taken == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]) is served


async def test_a_task_that_expires_in_its_queue_is_told(hurried: Hurried) -> None:
    """The worker says so, as it comes to it; the server would drop the message."""
    async with Bridge(hurried.app, BridgeConfig(dispatch_timeout=10, result_timeout=60)) as bridge:
        late = await bridge.dispatch("c.add", (1, 1), expires=0.5)
        await asyncio.sleep(1)
        with_worker = hurried.worker()
        await asyncio.to_thread(with_worker.__enter__)
        try:
            with pytest.raises(TaskRevoked):
                await late
        finally:
            await asyncio.to_thread(with_worker.__exit__, None, None, None)
