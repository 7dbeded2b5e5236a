"""deploy/nginx.conf, in a real nginx before the real service: TLS, the client's address, streams and WebSockets."""

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trustme
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.needs import missing
from tests.servers import free_port, wait_for
from tests.service.keys import made, write
from tests.service.processes import Web, serving
from tests.service.site import ROOT
from tornado_celery_bridge.up.brokers.apt import ensure


@dataclass
class Site:
    """nginx, and the service behind it."""

    port: int
    context: ssl.SSLContext
    web: Web
    key: str
    errors: Path

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: str | bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=30)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        try:
            return response, response.read()
        finally:
            connection.close()

    def log_in(self) -> str:
        form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": self.origin}
        response, _ = self.ask("POST", "/login", urlencode({"key": self.key}), X_Real_IP="192.0.2.1", **form)
        assert response.status == 303
        return response.headers["Set-Cookie"]


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


@pytest.fixture(scope="module")
def site(web_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not _nginx() and not ensure("nginx-light"):
        missing("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    key, entry = made()
    keys = write(folder / "keys.json", entry)
    settings = {"SAMPLE_URL": web_url, "REDIS_URL": web_url, "CELERY_APP": "tests.service.sample"}
    more = {"API_KEYS_FILE": str(keys), "BEHIND_PROXY": "1", "DATA_DIR": str(folder / "data")}
    with serving(folder / "log", **settings, **more) as web, before(web, key, folder, free_port()) as found:
        yield found


@contextmanager
def before(web: Web, key: str, folder: Path, away: int) -> Iterator[Site]:
    """nginx with deploy/nginx.conf, before two hosts: the one that serves, and one where *away* is the port."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "jobs.pem")
    context, port = ssl.create_default_context(), free_port()
    authority.configure_trust(context)
    block = (ROOT / "deploy" / "nginx.conf").read_text()
    for told, here in {
        "127.0.0.1:8888": f"127.0.0.1:{web.port}",
        "# server 10.0.0.6:8888": f"server 127.0.0.1:{away}",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/jobs.pem": str(folder / "jobs.pem"),
        "/etc/ssl/jobs.key": str(folder / "jobs.pem"),
    }.items():
        assert told in block
        block = block.replace(told, here)
    places = " ".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error; events {{}}\n"
        f"http {{ access_log off; {places}\n{block} }}\n"
    )
    words = [str(_nginx()), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "error"]
    process = subprocess.Popen(words)
    try:
        found = Site(port, context, web, key, folder / "error")
        wait_for(lambda: process.poll() is not None or _answers(found))
        yield found
    finally:
        process.terminate()
        process.wait(10)


def _answers(site: Site) -> bool:
    try:
        return site.ask("GET", "/readyz")[0].status == 200
    except OSError:
        return False


def test_a_session_with_tls(site: Site) -> None:
    cookie = site.log_in()
    assert cookie.startswith("__Host-session=")
    assert "Secure" in cookie
    given = {"Cookie": cookie.partition(";")[0]}
    assert json.loads(site.ask("GET", "/v1/me", **given)[1])["login"] == "session"
    response, _ = site.ask("POST", "/v1/jobs/x/cancel", b"{}", Origin=site.origin, **given)
    assert response.status == 404
    response, _ = site.ask("POST", "/v1/jobs/x/cancel", b"{}", Origin="https://evil.example", **given)
    assert response.status == 403
    log = site.web.log.read_text()
    assert "path=/login status=303" in log
    assert "192.0.2.1" not in log  # a client's own word


def test_a_body_that_is_too_large_is_refused_by_the_service(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.key}", "Content_Type": "application/json"}
    response, body = site.ask("POST", "/v1/tasks/s.echo/jobs", b" " * 3_000_000, **headers)
    assert (response.status, json.loads(body)["code"]) == (413, "body-too-large")


def test_events_come_as_they_happen(site: Site) -> None:
    cookie = site.log_in().partition(";")[0]
    given: dict[str, Any] = {"Cookie": cookie, "Origin": site.origin, "Content-Type": "application/json"}
    body = json.dumps({"input": [1], "options": {"queue": "quiet"}})  # which nobody works at
    job = json.loads(site.ask("POST", "/v1/tasks/s.add/jobs", body, **given)[1])
    connection = http.client.HTTPSConnection("127.0.0.1", site.port, context=site.context, timeout=30)
    connection.request("GET", job["links"]["events"], headers=given)
    with connection.getresponse() as response:
        assert any(response.readline() == b"event: state\n" for _ in range(5))
    connection.close()


async def test_websockets_go_through(site: Site) -> None:
    cookie = (await asyncio.to_thread(site.log_in)).partition(";")[0]
    given = {"Cookie": cookie, "Origin": site.origin, "Content_Type": "application/json"}
    body = json.dumps({"input": [1]})
    _, answer = await asyncio.to_thread(site.ask, "POST", "/v1/tasks/s.add/jobs", body, **given)
    url = f"wss://127.0.0.1:{site.port}{json.loads(answer)['links']['self']}/ws"
    headers = {"Cookie": cookie, "Origin": site.origin}
    socket = await websocket_connect(HTTPRequest(url, headers=headers, ssl_options=site.context))
    assert json.loads(str(await socket.read_message()))["event"] == "state"
    socket.close()
    while await socket.read_message() is not None:  # until it is closed
        pass


def test_a_host_that_is_away_takes_no_request(site: Site) -> None:
    """Every second request is its turn; each is answered by the other, also one with a body."""
    given = {"Authorization": f"Bearer {site.key}", "Content_Type": "application/json"}
    before = site.errors.read_text().count("Connection refused")
    body = json.dumps({"input": [1]})
    for _ in range(4):
        assert site.ask("GET", "/v1/me", **given)[0].status == 200
        assert site.ask("POST", "/v1/tasks/s.add/jobs", body, **given)[0].status in (201, 202)
    assert site.errors.read_text().count("Connection refused") >= before + 2


def test_a_host_that_is_switched_off_holds_no_request_up(site: Site, tmp_path: Path) -> None:
    """It refuses nothing: the kernel drops what connects to a socket whose line is full, as if no host were there."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, ExitStack() as stack:
        for _ in range(3):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(silent.getsockname())
        with before(site.web, site.key, tmp_path, silent.getsockname()[1]) as proxied:
            for _ in range(2):
                given = {"Authorization": f"Bearer {site.key}"}
                assert proxied.ask("GET", "/v1/me", **given)[0].status == 200
            assert "upstream timed out" in proxied.errors.read_text()
