"""What is unsafe: servers that are really so, and settings. That nothing starts, tests/up/test_refusals.py says."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.sample import make_app
from tests.servers import Database, Server, wait_for
from tornado_celery_bridge import Bridge, BrokerUnavailable
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.ledger import LedgerUnavailable, checks
from tornado_celery_bridge.ledger.checks import Finding, check
from tornado_celery_bridge.worker import install

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with options of the test's own; ended with the test."""
    started: list[Server] = []

    def start_one(*options: str) -> Server:
        started.append(Server(tmp_path / f"redis{len(started)}", *options).start())
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


#: All as it should be.
SAFE: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_time_limit": 600,
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": {"visibility_timeout": 601, "confirm_publish": True},
}
#: Of RabbitMQ: what no worker can read is kept.
PUT_ASIDE: dict[str, Any] = {"task_queues": {"celery": {"queue_arguments": {"x-dead-letter-exchange": ""}}}}
REFUSED = "redis://127.0.0.1:1/0"


def look(url: str = REFUSED, broker: str | None = None, allow: str = "", **settings: Any) -> list[Finding]:
    app = Celery(broker=broker or url, backend=url, set_as_current=False)
    app.conf.update(SAFE | settings)
    install(app)
    try:
        # What older versions lack is the business of tests/base/test_versions.py.
        return [each for each in check(app, environment={"ALLOW_UNSAFE": allow}) if each.name != "old-versions"]
    finally:
        app.close()


def names(*args: Any, **settings: Any) -> list[str]:
    return [finding.name for finding in look(*args, **settings)]


def forbid(server: Server, *commands: str) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", *commands)


# Servers.


def test_nothing_is_found_where_all_is_well(start: Start) -> None:
    assert names(start().url) == []


def test_of_a_server_on_a_unix_socket_neither(start: Start, tmp_path: Path) -> None:
    start("--unixsocket", str(tmp_path / "s"), "--protected-mode", "no")
    assert names(f"redis+socket://{tmp_path}/s?virtual_host=0") == []


def test_a_ledger_without_an_append_only_file(start: Start) -> None:
    server = start("--appendonly", "no")
    (found,) = look(server.url)
    assert (found.name, found.is_unsafe) == ("no-aof", True)
    assert "appendonly yes" in found.remedy
    assert "ALLOW_UNSAFE=no-aof" in str(found)
    with server.client() as client:  # its remedy works, with the server as it runs
        client.config_set("appendonly", "yes")
    assert look(server.url) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_broker_that_evicts(start: Start, policy: str) -> None:
    (found,) = look(start().url, start("--maxmemory-policy", policy).url)
    assert (found.name, found.is_unsafe) == ("eviction", True)
    assert "the broker's Redis" in found.what
    assert policy in found.what


def test_a_full_one(start: Start) -> None:
    (found,) = look(start("--maxmemory", "1").url)
    assert (found.name, found.is_unsafe) == ("full", True)
    assert re.search(r"it uses [0-9,]+ of at most 1 bytes", found.what)


def test_one_that_its_replicas_copy(start: Start) -> None:
    """Without a file it comes back empty, and so do they."""
    master = start("--appendonly", "no", "--repl-diskless-sync-delay", "0")
    copy = start("--replicaof", "127.0.0.1", str(master.port))
    with copy.client() as client:
        wait_for(lambda: client.info("replication").get("master_link_status") == "up")
    (found,) = look(master.url)
    assert "its 1 replicas then forget it as well" in found.what


def test_a_cluster_is_refused_in_words(start: Start) -> None:
    server = start("--cluster-enabled", "yes")
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    found = {each.name: each for each in look(server.url)}["cluster"]
    assert found.is_unsafe
    assert "is a Redis Cluster, and the settings do not say so" in found.what
    assert not found.may_be_allowed


async def test_a_dispatch_to_a_cluster_is_refused_in_words(start: Start) -> None:
    server = await asyncio.to_thread(start, "--cluster-enabled", "yes")
    app = await asyncio.to_thread(make_app, server.url, server.url)  # none of its slots is served
    async with Bridge(app) as bridge:
        with pytest.raises(BrokerUnavailable, match="it is a Redis Cluster, and the settings do not say so"):
            await bridge.dispatch(app.tasks["sample.add"].s(1, 1))
        with pytest.raises(LedgerUnavailable, match="it is a Redis Cluster, and the settings do not say so"):
            await bridge.ledger.jobs.get("a")
    app.close()


