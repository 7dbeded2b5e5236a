"""
Sessions of browsers, in a signed cookie.

A cookie notes the key that its owner logged in with, and when. What the key may do is looked up at each request, so a
key that ends ends its sessions. Every process with the secret knows all sessions. Only those that were ended are
stored, in Redis, until their cookies are too old.
"""

import ipaddress
import secrets
from typing import NamedTuple, Protocol

from tornado.web import create_signed_value, decode_signed_value

from tornado_celery_bridge.ledger import Ledger
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


class Session(NamedTuple):
    """A session, as a cookie has it."""

    #: What the keyring notes of its key.
    note: str
    #: Its own id, by which it is ended.
    id: str

    @property
    def value(self) -> str:
        """What the cookie signs."""
        return f"{self.note}/{self.id}"


def session_of(handler: SessionHandler) -> Session | None:
    """
    Return the session that a request's cookie stands for; None if there is none.

    With TLS the cookie without TLS counts for nothing: a page of another host of the domain, or whoever is on the way
    of a request without TLS, could set it, and have others work in a session of theirs.
    """
    secure, insecure = _names(handler)
    for name in (secure,) if _has_tls(handler) or handler.get_cookie(secure) else (secure, insecure):
        value = decode_signed_value(handler.service.cookie_secret, name, handler.get_cookie(name), max_age_days=_LENGTH)
        if value is not None:
            return Session(*value.decode().split("/"))
    return None


async def find(handler: SessionHandler, keys: Keyring, ledger: Ledger) -> Principal | None:
    """
    Return whose session a request's cookie stands for; None if there is none, it ended, or its key is no longer valid.

    Raises:
        LedgerUnavailable: It is not known whether the session has ended.
    """
    session = session_of(handler)
    principal = None if session is None else keys.find_noted(session.note)
    if session is None or principal is None or await ledger.redis.call("EXISTS", _ended(ledger, session)):
        return None
    return principal


def _ended(ledger: Ledger, session: Session) -> str:
    return f"{ledger.redis.prefix}session:ended:{session.id}"


def _has_tls(handler: SessionHandler) -> bool:
    """
    Return whether the browser speaks TLS, whatever lies between it and us.

    It says so in ``Origin``, if that is there. Only to a site with TLS, or on its own machine, it sends ``Sec-Fetch-``.
    """
    headers = handler.request.headers
    if handler.request.protocol == "https" or headers.get("Origin", "") == f"https://{handler.request.host}":
        return True
    return "Sec-Fetch-Site" in headers and "Origin" not in headers and not is_loopback(handler.request.host_name)


def is_loopback(host: str | None) -> bool:
    """Return whether a host's name or address is this machine's own."""
    if host in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


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
    has_tls = _has_tls(handler)
    name = _names(handler)[0 if has_tls else 1]
    session = Session(note, secrets.token_hex(16))
    value = create_signed_value(handler.service.cookie_secret, name, session.value)
    handler.set_cookie(
        name, value, expires_days=_LENGTH, path=_path(handler), httponly=True, samesite="Lax", secure=has_tls
    )


async def end(handler: SessionHandler, ledger: Ledger) -> None:
    """
    Take the cookies back, and end the session, for whoever has a copy of its cookie, too.

    Raises:
        LedgerUnavailable: The session goes on for whoever has a copy.
    """
    for name in _names(handler):
        handler.clear_cookie(name, path=_path(handler), httponly=True, samesite="Lax", secure=name != _INSECURE)
    if (session := session_of(handler)) is not None:
        await ledger.redis.call("SET", _ended(ledger, session), 1, "EX", round(_LENGTH * 86_400))
