"""
Tasks on pages of the web: an example of ``async def``, with Tornado's own client.

The client is imported where it is used. A process that fetches nothing loads no Tornado.
"""

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic import Field
from typing_extensions import TypedDict

from tasks.celery import app
from tornado_celery_bridge.progress import progress

if TYPE_CHECKING:
    from tornado.httpclient import AsyncHTTPClient

#: Seconds for one page, and its bytes at most.
TIMEOUT, MAX_BYTES = 20.0, 1_000_000

_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")

Url = Annotated[str, Field(max_length=2_000, pattern=r"^https?://")]

#: The client of each loop: it lives as long as the loop, from task to task.
_clients: "WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncHTTPClient]" = WeakKeyDictionary()


class Page(TypedDict):
    """What a URL answered."""

    url: str
    status: Annotated[int | None, Field(description="The HTTP status; null if there was no answer.")]
    bytes: Annotated[int, Field(description="The size of the body.")]
    error: Annotated[str | None, Field(description="Why there was no answer.")]


@app.task(exposed=True)
async def fetch_pages(urls: Annotated[list[Url], Field(min_length=1, max_length=20)]) -> list[Page]:
    """
    Fetch pages, all at once, and tell what each one answered.

    A page of a private network is not fetched: whoever calls this must not reach by it what they could not reach
    themselves. Redirections are not followed.

    Args:
        urls: The pages' URLs.
    """
    pages = []
    for page in asyncio.as_completed([_fetch(url) for url in urls]):
        pages.append(await page)
        progress(len(pages), len(urls), pages[-1]["url"])
    return sorted(pages, key=lambda page: urls.index(page["url"]))


async def _fetch(url: str) -> Page:
    from tornado.httpclient import HTTPError
    from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError

    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("not a URL of http or https")
        answer = await _client().fetch(
            url, raise_error=False, follow_redirects=False, request_timeout=TIMEOUT, decompress_response=False
        )
    except (OSError, ValueError, HTTPError, HTTPStreamClosedError, HTTPTimeoutError) as exc:
        return {"url": url, "status": None, "bytes": 0, "error": str(exc) or repr(exc)}
    return {"url": url, "status": answer.code, "bytes": len(answer.body), "error": None}


def _client() -> "AsyncHTTPClient":
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        from tornado.netutil import DefaultLoopResolver
        from tornado.simple_httpclient import SimpleAsyncHTTPClient

        class PublicResolver(DefaultLoopResolver):
            """Finds public addresses only. The client connects to what was found here, so nothing is resolved twice."""

            async def resolve(
                self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
            ) -> list[tuple[int, Any]]:
                found = await super().resolve(host, port, family)
                for _, address in found:
                    if not is_public(address[0]):
                        raise OSError(f"{host} is not a public address")
                return found

        _clients[loop] = SimpleAsyncHTTPClient(
            force_instance=True, max_clients=100, max_body_size=MAX_BYTES, resolver=PublicResolver()
        )
    return _clients[loop]


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to a host on the internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:  # others that stand for an address of IPv4 are not public
            return found in _PUBLIC_IPV6 and found.is_global and found.sixtofour is None
        found = found.ipv4_mapped
    return found.is_global and not found.is_multicast
