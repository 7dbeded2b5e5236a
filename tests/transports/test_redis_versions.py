"""Redis and Valkey of several versions: what our transport and the ledger do on each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.sample import make_app
from tests.servers.real_redis import VERSIONS, RealServer, Version
from tests.service.deployment import Deployment, use
from tornado_celery_bridge.ledger.checks import check
from tornado_celery_bridge.ledger.permissions import PROCESSES, needs_of
from tornado_celery_bridge.transports import describe

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module", params=VERSIONS, ids=str)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    version: Version = request.param
    made = RealServer(tmp_path_factory.mktemp("redis"), version, "--acllog-max-len", "1000").start()
    yield made
    made.stop()


def test_the_main_paths_under_the_rules_of_the_docs(server: RealServer, tmp_path: Path) -> None:
    app = make_app(server.url, server.url)
    assert describe(app).server.split()[0].lower() == server.version.program.partition("-")[0]
    assert not [each for each in check(app) if each.is_unsafe]
    rules = {process: needs_of(app, process).rule for process in PROCESSES}
    app.close()
    made = Deployment(tmp_path, server, rules)
    try:
        use(made)
        with server.client() as client:
            refused = [each for each in client.acl_log() if each["context"] != "multi"]
        assert {each["object"] for each in refused} <= {"client|setinfo", "info", "config|get", "config"}
    finally:
        made.close()
