"""The contract of the four brokers on workers with the asyncio pool. ``make test`` has it on prefork."""

import pytest

from tests.conformance.brokers import ACTIVEMQ, KAFKA, RABBITMQ, REDIS
from tests.conformance.contract import Contract

pytestmark = pytest.mark.nightly


class OnLoop(Contract):
    on_loop = True


class TestRedis(OnLoop):
    kind = REDIS


class TestRabbitMQ(OnLoop):
    kind = RABBITMQ


class TestKafka(OnLoop):
    kind = KAFKA


class TestActiveMQ(OnLoop):
    kind = ACTIVEMQ
