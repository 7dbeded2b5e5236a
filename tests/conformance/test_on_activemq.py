"""The contract on ActiveMQ."""

from tests.conformance.brokers import ACTIVEMQ
from tests.conformance.contract import Contract


class TestActiveMQ(Contract):
    kind = ACTIVEMQ
