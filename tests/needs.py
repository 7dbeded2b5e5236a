"""
What the tests need of the machine.

``python -m tests.needs`` installs it all, before any test's time runs, and fails if something is not here afterwards; a
test that runs alone installs its own.
"""

import os
import sys
from typing import NoReturn

import pytest

from tornado_celery_bridge.up.brokers.activemq import ActiveMQ
from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.kafka import Kafka
from tornado_celery_bridge.up.brokers.rabbitmq import RabbitMQ

__all__ = ("IMPOSSIBLE", "IN_CI", "impossible", "missing")

#: Whether whatever can be had must be here.
IN_CI = os.environ.get("CI") == "true"

#: How the reason of a skip begins that is one in CI, too.
IMPOSSIBLE = "impossible here: "


def missing(what: str) -> NoReturn:
    """Skip a test that needs what is not here and can't be installed; in CI that is a failure."""
    pytest.skip(f"{what} is not here, and can't be installed")


def impossible(why: str) -> NoReturn:
    """Skip a test of what a server or a machine can't do at all."""
    pytest.skip(f"{IMPOSSIBLE}{why}")


def main() -> int:
    here = {
        "RabbitMQ": RabbitMQ.available(),
        "ActiveMQ": ActiveMQ.available(),
        "chromium, libfaketime and nginx": ensure("chromium", "libfaketime", "nginx-light"),
    }
    if not Kafka.available():
        print("Apache Kafka: not here, so its tests are skipped; see above", file=sys.stderr)
    for name in [name for name, is_here in here.items() if not is_here]:
        print(f"{name}: not here, and can't be installed; see above", file=sys.stderr)
    return int(not all(here.values()))


if __name__ == "__main__":
    sys.exit(main())
