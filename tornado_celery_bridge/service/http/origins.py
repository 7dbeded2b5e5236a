"""Whether a page of another site makes a request: by Fetch Metadata's ``Sec-Fetch-Site``, or else by ``Origin``."""

from collections.abc import Callable
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest


def is_foreign(request: HTTPServerRequest, is_trusted: Callable[[str], bool]) -> bool:
    """
    Return whether a request comes from a page of another origin that is not trusted.

    This is Tornado 6.6's ``cross_origin_protection``, which 6.5 does not have. A client that is no browser sends
    neither header.

    Args:
        request: The request.
        is_trusted: Whether a page of this origin may make it all the same.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site in ("same-origin", "none") or (site is None and origin is None):
        return False
    if site is None and urlsplit(origin or "").netloc.lower() == request.headers.get("Host", "").lower():
        return False
    return not (origin and is_trusted(origin))
