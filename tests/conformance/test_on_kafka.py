"""The contract on Apache Kafka, by SASL; the workers come through a proxy that it advertises."""

from tests.conformance.brokers import KAFKA
from tests.conformance.contract import Contract


class TestKafka(Contract):
    kind = KAFKA
