"""
What the tests need of the machine.

``python -m tests.needs`` installs it all, before any test's time runs; a test that runs alone installs its own.
"""

import os
from typing import NoReturn

import pytest

from tornado_celery_bridge.up.brokers.activemq import ActiveMQ
from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.rabbitmq import RabbitMQ

__all__ = ("missing",)


def missing(what: str) -> NoReturn:
    """Skip a test that needs what is not here and can't be had; in CI that is a failure."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is not here, and can't be installed")
    raise AssertionError


if __name__ == "__main__":
    RabbitMQ.available()
    ActiveMQ.available()
    ensure("chromium", "libfaketime", "nginx-light")
