"""Flower, the real one, behind the service's login: what it shows, to whom, and what comes of one that is not well."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.servers import Database, free_port, wait_for, worker
from tests.service.browser import Tab
from tests.service.keys import Guarded, made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, environment, problem, running
from tornado_celery_bridge.service.access.keys import Keyring
from tornado_celery_bridge.service.pages import flower
from tornado_celery_bridge.service.pages.flower import Flower

KEYS = {
    "admin": ["admin"],
    "operator": ["submit", "read", "cancel", "schedule", "monitor"],
    "viewer": ["read", "monitor"],
}


@dataclass
class RealFlower:
    """``tcb flower`` as a process of its own."""

    url: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {"FLOWER_PORT": str(self.port), "DATA_DIR": str(self.folder), "CELERY_APP": "tests.service.sample"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tornado_celery_bridge", "flower"],
                cwd=ROOT,
                env=environment(SAMPLE_URL=self.url, REDIS_URL=self.url, **settings),
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self.process and self.process.poll() is None and self._listens(), 60)

    def _listens(self) -> bool:
        return "Visit me at" in (self.folder / "log").read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it as `make up` does."""
        assert self.process
        for number in (signal.SIGCONT, signal.SIGTERM):
            self.process.send_signal(number)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def flower_url(databases: Iterator[Database], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database and a worker that sends events, as our own settings have it."""
    url = next(databases).url
    log = tmp_path_factory.mktemp("flower-worker") / "log"
    options = ("--concurrency", "1", "--queues", "websample", "--without-gossip", "--without-mingle", "--task-events")
    with worker("tests.service.sample", {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}, log, *options):
        yield url


@contextmanager
def flower_running(url: str, folder: Path) -> Iterator[RealFlower]:
    real = RealFlower(url, free_port(), folder)
    real.start()
    try:
        yield real
    finally:
        real.stop()


@pytest.fixture(scope="module")
def real(flower_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFlower]:
    with flower_running(flower_url, tmp_path_factory.mktemp("flower")) as made:
        yield made


@asynccontextmanager
async def behind(url: str, flower_at: str, folder: Path, keys_at: Path) -> AsyncIterator[Guarded]:
    """A service with keys, and Flower behind it."""
    all_made = {name: made(owner=name, scopes=scopes) for name, scopes in KEYS.items()}
    path = await asyncio.to_thread(write, keys_at / "keys.json", *(entry for _, entry in all_made.values()))
    keyring = await asyncio.to_thread(Keyring, path)
    app = make_celery(url)
    upstream = Flower(flower_at, folder / "flower-password")
    async with running(app, keys=keyring, flower=upstream) as service:
        yield Guarded(service, {name: key for name, (key, _) in all_made.items()}, keyring, app)
    upstream.close()
    app.close()


@pytest.fixture
async def site(real: RealFlower, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with behind(real.url, f"http://127.0.0.1:{real.port}/flower", real.folder, tmp_path) as guarded:
        yield guarded


async def told(site: Guarded, job_id: str) -> dict[str, str]:
    """Return what Flower says of a job, once it has heard of its end."""
    async with asyncio.timeout(30):
        while True:
            response = await site.fetch("admin", f"/flower/api/task/info/{job_id}")
            if response.code == 200 and (info := json.loads(response.body))["state"] == "SUCCESS":
                return dict(info)
            assert response.code in (200, 404), response.body
            await asyncio.sleep(0.1)


async def test_a_job_is_found_there_with_its_worker_and_result(site: Guarded) -> None:
    response = await site.submit("operator", "s.add", [2, 40], Prefer="wait=20")
    job = json.loads(response.body)
    info = await told(site, job["id"])
    assert (info["name"], info["result"]) == ("s.add", "42")
    assert "2" in info["args"] + info["kwargs"]
    assert "@" in info["worker"]
    page = await site.fetch("admin", f"/flower/task/{job['id']}")
    assert page.code == 200
    assert page.headers["Content-Security-Policy"] == flower.POLICY
    assert job["id"].encode() in page.body


async def test_only_admins_get_there(site: Guarded) -> None:
    for path in ("/flower", "/flower/", "/flower/api/workers", "/flower/metrics", "/flower/static/js/flower.js"):
        for name in ("viewer", "operator"):
            problem(await site.fetch(name, path), 403, "forbidden-scope")
        problem(await site.fetch(None, path), 401, "unauthorized")
        page = await site.fetch(None, path, headers={"Accept": "text/html"}, follow_redirects=False)
        up = "../" * (path.count("/") - 1)
        assert (page.code, page.headers["Location"].partition("?")[0]) == (303, f"{up}login")
        assert (await site.fetch("admin", path)).code == 200
    problem(await site.fetch("viewer", "/flower/api/task/async-apply/s.add", "POST"), 403, "forbidden-scope")
    accepted = await site.fetch("admin", "/flower/api/task/async-apply/s.add", "POST", body=b'{"args": [1, 2]}')
    assert accepted.code == 200
    problem(
        await site.fetch(
            "admin", "/flower/api/task/async-apply/s.add", "POST", headers={"Origin": "https://evil.example"}
        ),
        *(403, "forbidden"),
    )


async def test_what_goes_there_and_what_comes_back(real: RealFlower, tmp_path: Path) -> None:
    """A server in Flower's place, which sees what it is sent."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nSet-Cookie: _xsrf=1\r\nServer: x\r\n"
            b"Access-Control-Allow-Origin: *\r\nX-Secret: 1\r\nConnection: close\r\nKeep-Alive: 5\r\n\r\nok"
        )
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.to_thread((tmp_path / "flower-password").write_text, "secret\n")
    async with server, behind(real.url, f"http://127.0.0.1:{port}/a/flower/", tmp_path, tmp_path) as site:
        headers = {"Cookie": "session=abc", "X-Anything": "y", "Accept-Language": "de", "Connection": "X-Anything"}
        response = await site.fetch("admin", "/flower/tasks/%2e%2e/x?a=%2F&b", headers=headers)
        assert (response.code, response.body) == (200, b"ok")
        assert set(response.headers) == {
            *("Content-Type", "Content-Length", "Content-Security-Policy", "X-Content-Type-Options", "Cache-Control"),
            *("X-Request-Id", "Traceparent", "Date"),
        }
    request = seen[0].decode()
    assert request.startswith("GET /a/flower/tasks/%2e%2e/x?a=%2F&b HTTP/1.1\r\n")
    names = {line.partition(":")[0].lower() for line in request.splitlines()[1:] if line}
    assert names == {"host", "connection", "user-agent", "authorization", "accept-language"}
    assert "Authorization: Basic YWRtaW46c2VjcmV0\r\n" in request
    assert site.keys["admin"] not in request


