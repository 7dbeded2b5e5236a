"""The contract on RabbitMQ."""

import pytest

from tests.conformance.brokers import RABBITMQ
from tests.conformance.contract import Contract


@pytest.mark.server
@pytest.mark.worker
@pytest.mark.slow
class TestRabbitMQ(Contract):
    kind = RABBITMQ
