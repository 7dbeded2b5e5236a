"""
Sessions of browsers, in a signed cookie.

A cookie notes the key that its owner logged in with, and when. What the key may do is looked up at each request, so a
key that ends ends its sessions. No server stores anything: every process with the secret knows all sessions.
"""

from typing import Protocol

from tornado.web import create_signed_value, decode_signed_value

from tornado_celery_bridge.service.access.keys import Keyring, Principal
from tornado_celery_bridge.service.http.handler import SAFE, Handler, Site

#: The cookie's name with TLS at the root, when browsers take it from this very host alone; below a prefix, where the
#: cookie has a path; and without TLS.
_SECURE, _BELOW, _INSECURE = "__Host-session", "__Secure-session", "session"
#: How long a session lasts, in days, which is the unit of Tornado. A working day is shorter.
_LENGTH = 0.5


class SessionSite(Site, Protocol):
    """What sessions need of the service."""

    #: Signs the sessions' cookies.
    cookie_secret: str


class SessionHandler(Handler):
    """A handler whose client may be a browser with a session."""

    service: SessionSite


def _names(handler: SessionHandler) -> tuple[str, str]:
    """Return what the cookie is called with TLS and without."""
    return _BELOW if handler.service.prefix else _SECURE, _INSECURE


def _path(handler: SessionHandler) -> str:
    return f"{handler.service.prefix}/"


def find(handler: SessionHandler, keys: Keyring) -> Principal | None:
    """Return whose session a request's cookie stands for; None if there is none, or its key is no longer valid."""
    for name in _names(handler):
        cookie = handler.get_cookie(name)
        note = decode_signed_value(handler.service.cookie_secret, name, cookie, max_age_days=_LENGTH)
        if note is not None:
            return keys.find_noted(note.decode())
    return None


def is_from_our_page(handler: SessionHandler) -> bool:
    """
    Return whether a request with a session says whose page it is from, if it may change anything.

    One that names another site's page was refused before, or its WebSocket's handshake is. A browser always says.
    """
    headers = handler.request.headers
    is_safe = handler.request.method in SAFE and "Upgrade" not in headers
    return is_safe or "Origin" in headers or "Sec-Fetch-Site" in headers


def begin(handler: SessionHandler, note: str) -> None:
    """Give the client a cookie that stands for the key of a note."""
    # In Origin a browser says how it came by its page, whatever lies between it and us.
    has_tls = handler.request.protocol == "https" or handler.request.headers.get("Origin", "").startswith("https://")
    name = _names(handler)[0 if has_tls else 1]
    value = create_signed_value(handler.service.cookie_secret, name, note)
    handler.set_cookie(
        name, value, expires_days=_LENGTH, path=_path(handler), httponly=True, samesite="Lax", secure=has_tls
    )


def end(handler: SessionHandler) -> None:
    """Take the cookies back."""
    for name in _names(handler):
        handler.clear_cookie(name, path=_path(handler), httponly=True, samesite="Lax", secure=name != _INSECURE)
