"""Brokers that are started once a session."""

import os
from collections.abc import Iterator

import pytest

from deploy.brokers.activemq import ActiveMQ


@pytest.fixture(scope="session")
def activemq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """An ActiveMQ that nothing bad happens to."""
    need_activemq()
    made = ActiveMQ(tmp_path_factory.mktemp("activemq")).start()
    yield made
    made.stop()


def need_activemq() -> None:
    """Skip where there is no ActiveMQ and none can be installed; in CI, that is a failure."""
    if not ActiveMQ.available():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no ActiveMQ here: apt-get install activemq")
