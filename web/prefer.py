"""The ``Prefer`` header, RFC 7240."""

import re
from collections.abc import Iterable

__all__ = ("wait_preference",)

# preference = token [ "=" ( token / quoted-string ) ] *( ";" parameter )
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCE = re.compile(rf"\s*({_TOKEN})(?:\s*=\s*({_TOKEN}|{_QUOTED}))?\s*(?:;[^,\"]*(?:{_QUOTED}[^,\"]*)*)?(?:,|$)")

#: Characters of a header that are looked at; the expression is quadratic at worst.
MAX_LENGTH = 500


def wait_preference(headers: Iterable[str], at_most: int) -> int | None:
    """
    Return for how many seconds the client would wait for the answer; None if it does not say.

    A preference is only that: one that cannot be understood is left out, and of two the first counts.

    Args:
        headers: The values of all ``Prefer`` headers.
        at_most: No longer than this.
    """
    for header in headers:
        for name, value in _PREFERENCE.findall(header[:MAX_LENGTH]):
            if name.lower() == "wait":
                seconds = value.strip('"')
                valid = seconds.isascii() and seconds.isdigit()
                return min(int(seconds[:9]), at_most) if valid else None
    return None
