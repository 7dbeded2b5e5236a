"""The handlers of the guides, before and after, answer the same."""

import asyncio
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tornado.web
from blockbuster import BlockBuster
from celery import Celery
from tornado.httpclient import AsyncHTTPClient

from tornado_celery_bridge import Bridge
from tornado_celery_bridge.handlers import TaskHandlerMixin

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
HANDLER = re.compile(r"^(Before|After):\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(page.stem, found[1], found[2], id=f"{page.stem}-{found[1]}")
    for page in sorted(GUIDES.glob("*.md"))
    for found in HANDLER.finditer(page.read_text())
]


def test_there_are_some() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize(("page", "when", "code"), EXAMPLES)
async def test_a_handler(page: str, when: str, code: str, app: Celery, bridge: Bridge, blockbuster: BlockBuster) -> None:
    if when == "Before":
        blockbuster.deactivate()  # it blocks, which is what the page is about
    names: dict[str, Any] = {
        "tornado": tornado,
        "asyncio": asyncio,
        "functools": functools,
        "TaskHandlerMixin": TaskHandlerMixin,
        "add": app.tasks["sample.add"],
    }
    exec(code, names)
    server = tornado.web.Application([("/", names["AddHandler"])], bridge=bridge).listen(0, "127.0.0.1")
    [socket] = server._sockets.values()
    try:
        response = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{socket.getsockname()[1]}/")
    finally:
        server.stop()
        await server.close_all_connections()
    answer = json.loads(response.body)
    assert answer == {"sum": 5} or await bridge.get(answer["id"], timeout=20) == 5
