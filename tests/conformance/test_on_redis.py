"""The contract on Redis."""

from tests.conformance.brokers import REDIS
from tests.conformance.contract import Contract


class TestRedis(Contract):
    kind = REDIS
