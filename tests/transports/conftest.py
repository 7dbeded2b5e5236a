"""Brokers that are started once a session, and what is asked of a worker on each."""

from collections.abc import Iterator

import pytest

from tests.transports.brokers import need_activemq
from tornado_celery_bridge.up.brokers.activemq import ActiveMQ


@pytest.fixture(scope="session")
def activemq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """An ActiveMQ that nothing bad happens to."""
    need_activemq()
    made = ActiveMQ(tmp_path_factory.mktemp("activemq")).start()
    yield made
    made.stop()
