"""Brokers that are started once a session."""

from collections.abc import Iterator

import pytest

from deploy.brokers.activemq import ActiveMQ
from tests.needs import missing


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
        missing("ActiveMQ")
