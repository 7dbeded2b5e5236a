"""The contract on ActiveMQ Artemis."""

from pathlib import Path

import pytest

from tests.conformance.brokers import ARTEMIS
from tests.conformance.contract import Contract
from tests.conformance.sample import make_app
from tests.doctor import said_of
from tests.servers import Server
from tornado_celery_bridge.up.brokers.artemis import PERMISSIONS, Artemis

pytestmark = pytest.mark.nightly


class TestArtemis(Contract):
    kind = ARTEMIS


def test_the_doctor_says_that_queues_can_not_be_counted(tmp_path: Path, server: Server) -> None:
    ARTEMIS.require()
    permissions = tuple(each for each in PERMISSIONS if each != "manage")
    for given, status in ((PERMISSIONS, 0), (permissions, 1)):
        broker = Artemis(tmp_path / str(status), login=("celery", "secret"), permissions=given).start()
        try:
            found, said = said_of(make_app(server.url, broker.url), "worker")
        finally:
            broker.stop()
        assert found == status, said
    assert "UNSAFE no-permission ActiveMQ: the user may not count queues, so no lost job would be found" in said
    assert "give the user the permission `manage` (and `send`) on the address activemq.management" in said
