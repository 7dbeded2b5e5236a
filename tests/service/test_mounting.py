"""The service in somebody else's Tornado application: at the root and under a prefix, which all that it writes has."""

import asyncio
import json
import re
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from celery import Celery
from playwright.async_api import expect
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.web import Application, RequestHandler
from tornado.websocket import websocket_connect

from tests.servers import free_port
from tests.service.browser import Tab
from tests.service.keys import made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, problem, until
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.service import Service, Settings

PREFIXES = ["", "/jobs", "/a/b"]


class Mine(RequestHandler):
    def get(self) -> None:
        self.write("mine")


class NotMine(RequestHandler):
    def prepare(self) -> None:
        self.set_status(404)
        self.finish("the application's own 404")


class Upstream(RequestHandler):
    """Stands for Flower."""

    def get(self) -> None:
        self.write(f"flower at {self.request.path}")


@dataclass
class Mounted:
    """A foreign application with the service in it."""

    prefix: str
    port: int
    service: Service
    client: AsyncHTTPClient
    logged: list[str]
    key: str

    async def fetch(self, path: str, method: str = "GET", *, key: bool = True, **options: Any) -> HTTPResponse:
        headers = {**options.pop("headers", {})}
        if key and self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = f"http://127.0.0.1:{self.port}{path}"
        return await self.client.fetch(
            url,
            method=method,
            raise_error=False,
            follow_redirects=False,
            headers=headers,
            request_timeout=30,
            **options,
        )

    async def submit(self, task: str, given: Any, **headers: str) -> HTTPResponse:
        path = f"{self.prefix}/v1/tasks/{task}/jobs"
        return await self.fetch(path, "POST", body=json.dumps({"input": given}), headers=headers)


@asynccontextmanager
async def mounted(app: Celery, prefix: str, settings: Settings, key: str = "") -> AsyncIterator[Mounted]:
    logged: list[str] = []
    async with Bridge(app) as bridge, Service(bridge, settings) as service:
        application = Application(
            [("/", Mine), ("/mine", Mine), *service.routes(prefix=prefix)],
            default_handler_class=NotMine,
            cookie_secret="the application's own",
            xsrf_cookies=True,
            log_function=lambda handler: logged.append(handler.request.path),
        )
        sockets = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(application)
        server.add_sockets(sockets)
        client = SimpleAsyncHTTPClient(force_instance=True)
        try:
            yield Mounted(prefix, sockets[0].getsockname()[1], service, client, logged, key)
        finally:
            client.close()
            server.stop()
            await server.close_all_connections()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"DATA_DIR": str(tmp_path)})


@pytest.fixture
def keyed(settings: Settings, tmp_path: Path) -> tuple[Settings, str]:
    key, entry = made(owner="root", scopes=["admin"])
    return replace(settings, api_keys_file=write(tmp_path / "keys.json", entry)), key


@pytest.fixture(params=PREFIXES)
async def open_to_all(request: pytest.FixtureRequest, web_url: str, settings: Settings) -> AsyncIterator[Mounted]:
    app = make_celery(web_url)
    async with mounted(app, request.param, settings) as made:
        yield made
    app.close()


@pytest.fixture(params=PREFIXES)
async def locked(request: pytest.FixtureRequest, web_url: str, keyed: tuple[Settings, str]) -> AsyncIterator[Mounted]:
    app = make_celery(web_url)
    async with mounted(app, request.param, *keyed) as made:
        yield made
    app.close()


async def test_a_job_and_all_links(open_to_all: Mounted) -> None:
    prefix = open_to_all.prefix
    response = await open_to_all.submit("s.add", [1, 2], **{"Prefer": "wait=10"})
    job = json.loads(response.body)
    assert (response.code, job["result"]) == (200, 3)
    assert response.headers["Location"] == job["links"]["self"] == f"{prefix}/v1/jobs/{job['id']}"
    assert json.loads((await open_to_all.fetch(job["links"]["self"])).body) == job
    again = await open_to_all.fetch(f"{job['links']['self']}/retry", "POST", body="{}")
    assert json.loads(again.body)["links"]["retry_of"] == job["links"]["self"]
    stream = await open_to_all.fetch(job["links"]["events"])
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert f'"self":"{prefix}/v1/jobs/{job["id"]}"' in stream.body.decode()
    document = json.loads((await open_to_all.fetch(f"{prefix}/openapi.json")).body)
    assert document["servers"][0]["url"] == "."
    [task, *_] = json.loads((await open_to_all.fetch(f"{prefix}/v1/tasks")).body)["tasks"]
    assert task["links"]["self"] == f"{prefix}/v1/tasks/{task['name']}"
    gone = problem(await open_to_all.fetch(f"{prefix}/v1/jobs/no"), 404, "unknown-job")
    assert gone["instance"] == f"{prefix}/v1/jobs/no"


