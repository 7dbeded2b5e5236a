"""The handlers of the guides, before and after, answer the same."""

import asyncio
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tornado.web
from blockbuster import BlockBuster
from celery import Celery
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from tornado_celery_bridge import Bridge
from tornado_celery_bridge.handlers import TaskHandlerMixin

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "guides"
HANDLER = re.compile(r"^(Before|After):\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (page.stem, *found.groups()) for page in sorted(GUIDES.glob("*.md")) for found in HANDLER.finditer(page.read_text())
]
BEFORE, AFTER = ([(page, code) for page, when, code in EXAMPLES if when == each] for each in ("Before", "After"))


#: The file in docs/tornado.md.
APPLICATION = (GUIDES.parent / "tornado.md").read_text().split("```python\n")[1].partition("\n```")[0]
#: Its other file: an app that has no broker that could be reached.
JOBS = """
from celery import Celery

from tornado_celery_bridge.progress import progress

app = Celery("jobs", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0")


@app.task
def count(upto, pause):
    for number in range(1, upto + 1):
        progress(number, upto)
    return upto
"""


def test_there_are_some() -> None:
    assert (len(BEFORE), len(AFTER)) == (2, 4)


@pytest.mark.parametrize(("page", "code"), BEFORE, ids=[page for page, _ in BEFORE])
async def test_before(page: str, code: str, app: Celery, blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()  # it blocks, which is what the page is about
    answer = await answer_of(handler(app, code))
    assert answer == {"sum": 5} or await asyncio.to_thread(app.AsyncResult(answer["id"]).get, timeout=20) == 5


@pytest.mark.parametrize(("page", "code"), AFTER, ids=[page for page, _ in AFTER])
async def test_after(page: str, code: str, app: Celery, bridge: Bridge) -> None:
    answer = await answer_of(handler(app, code), bridge=bridge)
    assert answer == {"sum": 5} or await bridge.get(answer["id"], timeout=20) == 5


def handler(app: Celery, code: str) -> Any:
    names: dict[str, Any] = {
        "tornado": tornado,
        "asyncio": asyncio,
        "functools": functools,
        "TaskHandlerMixin": TaskHandlerMixin,
        "add": app.tasks["sample.add"],
    }
    exec(code, names)
    return names["AddHandler"]


async def test_an_application_with_login_websocket_and_coroutines(app: Celery, bridge: Bridge) -> None:
    """The file in docs/tornado.md, as it is."""
    jobs = ModuleType("jobs")
    vars(jobs).update(app=app, count=app.tasks["sample.count"])
    names: dict[str, Any] = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "jobs", jobs)
        exec(APPLICATION, names)
    server = names["make_application"](bridge).listen(0, "127.0.0.1")
    [socket] = server._sockets.values()
    place = f"127.0.0.1:{socket.getsockname()[1]}"
    client = AsyncHTTPClient()
    try:
        login = await client.fetch(f"http://{place}/login", method="POST", body="user=me")
        cookie = {"Cookie": login.headers["Set-Cookie"].partition(";")[0]}
        assert json.loads((await client.fetch(f"http://{place}/count", headers=cookie)).body) == {"count": 3}
        refused = await client.fetch(f"http://{place}/count", raise_error=False, follow_redirects=False)
        assert (refused.code, refused.headers["Location"]) == (302, "/login?next=%2Fcount")
        assert json.loads((await client.fetch(f"http://{place}/legacy")).body) == {"count": 2}
        socket_of_ours = await websocket_connect(f"ws://{place}/progress")
        await socket_of_ours.write_message("3")
        told = []
        while (message := await socket_of_ours.read_message()) is not None:
            told.append(json.loads(message)["current"])
        socket_of_ours.close()
        assert told == sorted(told)
        assert told[-1] <= 3
    finally:
        server.stop()
        await server.close_all_connections()


async def answer_of(handler: Any, **settings: Any) -> dict[str, Any]:
    server = tornado.web.Application([("/", handler)], **settings).listen(0, "127.0.0.1")
    [socket] = server._sockets.values()
    try:
        response = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{socket.getsockname()[1]}/")
    finally:
        server.stop()
        await server.close_all_connections()
    return dict(json.loads(response.body))


def test_handlers_are_tested_over_http_as_the_library_page_says(tmp_path: Path) -> None:
    """Both files are run by pytest as they are, in a folder with the application of docs/tornado.md and its `jobs`."""
    section = (GUIDES.parent / "library.md").read_text().partition("### A handler over HTTP\n")[2]
    files = re.findall(r"^```python\n(.*?)^```$", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    for name, code in zip(("pytest", "tornado"), files, strict=True):
        (tmp_path / f"test_with_{name}.py").write_text(code)
    (tmp_path / "server.py").write_text(APPLICATION)
    (tmp_path / "jobs.py").write_text(JOBS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "2 passed" in done.stdout) == (0, True), done.stdout + done.stderr
