"""`tcb doctor` over a Redis of which something is wrong: what it says in a sentence, and that it ends with 1."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.conformance.sample import make_app
from tests.doctor import said_of
from tests.servers import Server, TlsProxy
from tornado_celery_bridge.ledger.permissions import needs_of

Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start servers that end with these tests."""
    started: list[Server] = []

    def start_one(*options: str) -> Server:
        started.append(Server(tmp_path_factory.mktemp("redis"), *options).start())
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def safe(start: Start) -> Server:
    return start()


def doctor(url: str, broker: str | None = None) -> tuple[int, str]:
    return said_of(make_app(url, broker or url), "worker")


def test_a_server_as_it_should_be(safe: Server) -> None:
    status, said = doctor(safe.url)
    assert status == 0
    assert said.startswith("unwise no-worker "), said  # none is started here
    assert said.endswith(" 0 unsafe, 1 allowed or unwise"), said


@pytest.mark.parametrize("is_broker", [False, True], ids=["ledger", "broker"])
@pytest.mark.parametrize(
    ("option", "name", "what"),
    [
        ("--maxmemory 1", "full", "is full: it uses "),
        ("--maxmemory-policy allkeys-lru", "eviction", "forgets keys when its memory is full (allkeys-lru)"),
        ("--appendonly no", "no-aof", "keeps no append-only file"),
    ],
)
def test_a_wrong_setting(start: Start, safe: Server, is_broker: bool, option: str, name: str, what: str) -> None:
    wrong = start(*option.split()).url
    status, said = doctor(safe.url, wrong) if is_broker else doctor(wrong, safe.url)
    assert status == 1
    assert f"UNSAFE {name} {'the broker' if is_broker else 'the ledger'}'s Redis ({wrong}) {what}" in said
    assert f" remedy{',' if name != 'full' else ':'} " in said


@pytest.mark.parametrize("part", ["+evalsha", "+lpush", "~{tcb}*", "~celery-task*", "&{tcb}events:*", "&/0.celeryev/*"])
def test_what_a_user_may_not_do(safe: Server, part: str) -> None:
    """A command, a key, a channel."""
    app = make_app(safe.url, safe.url)
    rule = needs_of(app, "worker").rule.split()
    app.close()
    assert part in rule
    with safe.client() as client:
        allowed = [*(set(rule) - {part}), "+info", "+config|get"]
        client.execute_command("ACL", "SETUSER", "short", "reset", "on", ">secret", *allowed)
    status, said = doctor(safe.url.replace("//", "//short:secret@"))
    assert status == 1
    assert "does not let the user short do what tcb worker does" in said
    assert f"ACL SETUSER short {part} " in said


def test_a_certificate_that_is_not_looked_at_or_not_there(safe: Server, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    proxy = TlsProxy(safe.port, tmp_path / "cert.pem", tmp_path / "cert.pem")
    url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs="
    try:
        assert doctor(f"{url}required&ssl_ca_certs={tmp_path}/ca.pem")[0] == 0
        status, said = doctor(f"{url}none")
        assert status == 1
        assert "UNSAFE unverified-tls " in said
        assert "may be anybody: its certificate is not looked at" in said
        status, said = doctor(f"{url}required&ssl_ca_certs={tmp_path}/none.pem")
        assert status == 1
        assert "UNSAFE no-certificate " in said
        assert f"there is no file ssl_ca_certs={tmp_path}/none.pem that this user may read" in said
    finally:
        proxy.close()


def test_a_cluster(start: Start) -> None:
    status, said = doctor(start("--cluster-enabled", "yes").url)
    assert status == 1
    assert "is a Redis Cluster, and the settings do not say so" in said
