"""The contract on Kafka."""

import pytest

from tests.conformance.brokers import KAFKA
from tests.conformance.contract import Contract


@pytest.mark.slow
class TestKafka(Contract):
    kind = KAFKA
