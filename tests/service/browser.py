"""A real browser, Debian's Chromium, and what a page complains about in it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, Page, Request, async_playwright, expect

from tests.needs import missing
from tornado_celery_bridge.up.brokers.apt import ensure

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
#: Milliseconds: what comes on a quiet machine in one second comes on a busy one in twenty.
PATIENCE = 90_000

expect.set_options(timeout=PATIENCE / 2)

TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", e => console.error("CSP", e.violatedDirective, e.blockedURI));
"""


def find_chromium() -> str:
    """Return the path of Chromium, which is installed if need be; without it, tests are skipped, but never in CI."""
    if shutil.which("chromium") is None:
        ensure("chromium")
    path = shutil.which("chromium")
    if path is None:
        missing("chromium")
    return path


@dataclass
class Tab:
    """A page in the browser, what it asked for, and what went wrong in it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def note_failure(self, request: Request) -> None:
        """Note a request that failed, unless the page itself gave it up."""
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"{request.url}: {request.failure}")


@asynccontextmanager
async def open_browser(chromium: str) -> AsyncIterator[Browser]:
    """Start a browser, until the block ends."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        try:
            yield browser
        finally:
            await browser.close()


async def new_tab(browser: Browser, **options: Any) -> Tab:
    """Open an empty page of a reader who was never here; options as ``Browser.new_context``."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 1400}} | options)
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    tab = Tab(page)
    await page.add_init_script(TELL_VIOLATIONS)
    page.on("request", lambda request: tab.requests.append(request.url))
    page.on("requestfailed", tab.note_failure)
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    page.on("console", lambda message: tab.complaints.append(message.text) if message.type == "error" else None)
    return tab


@asynccontextmanager
async def open_tab(chromium: str) -> AsyncIterator[Tab]:
    """Start a browser with one empty page, until the block ends."""
    async with open_browser(chromium) as browser:
        yield await new_tab(browser)
