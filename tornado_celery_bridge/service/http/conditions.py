"""What a client wants to be so before anything is changed: RFC 9110, section 13.1."""

import re
from typing import NamedTuple, Self

from tornado.httputil import HTTPHeaders

from tornado_celery_bridge.service.http.problems import Problem

__all__ = ("Conditions",)

_ETAG = re.compile(r'(?:W/)?"[^"]*"')


class Conditions(NamedTuple):
    """The request's ``If-Match`` and ``If-None-Match``; None for one that it has not."""

    if_match: str | None = None
    if_none_match: str | None = None

    @classmethod
    def of_headers(cls, headers: HTTPHeaders) -> Self:
        """Return those of a request."""
        return cls(headers.get("If-Match"), headers.get("If-None-Match"))

    def check(self, etag: str | None) -> None:
        """
        Return if they hold of what is there.

        Args:
            etag: Its entity tag; empty if it has none, None if nothing is there.

        Raises:
            Problem: 412, they don't.
        """
        if self.if_match is not None and not _is_named(etag, self.if_match):
            raise Problem(412, "precondition-failed", "If-Match names another version: read it again.")
        if self.if_none_match is not None and _is_named(etag, self.if_none_match.replace("W/", "")):
            raise Problem(412, "precondition-failed", "If-None-Match names what is there already.")


def _is_named(etag: str | None, header: str) -> bool:
    return etag is not None and (header.strip() == "*" or etag in _ETAG.findall(header))
