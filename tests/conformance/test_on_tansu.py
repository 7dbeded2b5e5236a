"""The contract on what stands in for Apache Kafka where there is no Java."""

import pytest

from tests.conformance.brokers import TANSU
from tests.conformance.contract import Contract


@pytest.mark.nightly
class TestTansu(Contract):
    kind = TANSU
