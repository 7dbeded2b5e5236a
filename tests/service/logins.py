"""Logging in, and asking as a browser with the cookie does."""

from urllib.parse import urlencode

from tornado.httpclient import HTTPResponse

from tests.service.keys import Guarded
from tests.service.site import Service


async def forget_attempts(service: Service) -> None:
    await service.jobs.ledger.redis.call("DEL", "{tcb}rate:login:127.0.0.1")


async def log_in(site: Guarded, key: str, following: str = "", **headers: str) -> HTTPResponse:
    form = urlencode({"key": key, "next": following}).encode()
    given = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return await site.service.fetch("/login", "POST", body=form, headers=given, follow_redirects=False)


def cookie_of(response: HTTPResponse) -> str:
    """Return what a browser would send."""
    return response.headers["Set-Cookie"].partition(";")[0]


async def with_cookie(
    site: Guarded, cookie: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> HTTPResponse:
    given = {"Cookie": cookie, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await site.service.fetch(path, method, body=body, headers=given, follow_redirects=False)
