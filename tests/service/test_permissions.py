"""Each process as a Redis user of its own, which may do what docs/brokers/redis.md says, and no more."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.conformance.sample import make_app
from tests.faults.sample import QUEUE
from tests.servers import Server, wait_for
from tests.service.deployment import Deployment, use
from tornado_celery_bridge import Bridge, BrokerUnavailable
from tornado_celery_bridge.ledger.checks import check
from tornado_celery_bridge.ledger.permissions import PROCESSES, needs_of

SAMPLE = "tests.conformance.sample"
#: What redis-py asks by the way, and the checks at the start of a process; nothing depends on it.
OPTIONAL = {"client|setinfo", "info", "config|get"}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("permissions")
    server = Server(folder / "redis", "--acllog-max-len", "1000").start()
    app = make_app(server.url, server.url)
    made = None
    try:
        made = Deployment(folder, server, {process: needs_of(app, process).rule for process in PROCESSES})
        yield made
    finally:
        if made:
            made.close()
        app.close()
        server.stop()


def test_nothing_is_refused(deployment: Deployment) -> None:
    use(deployment)
    with deployment.server.client() as client:
        refused = [each for each in client.acl_log() if each["object"] not in OPTIONAL]
    assert not [each for each in refused if each["context"] != "multi"], refused
    for process in PROCESSES:
        assert not lacks(deployment, process)


def lacks(deployment: Deployment, process: str) -> str:
    """Return what the doctor says that a process's user lacks."""
    app = make_app(deployment.url(process), deployment.url(process))
    try:
        found = [each for each in check(app, processes=[process]) if each.name == "no-permission"]
        assert all(each.is_unsafe for each in found)
        return " ".join(each.code[0] for each in found)
    finally:
        app.close()


@pytest.mark.parametrize(
    "part",
    [
        *("+lpush", "+evalsha", "+multi", "+hgetall", "+client|tracking", "~{tcb}*", "~celery-task*", f"~{QUEUE}*"),
        *("&{tcb}events:*", "&/0.celeryev/*", "&/0.celeryev/worker.*", "&/0.celery.pidbox", "~unacked*"),
    ],
)
def test_the_doctor_tells_the_rule_that_is_missing(deployment: Deployment, part: str) -> None:
    app = make_app(deployment.server.url, deployment.server.url)
    rule = needs_of(app, "worker").rule.split()
    app.close()
    assert part in rule
    with deployment.server.client() as client:
        client.execute_command("ACL", "SETUSER", "short", "reset", "on", ">secret", *(set(rule) - {part}))
    app = make_app(deployment.url("short"), deployment.url("short"))
    (found,) = [each for each in check(app, processes=["worker"]) if each.name == "no-permission"]
    app.close()
    assert found.code[0] == f"ACL SETUSER short {part}"
    with deployment.server.client() as client:  # the remedy works
        client.execute_command(*found.code[0].split())
        client.execute_command("ACL", "SETUSER", "worker", "on")


@pytest.fixture
def short(deployment: Deployment) -> Iterator[Celery]:
    """An app whose user may not send a message."""
    with deployment.server.client() as client:
        client.execute_command("ACL", "SETUSER", "short", "reset", "on", ">secret", "~*", "&*", "+@all", "-lpush")
    app = make_app(deployment.url("short"), deployment.url("short"))
    assert app.backend  # made now: it reads files
    yield app
    app.close()


async def test_a_dispatch_is_refused_with_the_rule(short: Celery) -> None:
    async with Bridge(short) as bridge:
        with pytest.raises(BrokerUnavailable, match=r"the rule that is missing: \+lpush"):
            await bridge.dispatch("c.add", (1,))


@pytest.mark.parametrize(
    ("part", "path", "body"),
    [
        ("+evalsha", "/v1/tasks/c.add/jobs", {"input": {"x": 1}}),
        ("~{tcb}*", "/v1/jobs/none", None),
    ],
)
def test_what_is_refused_is_503_with_the_rule(deployment: Deployment, part: str, path: str, body: Any) -> None:
    with deployment.server.client() as client:
        app = make_app(deployment.server.url, deployment.server.url)
        rule = needs_of(app, "serve").rule.split()
        app.close()
        client.execute_command("ACL", "SETUSER", "serve", "reset", "on", ">secret", *(set(rule) - {part}))
        try:
            with pytest.raises(urllib.error.HTTPError) as raised:
                deployment.ask(path, body)
            with raised.value as answer:
                problem = json.load(answer)
            assert (problem["status"], "the rule that is missing" in problem["detail"]) == (503, True), problem
            assert part.startswith("~") or part in problem["detail"]
        finally:
            client.execute_command("ACL", "SETUSER", "serve", "reset", "on", ">secret", *rule)


def test_what_cannot_be_sent_now_is_sent_when_it_may(deployment: Deployment) -> None:
    """The ledger has it, as of a broker that is away."""
    one = {"task": "c.add", "input": {"x": 1}}
    with deployment.server.client() as client:
        client.execute_command("ACL", "SETUSER", "serve", "resetkeys", "~{tcb}*")
        chord = {"chord": {"header": [one, one], "body": {"task": "c.total", "input": {}}}}
        flow = deployment.ask("/v1/workflows", chord)
        client.execute_command("ACL", "SETUSER", "serve", "~*")
    wait_for(lambda: deployment.ask(f"/v1/workflows/{flow['id']}")["done"], 60)


def test_the_docs_have_the_rules() -> None:
    app = Celery("docs", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)
    text = " ".join((Path(__file__).parents[2] / "docs" / "brokers" / "redis.md").read_text().split())
    for process in PROCESSES:
        assert f"ACL SETUSER {process} on >PASSWORD {needs_of(app, process).rule} " in text
    app.close()
