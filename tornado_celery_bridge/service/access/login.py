"""The login page: an API key for a session."""

import base64
import hashlib
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote

from tornado.template import Template

from tornado_celery_bridge.ledger import LedgerUnavailable
from tornado_celery_bridge.service.access import sessions
from tornado_celery_bridge.service.access.keys import Keyring, Principal
from tornado_celery_bridge.service.access.limits import Rate, take
from tornado_celery_bridge.service.http.handler import ApiHandler
from tornado_celery_bridge.service.http.problems import Problem

__all__ = ("ROUTES",)

#: Attempts from one address.
RATE = Rate(30, 60)

_STATIC = Path(__file__).parents[1] / "pages" / "static"
_PAGE = Template((_STATIC / "login.html").read_text("utf-8"), autoescape="xhtml_escape")
_STYLE = (_STATIC / "login.css").read_text("utf-8")
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class LoginHandler(ApiHandler):
    """``/login``"""

    is_public = True

    def get(self) -> None:
        keys: Keyring | None = self.settings["keys"]
        if keys is None:  # whoever can connect may do everything
            self.see_other("./")
            return
        self._show(200, self.get_query_argument("next", ""), session=sessions.find(self, keys))

    async def post(self) -> None:
        keys: Keyring | None = self.settings["keys"]
        if keys is None:
            self.see_other("./")
            return
        form = self._read_form()
        following = form.get("next", "")
        if not await self._may_try():
            self._show(429, following, "There were too many attempts: wait a minute.")
        elif principal := keys.find(form.get("key", "").strip()):
            self.principal, self.login = principal, "session"
            sessions.begin(self, keys.note(principal))
            # However it looks, that is a path below ours: it leads to no other host.
            self.see_other("./" + quote(following.lstrip("/\\"), safe="/?&=%+:@!$'()*,;~"))
        else:
            self._show(401, following, "This is no valid key.")

    def _read_form(self) -> dict[str, str]:
        """Return the body's fields; of several of one name the first."""
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != "application/x-www-form-urlencoded":
            raise Problem(415, "unsupported-media-type", "The body must be a form.")
        try:
            fields = parse_qs(self.read_body().decode("ascii"), max_num_fields=10)
        except ValueError:
            raise Problem(400, "bad-request", "The body is not a form.") from None
        return {name: values[0] for name, values in fields.items()}

    async def _may_try(self) -> bool:
        """Return whether the address has attempts left. Without the ledger nothing is counted."""
        try:
            allowance = await take(self.jobs.ledger, f"login:{self.request.remote_ip}", RATE)
        except LedgerUnavailable:
            return True
        if not allowance.is_granted:
            self.set_header("Retry-After", str(allowance.wait))
        return allowance.is_granted

    def _show(self, status: int, following: str, fault: str = "", session: Principal | None = None) -> None:
        """Answer with the page."""
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "same-origin")  # with no-referrer a form's Origin would be null
        self.finish(_PAGE.generate(style=_STYLE, fault=fault, following=following, session=session))


class LogoutHandler(ApiHandler):
    """``/logout``"""

    scopes: ClassVar = {"POST": None}
    is_page = True
    needs_ledger = False

    def post(self) -> None:
        sessions.end(self)
        self.see_other("login")


ROUTES = [
    (r"/login", LoginHandler),
    (r"/logout", LogoutHandler),
]
