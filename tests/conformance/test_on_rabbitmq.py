"""The contract on RabbitMQ, and what is RabbitMQ's alone."""

import asyncio
import time
import uuid
from collections.abc import Iterator

import pytest
from celery import Celery
from kombu.transport import native_delayed_delivery

from tests.bridge.recorder import Recorder
from tests.conformance.brokers import RABBITMQ
from tests.conformance.contract import PATIENCE, Contract
from tests.conformance.sample import OTHER, QUIET, make_app
from tests.doctor import said_of
from tests.faults.harness import System
from tests.servers import free_port, wait_for
from tornado_celery_bridge import AsyncResult, Bridge, BridgeConfig, BrokerUnavailable, DispatchUncertain
from tornado_celery_bridge.ledger import new_job
from tornado_celery_bridge.transports import describe
from tornado_celery_bridge.up.brokers.rabbitmq import RabbitMQ


class TestRabbitMQ(Contract):
    kind = RABBITMQ

    @pytest.fixture
    def fresh(self, system: System) -> Iterator[Celery]:
        """An app with queues that no worker has declared."""
        made = make_app(system.redis.url, system.broker.url, queue=f"fresh-{time.time_ns()}")
        assert made.conf.task_default_queue  # looked up now, which reads files
        yield made
        made.close()

    def test_what_it_is(self, app: Celery) -> None:
        told = describe(app)
        assert told.server.startswith("RabbitMQ ")
        assert "(here: in no queue)" in told.capabilities["priority"]
        assert "guest:**@" in told.url

    async def test_a_delay_before_any_worker_was_there(self, fresh: Celery) -> None:
        """Its message is held by the server, and is not dropped for want of a queue."""
        queue = fresh.conf.task_default_queue
        async with Bridge(fresh) as bridge:
            await bridge.dispatch("c.add", (1, 1), countdown=2)
            await bridge.dispatch("c.add", (1, 1), countdown=0.5)
        await asyncio.to_thread(wait_for, lambda: depth(fresh, queue) == 2, PATIENCE)

    async def test_the_next_host_takes_over(self, system: System) -> None:
        urls = f"amqp://guest:guest@127.0.0.1:{free_port()}//;{system.broker.url}"
        app = await asyncio.to_thread(make_app, system.redis.url, urls)
        async with Bridge(app) as bridge:
            assert await (await bridge.dispatch("c.add", (1, 1))) == 2
        app.close()

    def test_the_short_way_sends_the_same(self, fresh: Celery) -> None:
        """As tests/bridge/test_publish.py has it of Redis."""
        fresh.conf.task_send_sent_event = False  # a message of its own
        publisher = Recorder(fresh)
        assert publisher.ready()
        add = fresh.tasks["c.add"]
        for options in ({}, {"queue": OTHER}, {"headers": {"trace": "1"}, "time_limit": 5}):
            given = {"task_id": "id", **options}
            short, long = (publisher.record(add, (1, 2), {}, given, short=short) for short in (True, False))
            assert short == long
        publisher.close()

    def test_the_doctor_says_that_there_are_no_dead_letters(self, system: System) -> None:
        app = make_app(system.redis.url, system.broker.url)
        app.conf.task_queues = {"plain": {"queue_arguments": {"x-queue-type": "classic"}}}
        status, said = said_of(app, "worker")
        assert status == 1
        assert "too often: plain has no dead letters" in said

    def test_what_no_worker_can_read_is_put_aside(self, app: Celery) -> None:
        app.send_task("no.such.task")
        wait_for(lambda: depth(app, "celery.dead"), PATIENCE)

    async def test_an_exchange_that_is_not_there_holds_up_nobody(self, bridge: Bridge) -> None:
        results = []
        for options in ({"exchange": "nowhere", "routing_key": "to"}, {}):
            job_id = str(uuid.uuid4())
            now = round(time.time() * 1000)
            made = new_job(bridge.app, "c.add", (1,), {}, {"task_id": job_id, **options}, now=now, owner="", tags=[])
            await bridge.ledger.jobs.accept(made[0], [1], message=made[1])
            await bridge.ledger.jobs.defer(job_id, 10)
            results.append(AsyncResult[int](job_id, bridge))
        assert await bridge.get(results[1], timeout=PATIENCE) == 2
        assert await bridge.ledger.jobs.cancel(results[0].id) == "PENDING"

    async def test_a_server_that_is_full_is_said_to_be_blocked(self, system: System, app: Celery) -> None:
        """Then nobody waits for it, and it goes on by itself."""
        assert isinstance(system.broker, RabbitMQ)
        broker = system.broker

        async def control(*words: str) -> None:
            await asyncio.to_thread(broker.control, *words)

        async with Bridge(app, BridgeConfig(breaker_reset=0.2)) as bridge:
            await bridge.dispatch("c.add", (1, 1), queue=QUIET)
            await control("set_vm_memory_high_watermark", "0.00001")
            try:
                with pytest.raises((DispatchUncertain, BrokerUnavailable)):  # the server's word may come after it went
                    await bridge.dispatch("c.add", (1, 1), queue=QUIET)
                async with asyncio.timeout(30):
                    while "blocked" not in (why := await trouble(bridge)):
                        await asyncio.sleep(0.05)
                assert "memory" in why
                began = time.monotonic()
                with pytest.raises(BrokerUnavailable, match="blocked"):
                    await bridge.dispatch("c.add", (1, 1), queue=QUIET)
                assert time.monotonic() - began < 1
            finally:
                await control("set_vm_memory_high_watermark", "absolute", "512MB")
            async with asyncio.timeout(20):
                while await trouble(bridge):
                    await asyncio.sleep(0.05)
            await bridge.dispatch("c.add", (1, 1), queue=QUIET)

    def test_what_is_patched_is_still_wrong(self) -> None:
        """When this fails, `register` has nothing to mend any more."""
        with pytest.raises(ValueError, match="positive"):
            native_delayed_delivery.calculate_routing_key(0, "queue")


def depth(app: Celery, queue: str) -> int:
    with app.connection_for_read() as connection, connection.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


async def trouble(bridge: Bridge) -> str:
    try:
        await bridge.ping_broker()
    except BrokerUnavailable as exc:
        return str(exc)
    return ""