@pytest.mark.parametrize("is_broker", [False, True])
def test_a_wrong_password(start: Start, is_broker: bool) -> None:
    closed, other = start(), start()
    with closed.client() as client:
        client.config_set("requirepass", "secret")
    url = closed.url.replace("//", "//:wrong@")
    (found,) = [each for each in look(other.url if is_broker else url, url) if each.name == "no-login"]
    assert found.is_unsafe
    assert "does not let us log in" in found.what


@pytest.mark.parametrize("is_broker", [False, True])
def test_tls_that_looks_at_nothing_and_a_file_that_is_not_there(tmp_path: Path, is_broker: bool) -> None:
    url = f"rediss://:p@127.0.0.1:1/0?ssl_cert_reqs=none&ssl_ca_certs={tmp_path}/ca.pem"
    found = {each.name: each for each in look(REFUSED if is_broker else url, url)}
    assert found["unverified-tls"].is_unsafe
    assert found["no-certificate"].is_unsafe
    assert f"there is no file ssl_ca_certs={tmp_path}/ca.pem" in found["no-certificate"].what
    (tmp_path / "ca.pem").touch()
    assert not {"unverified-tls", "no-certificate"} & {*names(url.replace("none", "required"))}


def test_where_config_is_forbidden_info_says_it(start: Start) -> None:
    """As managed servers do."""
    server = start("--appendonly", "no")
    forbid(server, "-config")
    assert names(server.url) == ["no-aof", "unknown"]


def test_where_info_is_forbidden_too_it_is_unknown(start: Start) -> None:
    server = start("--appendonly", "no")
    forbid(server, "-config", "-info")
    (found,) = look(server.url)
    assert (found.name, found.is_unsafe) == ("unknown", False)
    assert "no permissions" in found.what


@pytest.mark.parametrize("broker", [None, "redis://127.0.0.1:2/0"])
def test_a_server_that_is_away_keeps_nobody_from_starting(broker: str | None) -> None:
    found = look(broker=broker)
    assert {(each.name, each.is_unsafe) for each in found} == {("no-answer", False)}
    assert len(found) == (2 if broker else 1)


@pytest.mark.parametrize(
    ("server", "is_open"),
    [
        ({"host": "10.0.0.5", "has_password": False}, True),
        ({"host": "redis", "has_password": False}, True),
        ({"host": "redis", "has_password": True}, False),
        ({"host": "::1", "has_password": False}, False),
        ({"host": "localhost", "has_password": False}, False),
        ({"host": None, "has_password": False}, False),
        # Reached over loopback, and open to the network all the same.
        ({"config": {"bind": "* -::*", "protected-mode": "no", "requirepass": "", "port": "6379"}}, True),
        ({"config": {"bind": "", "protected-mode": "no", "requirepass": "", "port": "6379"}}, True),
        ({"config": {"bind": "127.0.0.1 10.0.0.5", "protected-mode": "no", "requirepass": "", "port": "6379"}}, True),
        ({"config": {"bind": "127.0.0.1 -::1", "protected-mode": "no", "requirepass": "", "port": "6379"}}, False),
        ({"config": {"bind": "* -::*", "protected-mode": "yes", "requirepass": "", "port": "6379"}}, False),
        ({"config": {"bind": "* -::*", "protected-mode": "no", "requirepass": "", "port": "0"}}, False),
        ({"config": {"bind": "* -::*", "protected-mode": "no", "requirepass": "x", "port": "6379"}}, False),
    ],
)
def test_who_can_reach_it(server: dict[str, Any], is_open: bool) -> None:
    given: dict[str, Any] = {"role": "Redis", "host": "127.0.0.1", "has_password": False} | server
    found = checks.no_password(checks.Server(**given))
    assert (found is not None and found.is_unsafe) == is_open


def test_a_server_without_protection_that_listens_on_loopback(start: Start) -> None:
    assert names(start("--protected-mode", "no").url) == []  # it listens on 127.0.0.1 alone


