"""
Sessions of browsers, in a signed cookie.

It notes the key that its owner logged in with and when that was. What the key may do is looked up at every request, so
that whatever ends the key ends its sessions. No server keeps anything: every process with the secret knows all of them.
"""

from tornado.web import RequestHandler

from tornado_celery_bridge.service.access.keys import Keyring, Principal

__all__ = ("SAFE", "begin", "end", "find", "is_from_our_page")

#: The cookie's name with TLS, when browsers take it from this very host alone, and without.
_SECURE, _INSECURE = "__Host-session", "session"
#: Days, as Tornado has it. A working day is shorter.
_LENGTH = 0.5
#: Methods that change nothing.
SAFE = ("GET", "HEAD", "OPTIONS")


def find(handler: RequestHandler, keys: Keyring) -> Principal | None:
    """Return whose session a request's cookie stands for; None if it is none, or its key is no longer valid."""
    for name in (_SECURE, _INSECURE):
        note = handler.get_signed_cookie(name, max_age_days=_LENGTH)
        if note is not None:
            return keys.find_noted(note.decode())
    return None


def is_from_our_page(handler: RequestHandler) -> bool:
    """
    Return whether a request with a session says whose page it is from, if it may change anything.

    If it says another's, Tornado has refused it before, or does so with a WebSocket's handshake. A browser always says.
    """
    headers = handler.request.headers
    is_safe = handler.request.method in SAFE and "Upgrade" not in headers
    return is_safe or "Origin" in headers or "Sec-Fetch-Site" in headers


def begin(handler: RequestHandler, note: str) -> None:
    """Give the client a cookie that stands for the key of a note."""
    # In Origin a browser says how it came by its page, whatever lies between it and us.
    has_tls = handler.request.protocol == "https" or handler.request.headers.get("Origin", "").startswith("https://")
    name = _SECURE if has_tls else _INSECURE
    handler.set_signed_cookie(name, note, _LENGTH, httponly=True, samesite="Lax", secure=has_tls)


def end(handler: RequestHandler) -> None:
    """Take the cookies back."""
    for name in (_SECURE, _INSECURE):
        handler.clear_cookie(name, httponly=True, samesite="Lax", secure=name == _SECURE)
