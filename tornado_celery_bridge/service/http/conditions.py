"""
Conditions: what must hold before anything is changed, or of what is read. RFC 9110, sections 8.8.3 and 13.1.

An entity tag is strong: it names the bytes of an answer, compressed or not, and so changes with all that they show. Of
what has versions, the version comes first, and then a dash. A change asks for the version alone, so that it is not
refused for what has happened by itself since.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar

from tornado_celery_bridge.service.http.headers import HeaderFields
from tornado_celery_bridge.service.http.problems import Kind

PRECONDITION_FAILED = Kind("precondition-failed", 412, "`If-Match` or `If-None-Match` does not hold of what is there.")

_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_VERSION = re.compile(r'-[^"]*')


def etag_of(content: bytes, version: int | None = None) -> str:
    """Return the entity tag of *content*: of one *version* of something, if that has versions."""
    digest = hashlib.sha256(content).hexdigest()[:32]
    return f'"{digest}"' if version is None else f'"{version}-{digest}"'


def encoded(etag: str, encoding: str) -> str:
    """Return the entity tag of the same content in another encoding."""
    return f'{etag[:-1]}-{encoding}"'


@dataclass(frozen=True)
class Conditions(HeaderFields):
    """The request's ``If-Match`` and ``If-None-Match``; None for one that is not there."""

    PARAMETERS: ClassVar = {
        "If-Match": {
            "description": "RFC 9110: only if the schedule is there (`*`), in the version of one of these tags."
        },
        "If-None-Match": {
            "description": "RFC 9110: only if the schedule is not there (`*`), or has none of these versions.",
        },
    }

    if_match: str | None = None
    if_none_match: str | None = None

    def check(self, version: int | str | None) -> None:
        """Raise 412 if they do not hold of the *version* that is there: empty if it has none, None if nothing is."""
        if self.if_match is not None and not _is_named(version, self.if_match):
            raise PRECONDITION_FAILED("If-Match names another version: read it again.")
        if self.if_none_match is not None and _is_named(version, self.if_none_match.replace("W/", "")):
            raise PRECONDITION_FAILED("If-None-Match names what is there already.")


@dataclass(frozen=True)
class IfNoneMatch(HeaderFields):
    """The ``If-None-Match`` of a request that only reads: its answer has an entity tag, or is 304."""

    PARAMETERS: ClassVar = {
        "If-None-Match": {"description": "RFC 9110: only if the answer has none of these entity tags; else 304."}
    }

    tags: str | None = None


def _is_named(version: int | str | None, header: str) -> bool:
    named = (_VERSION.sub("", tag) for tag in _ETAG.findall(header))
    return version is not None and (header.strip() == "*" or f'"{version}"' in named)