# Settings.


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"task_acks_late": False}, "early-acks"),
        ({"task_reject_on_worker_lost": None}, "lost-fails"),
        ({"task_retry_on_worker_lost": True}, "lost-fails"),
        ({"accept_content": ["json", "pickle"]}, "pickle"),
        ({"accept_content": ["application/x-python-serialize"]}, "pickle"),
        ({"result_accept_content": ["yaml"]}, "pickle"),
        ({"broker_url": "amqp://", "broker_transport_options": {}, **PUT_ASIDE}, "no-confirms"),
        ({"broker_url": ["pyamqp://a", "pyamqp://b"], "broker_transport_options": {}, **PUT_ASIDE}, "no-confirms"),
        ({"broker_url": "amqp://"}, "no-dead-letters"),
        ({"task_time_limit": None}, "no-time-limit"),
        ({"worker_pool": "threads"}, "no-ends"),
        ({"broker_transport_options": {"visibility_timeout": 60}}, "visibility"),
        ({"task_time_limit": 7200, "broker_transport_options": {}}, "visibility"),
        ({"worker_prefetch_multiplier": 4}, "prefetch"),
    ],
)
def test_a_setting(database: Database, settings: dict[str, Any], name: str) -> None:
    found, *more = look(database.url, **settings)
    assert (found.name, more) == (name, [])
    assert found.is_unsafe == (name not in ("no-time-limit", "no-ends", "visibility", "prefetch"))


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"task_acks_late": False}, "early-acks"),
        ({"task_reject_on_worker_lost": None}, "lost-fails"),
        ({"task_retry_on_worker_lost": True}, "lost-fails"),
    ],
)
def test_a_task_that_only_follows_the_app_is_no_finding_of_its_own(setting: dict[str, Any], name: str) -> None:
    app = Celery(broker=REFUSED, backend=REFUSED, set_as_current=False)
    app.conf.update(SAFE | setting)
    install(app)

    @app.task(name="plain", shared=False)
    def plain() -> None: ...

    assert plain.acks_late is app.conf.task_acks_late  # It is bound now, and so seen.
    ends = {"early-acks", "lost-fails", "own-acks"}
    assert [each.name for each in check(app, environment={}) if each.name in ends] == [name]
    app.close()


def test_confirms_and_a_visibility_timeout_are_no_matter_of_other_brokers(database: Database) -> None:
    assert names(database.url, "amqp://", **PUT_ASIDE) == []
    assert names(database.url, "memory://", broker_transport_options={}) == []


def test_by_sentinel_no_confirmation_is_for_ever() -> None:
    url, options = "sentinel://:secret@127.0.0.1:1/0;sentinel://:hidden@127.0.0.1:2/0", {"master_name": "first"}
    found = look(url, result_backend_transport_options=options, broker_url="memory://")
    assert [(each.name, each.is_unsafe) for each in found] == [("no-answer", False), ("failover", False)]
    assert "secret" not in found[0].what
    assert "hidden" not in found[0].what


def test_without_install(database: Database) -> None:
    app = Celery(broker=database.url, backend=database.url, set_as_current=False)
    app.conf.update(SAFE)
    found = [(each.name, each.is_unsafe) for each in check(app) if each.name != "old-versions"]
    assert found == [("no-install", True)]
    app.close()


# Overrides.


def test_what_is_allowed_is_said_and_not_refused(database: Database) -> None:
    found = look(
        database.url, allow=" early-acks, pickle", task_acks_late=False, accept_content=["yaml"], task_time_limit=0
    )
    assert [(each.name, each.is_unsafe, each.allowed) for each in found] == [
        ("early-acks", False, True),
        ("pickle", False, True),
        ("no-time-limit", False, False),
    ]


def test_what_is_unsafe_comes_first(database: Database) -> None:
    assert names(database.url, task_time_limit=0, accept_content=["yaml"]) == ["pickle", "no-time-limit"]


def test_a_name_that_is_none(database: Database) -> None:
    with pytest.raises(SettingsError, match=r"ALLOW_UNSAFE=no-aoff: there is only no-aof, "):
        look(database.url, allow="no-aoff,pickle")