async def test_a_large_answer_is_not_kept(real: RealFlower, tmp_path: Path) -> None:
    """It waits for the reader, who has all of it in the end."""
    size, piece = 64 * 1024**2, b"x" * 1024**2
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, behind(real.url, f"http://127.0.0.1:{port}/flower", tmp_path, tmp_path) as site:
        key = site.keys["admin"]
        reader, writer = await site.service.raw(
            b"GET /flower/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            + f"Authorization: Bearer {key}\r\n\r\n".encode()
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        held = -1
        while held != sent:  # until nothing moves
            held = sent
            await asyncio.sleep(0.5)
        assert held < size // 2
        assert len(await reader.read()) == size
        writer.close()


async def test_a_flower_that_is_not_well(
    flower_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flower, "TIMEOUT", 1.0)
    folder = tmp_path
    own = RealFlower(flower_url, free_port(), folder)
    async with behind(flower_url, f"http://127.0.0.1:{own.port}/flower", folder, tmp_path) as site:
        away = problem(await site.fetch("admin", "/flower/api/tasks?limit=5"), 502, "flower-unavailable")
        asked = f"at http://127.0.0.1:{own.port}/flower/api/tasks: FLOWER_URL says where it is."
        assert away["detail"].startswith("Flower cannot be reached (")
        assert away["detail"].endswith(asked)
        assert away["detail"] in caplog.messages
        await asyncio.to_thread(own.start)
        try:
            monkeypatch.setattr(flower, "TIMEOUT", 30.0)
            assert (await site.fetch("admin", "/flower/")).code == 200
            monkeypatch.setattr(flower, "TIMEOUT", 1.0)
            own.signal(signal.SIGSTOP)
            begun = time.monotonic()
            hanging = [asyncio.ensure_future(site.fetch("admin", "/flower/")) for _ in range(flower.MOST + 20)]
            assert (await site.fetch("admin", "/v1/tasks")).code == 200  # and nobody else waits
            assert not any(each.done() for each in hanging)
            for response in await asyncio.gather(*hanging):
                problem(response, 504, "flower-timeout")
            assert time.monotonic() - begun < 20
            own.signal(signal.SIGCONT)
            monkeypatch.setattr(flower, "TIMEOUT", 30.0)
            assert (await site.fetch("admin", "/flower/")).code == 200
            password = folder / "flower-password"
            await asyncio.to_thread(password.write_text, "another\n")
            problem(await site.fetch("admin", "/flower/"), 502, "flower-unavailable")
        finally:
            await asyncio.to_thread(own.stop)


async def test_its_history_outlives_it(flower_url: str, tmp_path: Path) -> None:
    folder = tmp_path
    own = RealFlower(flower_url, free_port(), folder)
    await asyncio.to_thread(own.start)
    try:
        async with behind(flower_url, f"http://127.0.0.1:{own.port}/flower", folder, tmp_path) as site:
            job = json.loads((await site.submit("admin", "s.add", [1], Prefer="wait=20")).body)
            before = await told(site, job["id"])
            await asyncio.to_thread(own.stop)
            await asyncio.to_thread((folder / "log").unlink)
            await asyncio.to_thread(own.start)
            assert (await told(site, job["id"]))["result"] == before["result"]
    finally:
        await asyncio.to_thread(own.stop)


async def test_its_pages_work_in_a_browser(site: Guarded, tab: Tab) -> None:
    job = json.loads((await site.submit("admin", "s.add", [20, 3], Prefer="wait=20")).body)
    await told(site, job["id"])
    base = f"http://127.0.0.1:{site.service.port}"
    page = tab.page
    await page.goto(f"{base}/flower/task/{job['id']}")
    await page.get_by_label("API key").fill(site.keys["admin"])
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{base}/flower/task/{job['id']}")
    assert "s.add" in await page.inner_text("body")
    for path, shown in (("/flower/", "celery@"), ("/flower/tasks", job["id"]), ("/flower/broker", "websample")):
        await page.goto(f"{base}{path}")
        await page.get_by_text(shown).first.wait_for()
    assert tab.complaints == []
    assert all(url.startswith((f"{base}/flower", f"{base}/login")) for url in tab.requests), tab.requests


async def test_where_there_is_none(site: Guarded) -> None:
    site.service.product.flower = None
    problem(await site.fetch("admin", "/flower/"), 404, "not-found")


async def test_its_own_port_answers_nothing_without_the_password(real: RealFlower) -> None:
    """Nor do its files let anybody in, in a DATA_DIR that others may look into."""
    client = AsyncHTTPClient(force_instance=True)
    password = (await asyncio.to_thread((real.folder / "flower-password").read_text)).strip()
    for path in ("/metrics", "/healthcheck", "/", "/api/workers", "/api/tasks", "/workers"):
        url = f"http://127.0.0.1:{real.port}/flower{path}"
        assert (await client.fetch(url, raise_error=False)).code == 401, path
        wrong = await client.fetch(url, auth_username=flower.USER, auth_password="wrong", raise_error=False)
        assert wrong.code == 401, path
        let_in = await client.fetch(url, auth_username=flower.USER, auth_password=password, raise_error=False)
        assert let_in.code == 200, path
    client.close()


def test_its_files_are_for_their_owner_alone(flower_url: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "flower.dat").touch(mode=0o644)  # of a version that left it open
    with flower_running(flower_url, tmp_path):
        pass
    kept = [path for path in tmp_path.glob("flower*") if path.is_file()]
    assert len(kept) > 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
