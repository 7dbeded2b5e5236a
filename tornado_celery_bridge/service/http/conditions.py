"""Conditions: what must hold before anything is changed. RFC 9110, section 13.1."""

import re
from dataclasses import dataclass
from typing import ClassVar

from tornado_celery_bridge.service.http.headers import HeaderFields
from tornado_celery_bridge.service.http.problems import Kind

PRECONDITION_FAILED = Kind("precondition-failed", 412, "`If-Match` or `If-None-Match` does not hold of what is there.")

_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_IF_NONE_MATCH = {
    "If-None-Match": {
        "description": "RFC 9110: only if the schedule is not there (`*`), or has none of these entity tags.",
    }
}


@dataclass(frozen=True)
class Conditions(HeaderFields):
    """The request's ``If-Match`` and ``If-None-Match``; None for one that is not there."""

    PARAMETERS: ClassVar = {
        "If-Match": {"description": "RFC 9110: only if the schedule is there (`*`) and has one of these entity tags."},
        **_IF_NONE_MATCH,
    }

    if_match: str | None = None
    if_none_match: str | None = None

    def check(self, etag: str | None) -> None:
        """Raise 412 if they do not hold. *etag* is that of what is there: empty if it has none, None if nothing is."""
        if self.if_match is not None and not _is_named(etag, self.if_match):
            raise PRECONDITION_FAILED("If-Match names another version: read it again.")
        if self.if_none_match is not None and _is_named(etag, self.if_none_match.replace("W/", "")):
            raise PRECONDITION_FAILED("If-None-Match names what is there already.")


@dataclass(frozen=True)
class IfNoneMatch(HeaderFields):
    """The ``If-None-Match`` of a request that only reads; ``Handler.is_current`` looks at it."""

    PARAMETERS: ClassVar = _IF_NONE_MATCH

    tags: str | None = None


def _is_named(etag: str | None, header: str) -> bool:
    return etag is not None and (header.strip() == "*" or etag in _ETAG.findall(header))
