"""The contract on Redis."""

import pytest

from tests.conformance.brokers import REDIS
from tests.conformance.contract import Contract


@pytest.mark.slow
class TestRedis(Contract):
    kind = REDIS