async def test_a_websocket(open_to_all: Mounted) -> None:
    job = json.loads((await open_to_all.submit("s.add", [1, 2])).body)
    socket = await websocket_connect(f"ws://127.0.0.1:{open_to_all.port}{open_to_all.prefix}/v1/jobs/{job['id']}/ws")
    told = []
    while (message := await asyncio.wait_for(socket.read_message(), 20)) is not None:
        told.append(json.loads(message))
    socket.close()
    assert told[-1]["event"] == "end"
    assert told[-1]["data"]["links"]["self"] == job["links"]["self"]
    await until(lambda: open_to_all.service.lifecycle._requests == 0)


async def test_the_application_keeps_what_is_its_own(open_to_all: Mounted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tornado_celery_bridge.access")
    prefix = open_to_all.prefix
    assert (await open_to_all.fetch("/mine")).body == b"mine"
    assert (await open_to_all.fetch("/")).body == b"mine"
    assert (await open_to_all.fetch("/nothing")).body == b"the application's own 404"
    assert open_to_all.logged == ["/mine", "/", "/nothing"]
    assert (await open_to_all.fetch(f"{prefix}/healthz")).code == 200
    problem(await open_to_all.fetch(f"{prefix}/healthz", "DELETE"), 405, "method-not-allowed")
    assert len(open_to_all.logged) == 3
    assert [record.name for record in caplog.records].count("tornado_celery_bridge.access") == 2
    if prefix:
        problem(await open_to_all.fetch(f"{prefix}/nothing"), 404, "not-found")
        bare = await open_to_all.fetch(prefix)
        assert (bare.code, bare.headers["Location"]) == (303, prefix.rpartition("/")[2] + "/")
        assert b"<html" in (await open_to_all.fetch(f"{prefix}/")).body


@pytest.mark.parametrize(
    ("host", "is_let_in"),
    [
        *(("localhost", True), ("localhost:1", True), ("127.0.0.1:1", True), ("[::1]:1", True), ("127.8.0.1", True)),
        *(("example.org", False), ("10.0.0.1", False), ("localhost.example.org", False), ("127.0.0.1.nip.io", False)),
    ],
)
async def test_without_keys_this_machine_alone_is_answered(
    web_url: str, settings: Settings, host: str, is_let_in: bool
) -> None:
    app = make_celery(web_url)
    async with mounted(app, "/jobs", settings) as site:
        for path in ("/jobs/v1/tasks", "/jobs/", "/jobs/nothing"):
            response = await site.fetch(path, headers={"Host": host})
            if is_let_in:
                assert response.code in (200, 404)
            else:
                assert "API_KEYS_FILE" in problem(response, 403, "forbidden-host")["detail"]
        assert (await site.fetch("/mine", headers={"Host": host})).code == 200
    app.close()


async def test_a_login_and_flower(locked: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = locked.prefix
    problem(await locked.fetch(f"{prefix}/v1/tasks", key=False), 401, "unauthorized")
    assert (await locked.fetch(f"{prefix}/v1/tasks", headers={"Host": "example.org"})).code == 200
    html = {"Accept": "text/html"}
    led = await locked.fetch(f"{prefix}/flower/tasks?a=b", key=False, headers=html)
    assert (led.code, led.headers["Location"]) == (303, "../login?next=flower%2Ftasks%3Fa%3Db")
    form = urlencode({"key": locked.key, "next": "flower/tasks"})
    given = {"Content-Type": "application/x-www-form-urlencoded"}
    logged_in = await locked.fetch(f"{prefix}/login", "POST", key=False, body=form, headers=given)
    assert (logged_in.code, logged_in.headers["Location"]) == (303, "./flower/tasks")
    cookie, *attributes = logged_in.headers["Set-Cookie"].split("; ")
    assert f"Path={prefix}/" in attributes
    secure = await locked.fetch(
        f"{prefix}/login", "POST", key=False, body=form, headers={**given, "Origin": f"https://127.0.0.1:{locked.port}"}
    )
    name = secure.headers["Set-Cookie"].partition("=")[0]
    assert name == ("__Secure-session" if prefix else "__Host-session")
    with_cookie = {"Cookie": cookie}
    assert (await locked.fetch(f"{prefix}/v1/me", key=False, headers=with_cookie)).code == 200
    upstream = Application([(f"{prefix}/flower/.*", Upstream)]).listen(0, "127.0.0.1")
    port = next(iter(upstream._sockets.values())).getsockname()[1]
    assert locked.service.flower is not None
    monkeypatch.setattr(locked.service.flower, "_url", f"http://127.0.0.1:{port}{prefix}/flower")
    shown = await locked.fetch(f"{prefix}/flower/tasks", key=False, headers=with_cookie)
    assert shown.body.decode() == f"flower at {prefix}/flower/tasks"
    lead = await locked.fetch(f"{prefix}/flower", key=False, headers=with_cookie)
    assert (lead.code, lead.headers["Location"]) == (303, "flower/")
    ended = {**with_cookie, "Origin": f"http://127.0.0.1:{locked.port}"}
    out = await locked.fetch(f"{prefix}/logout", "POST", key=False, body="", headers=ended)
    assert (out.code, out.headers["Location"]) == (303, "login")
    assert f"Path={prefix}/" in out.headers["Set-Cookie"]
    await locked.service.audit.close()
    entries = json.loads((await locked.fetch(f"{prefix}/v1/audit")).body)["entries"]
    assert entries[0]["path"] == f"{prefix}/logout"
    upstream.stop()


async def test_in_a_browser(web_url: str, keyed: tuple[Settings, str], tab: Tab) -> None:
    app = make_celery(web_url)
    async with mounted(app, "/jobs", *keyed) as site:
        base, page = f"http://127.0.0.1:{site.port}", tab.page
        job = json.loads((await site.submit("s.add", [1, 2], **{"Prefer": "wait=10"})).body)
        await page.goto(f"{base}/jobs/login?next=")
        await page.get_by_label("API key").fill(site.key)
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_url(f"{base}/jobs/")
        await page.goto(f"{base}/jobs/#/jobs/{job['id']}")
        await expect(page.locator("h1")).to_contain_text("Succeeded")
        await page.goto(f"{base}/jobs/docs")
        await page.wait_for_selector("#operations-submit-submit_s_add")
        assert tab.complaints == []
        assert all(url.startswith(f"{base}/jobs/") for url in tab.requests), tab.requests
    app.close()


def test_a_prefix_that_is_none() -> None:
    service = Service(None)  # type: ignore[arg-type]
    for prefix in ("jobs", "/jobs/", "/", "/a//b", "/(a)"):
        with pytest.raises(ValueError, match="as in /jobs"):
            service.routes(prefix=prefix)


async def test_that_no_task_is_served_is_said_once(
    web_url: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_celery(web_url)
    tasks: dict[str, Any] = await asyncio.to_thread(lambda: dict(app.tasks))
    for task in tasks.values():
        task.exposed = False
    async with mounted(app, "", settings):
        said = [message for message in caplog.messages if "no task is served over HTTP" in message]
    app.close()
    [line] = said
    assert line.endswith("write @app.task(exposed=True) above it")


async def test_the_lines_of_the_documentation(web_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = await asyncio.to_thread((ROOT / "docs" / "mounting.md").read_text, "utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(textwrap.dedent(blocks[0]).splitlines()) == 5
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    app, port, servers = make_celery(web_url), free_port(), []

    class Recorded(Application):
        def listen(self, *args: Any, **options: Any) -> HTTPServer:
            servers.append(super().listen(*args, **options))
            return servers[-1]

    given: dict[str, Any] = {"celery_app": app, "my_routes": [("/mine", Mine)], "asyncio": asyncio}
    given |= {"Bridge": Bridge, "Service": Service, "Application": Recorded}
    exec(blocks[0].replace("8888", str(port)), given)
    running = asyncio.ensure_future(given["main"]())
    client = SimpleAsyncHTTPClient(force_instance=True)

    async def answers() -> bool:
        try:
            return (await client.fetch(f"http://127.0.0.1:{port}/jobs/readyz")).code == 200
        except OSError:
            return False

    try:
        async with asyncio.timeout(20):
            while not await answers():
                await asyncio.sleep(0.05)
        assert (await client.fetch(f"http://127.0.0.1:{port}/mine")).body == b"mine"
    finally:
        client.close()
        for server in servers:
            server.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for server in servers:
            await server.close_all_connections()
    app.close()
