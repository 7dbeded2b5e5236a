"""
The contract of the four brokers on workers with the asyncio pool, at night; ``make test`` has it on prefork.

Of that on Redis, ``make test`` has the short checks.
"""

import pytest

from tests.conformance.brokers import ACTIVEMQ, KAFKA, RABBITMQ, REDIS
from tests.conformance.contract import Contract

nightly = pytest.mark.nightly


class OnLoop(Contract):
    on_loop = True


class TestRedis(OnLoop):
    kind = REDIS
    by_day = (
        *("submit_and_await", "dispatch_and_await", "failure", "an_end_that_celery_stores_nothing_for", "purged"),
        *("chain_group_and_chord", "progress", "cancel_running", "revoke_with_terminate", "ping_and_inspect"),
        *("values_come_as_they_were", "a_message_of_1_mb", "what_a_worker_cannot_read", "several_queues", "workflow"),
        *("time_limit", "long_eta"),
    )


@nightly
class TestRabbitMQ(OnLoop):
    kind = RABBITMQ


@nightly
class TestKafka(OnLoop):
    kind = KAFKA


@nightly
class TestActiveMQ(OnLoop):
    kind = ACTIVEMQ
