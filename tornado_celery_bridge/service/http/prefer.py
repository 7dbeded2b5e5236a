"""The ``Prefer`` header, RFC 7240."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from tornado.httputil import HTTPHeaders

from tornado_celery_bridge.service.http.headers import HeaderFields

# preference = token [ "=" ( token / quoted-string ) ] *( ";" parameter )
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(rf"\s*({_TOKEN})(?:\s*=\s*({_TOKEN}|{_QUOTED}))?\s*(?:;[^,\"]*(?:{_QUOTED}[^,\"]*)*)?(?:,|$)")

#: Characters of a header that are looked at; the expression is quadratic at worst.
MAX_LENGTH = 500
#: Seconds that a client may ask to wait for.
MAX_WAIT = 60


@dataclass(frozen=True)
class Preferences(HeaderFields):
    """What a client would like."""

    PARAMETERS: ClassVar = {
        "Prefer": {
            "description": "RFC 7240: `wait=N` waits for up to N seconds until the job is done; N is at most "
            f"{MAX_WAIT}.",
            "example": "wait=5",
        }
    }
    ANSWERED: ClassVar = ("Preference-Applied",)

    #: Seconds that it would wait for the answer; None if it does not say.
    wait: int | None = None
    #: Whether it wants an answer at once rather than a late one.
    respond_async: bool = False

    @classmethod
    def of_headers(cls, headers: HTTPHeaders) -> "Preferences":
        """Return those of a request."""
        return preferences(headers.get_list("Prefer"))

    @property
    def applied(self) -> str:
        """The value of ``Preference-Applied``; empty if there is nothing to say."""
        told = ["respond-async"] if self.respond_async else []
        return ", ".join(told + ([] if self.wait is None else [f"wait={self.wait}"]))

    def answered(self) -> Mapping[str, str]:
        """Return what the client is told of them."""
        return {"Vary": "Prefer"} | ({"Preference-Applied": self.applied} if self.applied else {})


def preferences(headers: Iterable[str]) -> Preferences:
    """
    Return what a client would like, by the values of all its ``Prefer`` headers.

    A preference that cannot be understood is left out. Of two that contradict each other, the first counts.
    """
    found: dict[str, str] = {}
    for header in headers:
        for name, value in _PREFERENCE.findall(header[:MAX_LENGTH]):
            found.setdefault(name.lower(), value.strip('"'))
    seconds = found.get("wait", "")
    valid = seconds.isascii() and seconds.isdigit()
    return Preferences(min(int(seconds[:9]), MAX_WAIT) if valid else None, "respond-async" in found)
