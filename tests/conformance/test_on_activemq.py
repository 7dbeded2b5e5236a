"""The contract on ActiveMQ."""

import pytest

from tests.conformance.brokers import ACTIVEMQ, ACTIVEMQ_6
from tests.conformance.contract import Contract


class TestActiveMQ(Contract):
    kind = ACTIVEMQ


@pytest.mark.nightly
class TestActiveMQ6(Contract):
    kind = ACTIVEMQ_6
