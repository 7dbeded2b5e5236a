"""Look at the site in a real browser: its search finds, its diagrams are drawn, nothing is fetched from elsewhere."""

import functools
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Page, Request, sync_playwright

SITE = Path(__file__).parents[2] / ".test/site"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def look(page: Page, url: str) -> None:
    fetched: list[str] = []
    wrong: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            fetched.append(request.url)

    page.on("request", note)
    page.on("pageerror", lambda error: wrong.append(str(error)))

    page.goto(f"{url}/search.html?q=lease")
    page.wait_for_selector("#search-results li a")

    page.goto(f"{url}/states.html")
    page.wait_for_function("document.querySelectorAll('.mermaid svg').length >= 2")

    page.goto(f"{url}/reference/bridge.html")
    page.wait_for_selector("[id='tornado_celery_bridge.Bridge.dispatch']")
    assert not fetched, fetched
    assert not wrong, wrong


def main() -> int:
    chromium = shutil.which("chromium")
    if chromium is None:
        return 0  # tests/needs.py has said so
    handler = functools.partial(Quiet, directory=str(SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser:
            look(browser.new_page(), f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
