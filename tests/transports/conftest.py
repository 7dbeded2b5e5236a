"""Brokers that are started once a session, and what is asked of a worker on each."""

from collections.abc import Iterator

import pytest

from tests.servers import Server
from tests.transports.brokers import need_activemq
from tornado_celery_bridge.up.brokers.activemq import ActiveMQ


@pytest.fixture(autouse=True)
def nothing_is_left(collected: None) -> None:
    """What a test leaves is collected at its end."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis that a module of this room has to itself: its tests empty it, and cut all connections to it."""
    made = Server(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def activemq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActiveMQ]:
    """An ActiveMQ that nothing bad happens to."""
    need_activemq()
    made = ActiveMQ(tmp_path_factory.mktemp("activemq")).start()
    yield made
    made.stop()
