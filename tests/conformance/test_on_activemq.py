"""The contract on ActiveMQ."""

import pytest

from tests.conformance.brokers import ACTIVEMQ
from tests.conformance.contract import Contract


@pytest.mark.slow
class TestActiveMQ(Contract):
    kind = ACTIVEMQ
