"""No line of a log has a secret, and nobody writes a line, or a field of one, that looks like ours."""

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers import Database, wait_for
from tests.service.keys import made, write
from tests.service.processes import Web, serving
from tests.service.sample import make_app
from tests.service.site import ROOT, environment
from tornado_celery_bridge.base import logs
from tornado_celery_bridge.base.logs import Lines, hidden, hide, quoted, safe

KEY, ENTRY = made(scopes=["submit", "read"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"header: 'Authorization: Bearer {KEY}\\r'", f"header: 'Authorization: Bearer tcb_{ENTRY['id']}_…\\r'"),
        (f"x{KEY}", None),
        (f"authorization: bearer {KEY[:30]}", None),
        ("Authorization: Basic YWRtaW46c2VjcmV0", "Authorization: Basic …"),
        ("Authorization: Bearer another-systems-token", "Authorization: Bearer …"),
        ("redis://user:pass%40word@host:6379/0 is away", "redis://user:…@host:6379/0 is away"),
        ("amqp://:word@host//", "amqp://:…@host//"),
        ('Cookie: __Host-session="2|1:0|10:1|7:session|44:abc|def"', 'Cookie: __Host-session="…"'),
        ("whsec_bWFzdGVyLXNlY3JldA== signs", "whsec_… signs"),
        ("http://127.0.0.1:8888/a@b and a bearer of news", None),
    ],
    ids=[str(number) for number in range(10)],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str | None) -> None:
    found = hidden(text)
    assert shown is None or found == shown
    for secret in (KEY.split("_", 2)[2], "YWRtaW46", "another-systems", "pass%40word", "bWFzdGVy", "abc|def"):
        assert secret not in found


def test_a_secret_is_hidden_by_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_known", set())
    hide("correct horse", None, "short")
    assert safe("AUTH correct horse failed in short") == "AUTH … failed in short"


def test_a_line_is_one_line() -> None:
    text = "a\nb\r\x1b[2Jc\x85d\u2028e\x00"
    assert safe(text) == "a\\nb\\r\\x1b[2Jc\\x85d\\u2028e\\x00"
    for value in ("a b", 'a"b', "a=b", "", "a\nb", "a\\b"):
        assert json.loads(quoted(value)) == value
    assert quoted("/v1/jobs/x%20y") == "/v1/jobs/x%20y"


def test_celerys_lines_are_safe_and_have_their_traceback() -> None:
    try:
        raise ValueError(f"two\n[2026-01-01 00:00:00,000: INFO/MainProcess] Task x succeeded {KEY}")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 1, "got %s", ("a\n[2026] forged",), sys.exc_info())
    lines = Lines(logging.Formatter("[%(levelname)s] %(message)s")).format(record).split("\n")
    assert lines[0] == "[ERROR] got a\\n[2026] forged"
    assert len(lines) > 3
    assert all(line.startswith("  | ") for line in lines[1:])
    assert KEY not in "\n".join(lines)
    assert record.args == ("a\n[2026] forged",)  # as others are to see it


@pytest.fixture(params=["text", "json"])
def web(web_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Web]:
    settings = {
        **{"CELERY_APP": "tests.service.sample", "SAMPLE_URL": web_url, "ALLOW_UNSAFE": "no-aof"},
        **{"LOG_FORMAT": request.param, "API_KEYS_FILE": str(write(tmp_path / "keys.json", ENTRY))},
        "DATA_DIR": str(tmp_path),
    }
    with serving(tmp_path / "log", **settings) as process:
        yield process


def test_a_service_of_its_own(web: Web) -> None:
    heads = [
        f"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r \r\n\r\n",
        f"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\x00\r\n\r\n",
        f"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer {KEY}\r\n\r\n",
        f"GET /v1/me HTTP/1.1\r\nHost: localhost\r\nContent-Length: {KEY}\r\n\r\n",
        f"GET /v1/me?token={KEY} HTTP/9.{KEY}\r\nHost: localhost\r\n\r\n",
        f"{KEY}\r\n\r\n",
        f"POST /login HTTP/1.1\r\nHost: localhost\r\nCookie: session={KEY}\r\nContent-Length: x\r\n\r\n",
    ]
    for head in heads:
        with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
            connection.sendall(head.encode("latin1"))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    forged = "x status=200 ms=0.1 ip=10.0.0.1 key=admin"
    web.fetch(f"/v1/jobs/{quote(forged, safe='')}", Authorization=f"Bearer {KEY}")
    web.fetch(f"/v1/jobs/{quote('x' + chr(10) + '2026-01-01 INFO forged', safe='')}", Authorization=f"Bearer {KEY}")
    wait_for(lambda: "forged" in web.log.read_text())
    written = web.log.read_text()
    assert KEY.split("_", 2)[2] not in written
    assert not [line for line in written.splitlines() if line.startswith("2026-01-01")]
    assert " status=200 ms=0.1 " not in written.replace(json.dumps(forged), "").replace(json.dumps(forged)[1:-1], "")


def test_a_workers_results_and_errors_forge_no_line(database: Database, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    forged = "[2026-01-01 00:00:00,000: INFO/MainProcess] forged"
    words = ("-A", "tests.service.sample", "worker", "--pool", "solo", "--queues", "websample", "--loglevel", "INFO")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *words, "--without-gossip", "--without-mingle"],
            env=environment(SAMPLE_URL=database.url, LOG_FORMAT="text"),
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        app = make_app(database.url)
        for name, given in (("s.echo", f"a\n{forged}"), ("s.fail", f"b\n{forged}"), ("s.fail", KEY)):
            app.tasks[name].apply_async((given,), queue="websample")
        wait_for(lambda: log.read_text().count("] Task s.fail") >= 2 and "raised unexpected" in log.read_text(), 30)
        wait_for(lambda: log.read_text().count("raised unexpected") >= 2, 30)
        app.close()
    finally:
        process.terminate()
        process.wait(20)
    written = log.read_text()
    assert not [line for line in written.splitlines() if line.startswith("[2026-01-01")]
    assert KEY.split("_", 2)[2] not in written
    assert "  | ValueError" in written or "  | Traceback" in written
