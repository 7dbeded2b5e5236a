"""The contract on Kafka."""

from tests.conformance.brokers import KAFKA
from tests.conformance.contract import Contract


class TestKafka(Contract):
    kind = KAFKA
