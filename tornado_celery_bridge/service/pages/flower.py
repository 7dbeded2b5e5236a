"""
Flower, under ``/flower/``: behind the service's own login and for admins, as its pages can do everything.

Flower gets only listed headers of a request, and neither our cookies nor our keys. The browser gets only listed headers
of its answer. The pages come from our own origin, so the policy lets only Flower's own files run in them: anybody may
choose what a task was called with.
"""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

from tornado_celery_bridge.service.http.endpoint import Answer, Route
from tornado_celery_bridge.service.http.problems import NOT_FOUND, Kind, Problem
from tornado_celery_bridge.service.pages.page import PageEndpoint, PagesSite

FLOWER_UNAVAILABLE = Kind("flower-unavailable", 502, "Flower cannot be reached, or has another password.")
FLOWER_TIMEOUT = Kind("flower-timeout", 504, "Flower does not answer.")

_log = logging.getLogger(__name__)

#: What `make up` calls the user.
USER = "admin"
#: Seconds to connect, and for the whole answer. Flower asks its workers for a second or two before some of its own.
CONNECT_TIMEOUT, TIMEOUT = 5.0, 30.0
#: Requests at a time, and bytes of an answer, which is not kept.
MOST, MOST_BYTES = 50, 1024**3

_REQUEST_HEADERS = (
    *("Accept", "Accept-Language", "Content-Type", "If-Modified-Since", "If-None-Match", "Range", "X-Requested-With"),
)
_RESPONSE_HEADERS = (
    *("Accept-Ranges", "Cache-Control", "Content-Disposition", "Content-Length", "Content-Range", "Content-Type"),
    *("Etag", "Expires", "Last-Modified", "Location", "Vary"),
)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


# The one script that is in a page and in no file; and DataTables writes widths into its markup.
_SCRIPTS = " ".join(_hash(f"\nvar autorefresh = {number};\n") for number in (0, 1))
POLICY = (
    f"default-src 'none'; script-src 'self' {_SCRIPTS}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


class Flower:
    """
    Where Flower is.

    Args:
        url: Its first page, whose path is Flower's ``url_prefix``; with a user and a password if need be.
        password_file: Where ``tcb up`` keeps its password, for a URL without one. It need not be there.
    """

    def __init__(self, url: str, password_file: Path) -> None:
        self._url = url.rstrip("/")
        self._password_file = None if urlsplit(url).username else password_file
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_clients=MOST, max_body_size=MOST_BYTES)

    def close(self) -> None:
        """Abandon the requests under way."""
        self._client.close()

    async def make_request(self, path: str) -> HTTPRequest:
        """Return a request for a path below its first page."""
        password = await asyncio.to_thread(self._password)
        return HTTPRequest(
            self._url + path,
            auth_username=password and USER,
            auth_password=password,
            connect_timeout=CONNECT_TIMEOUT,
            request_timeout=TIMEOUT,
            follow_redirects=False,
            decompress_response=False,
            allow_nonstandard_methods=True,
        )

    def _password(self) -> str | None:
        try:
            return self._password_file.read_text("utf-8").strip() if self._password_file else None
        except FileNotFoundError:
            return None

    async def fetch(self, request: HTTPRequest) -> None:
        """Make a request whose answer goes to its callbacks. 502 if Flower is away, 504 if it does not answer."""
        try:
            await self._client.fetch(request, raise_error=False)
        except HTTPTimeoutError:
            raise _told(FLOWER_TIMEOUT, request, "does not answer") from None
        except (OSError, StreamClosedError) as exc:
            why = exc.real_error if isinstance(exc, StreamClosedError) else exc
            what = f"cannot be reached ({why or 'it closed the connection'})"
            raise _told(FLOWER_UNAVAILABLE, request, what) from None


def _told(kind: Kind, request: HTTPRequest, what: str) -> Problem:
    """Return what an admin is told, which is logged as well: with what was asked, but for user, password and query."""
    parts = urlsplit(request.url)
    asked = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    detail = f"Flower {what} at {asked}: FLOWER_URL says where it is."
    _log.warning("%s", detail)
    return kind(detail)


class FlowerSite(PagesSite, Protocol):
    """What Flower's pages need of the service."""

    #: None: there is no Flower.
    flower: Flower | None


class ShowFlower(PageEndpoint):
    """Flower's pages."""

    service: FlowerSite
    route = Route(("GET", "HEAD", "POST"), "/flower/{path...}", scope="admin")
    problems: ClassVar = (NOT_FOUND, FLOWER_UNAVAILABLE, FLOWER_TIMEOUT)
    is_page = True
    needs_ledger = False

    async def answer(self, path: str) -> None:
        flower = self.service.flower
        if flower is None:
            raise NOT_FOUND("There is no Flower here.")
        self._answer = HTTPHeaders()
        request = await flower.make_request(str(self.request.uri).removeprefix(f"{self.service.prefix}/flower"))
        request.method = str(self.request.method)
        headers = self.request.headers
        request.headers = HTTPHeaders({name: headers[name] for name in _REQUEST_HEADERS if headers.get(name)})
        if request.method == "POST":
            request.body = self.read_body()
        request.header_callback, request.streaming_callback = self._take_header, self._relay
        await self.unless_client_leaves(flower.fetch(request))
        if self.get_status() == 401:
            raise _told(FLOWER_UNAVAILABLE, request, "has another password than the service was told,")
        await self.finish()

    def _take_header(self, line: str) -> None:
        if line.startswith("HTTP/"):
            self.set_status(int(line.split()[1]))
        elif line.strip():
            self._answer.parse_line(line)
        else:
            self.set_header("Content-Security-Policy", POLICY)
            for name in _RESPONSE_HEADERS:
                if name in self._answer:
                    self.set_header(name, self._answer[name])

    def _relay(self, chunk: bytes) -> Awaitable[None] | None:
        """Write a piece of the answer; the next one is read when it is with the client."""
        if self._client_left or self._finished or self.get_status() == 401:
            return None
        self.write(chunk)
        return self._flushed()

    async def _flushed(self) -> None:
        try:
            await self.flush()
        except StreamClosedError:  # and what is left of the answer is dropped
            self._client_left = True


class LeadToFlower(PageEndpoint):
    """The way to Flower's first page."""

    route = Route(("GET",), "/flower", scope="admin")
    answers: ClassVar = {303: Answer("Flower's first page.")}
    is_page = True
    needs_ledger = False

    async def answer(self) -> None:
        self.see_other("flower/")
        self.finish()
