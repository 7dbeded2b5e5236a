"""The contract on ActiveMQ Artemis."""

import pytest

from tests.conformance.brokers import ARTEMIS
from tests.conformance.contract import Contract

pytestmark = pytest.mark.nightly


class TestArtemis(Contract):
    kind = ARTEMIS
