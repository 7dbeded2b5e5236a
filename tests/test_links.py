"""Links out of the documentation lead somewhere: asked each night, where the network can be had."""

import functools
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.needs import impossible

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
#: What a page that is gone answers. Another refusal is a server's way with programs.
GONE = (404, 410)


@functools.cache
def links() -> dict[str, list[str]]:
    """Return all links to other places, with the pages that have them: what the code blocks show is none."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for url in re.findall(r"https?://[^\s()<>\"|]+[^\s()<>\"|.,;:]", text):
            found.setdefault(url, []).append(str(page.relative_to(ROOT)))
    return found


def status_of(url: str) -> int | None:
    """Return what a link is answered with; None if nobody answers."""
    request = urllib.request.Request(url, headers={"User-Agent": "tornado-celery-bridge's test of links"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return None


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/here" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_a_dead_link_is_noticed(server: str) -> None:
    assert status_of(f"{server}/here") == 200
    assert status_of(f"{server}/gone") in GONE
    assert status_of("http://127.0.0.1:1/") is None


def test_links_are_found() -> None:
    assert links()["https://github.com/sibson/redbeat"] == ["docs/schedules.md"]
    assert not [url for url in links() if "127.0.0.1" in url or "{" in url]


@pytest.mark.nightly
def test_links_lead_somewhere() -> None:
    with ThreadPoolExecutor(8) as threads:
        found = dict(zip(links(), threads.map(status_of, links()), strict=True))
    if not any(found.values()):
        impossible("the network can't be reached from here")
    assert {url: (status, links()[url]) for url, status in found.items() if status in GONE} == {}
