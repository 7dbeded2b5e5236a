"""The ``Prefer`` header, RFC 7240."""

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ("Preferences", "preferences")

# preference = token [ "=" ( token / quoted-string ) ] *( ";" parameter )
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(rf"\s*({_TOKEN})(?:\s*=\s*({_TOKEN}|{_QUOTED}))?\s*(?:;[^,\"]*(?:{_QUOTED}[^,\"]*)*)?(?:,|$)")

#: Characters of a header that are looked at; the expression is quadratic at worst.
MAX_LENGTH = 500


class Preferences(NamedTuple):
    """What a client would like."""

    #: Seconds that it would wait for the answer; None if it does not say.
    wait: int | None = None
    #: Whether it would rather have an answer at once than a late one.
    respond_async: bool = False

    @property
    def applied(self) -> str:
        """The value of ``Preference-Applied``; empty if there is nothing to say."""
        told = ["respond-async"] if self.respond_async else []
        return ", ".join(told + ([] if self.wait is None else [f"wait={self.wait}"]))


def preferences(headers: Iterable[str], at_most: int) -> Preferences:
    """
    Return what a client would like.

    A preference is only that: one that cannot be understood is left out, and of two the first counts.

    Args:
        headers: The values of all ``Prefer`` headers.
        at_most: No longer a wait than this, in seconds.
    """
    found: dict[str, str] = {}
    for header in headers:
        for name, value in _PREFERENCE.findall(header[:MAX_LENGTH]):
            found.setdefault(name.lower(), value.strip('"'))
    seconds = found.get("wait", "")
    valid = seconds.isascii() and seconds.isdigit()
    return Preferences(min(int(seconds[:9]), at_most) if valid else None, "respond-async" in found)
