"""The login page: an API key for a session."""

import base64
import hashlib
from contextlib import suppress
from typing import ClassVar
from urllib.parse import parse_qs, quote

from tornado.template import Template

from tornado_celery_bridge.ledger import LedgerUnavailable
from tornado_celery_bridge.service.access import sessions
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.access.limits import Rate, take
from tornado_celery_bridge.service.http.endpoint import Answer, Route
from tornado_celery_bridge.service.http.problems import BAD_REQUEST, UNSUPPORTED_MEDIA_TYPE
from tornado_celery_bridge.service.pages.files import PAGES
from tornado_celery_bridge.service.pages.page import PageEndpoint

#: Attempts from one address.
RATE = Rate(30, 60)

_PAGE = Template((PAGES / "login.html").read_text("utf-8"), autoescape="xhtml_escape")
_STYLE = (PAGES / "login.css").read_text("utf-8")
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class LoginEndpoint(PageEndpoint):
    """A form that is shown, or was sent."""

    async def respond(self, **path: str) -> None:
        if self.service.keys is None:  # whoever can connect may do everything
            self.see_other("./")
        else:
            await super().respond(**path)

    def show(self, status: int, following: str, fault: str = "", session: Principal | None = None) -> None:
        """Answer with the page."""
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "same-origin")  # with no-referrer a form's Origin would be null
        self.finish(_PAGE.generate(style=_STYLE, fault=fault, following=following, session=session))


class ShowLogin(LoginEndpoint):
    """The login page."""

    route = Route(("GET",), "/login", is_public=True)

    async def _session(self) -> Principal | None:
        assert self.service.keys is not None
        try:
            return await sessions.find(self, self.service.keys, self.service.ledger)
        except LedgerUnavailable:
            return None

    async def answer(self) -> None:
        assert self.service.keys is not None
        self.show(200, self.get_query_argument("next", ""), session=await self._session())


class LogIn(LoginEndpoint):
    """A session for a key."""

    route = Route(("POST",), "/login", is_public=True)

    async def answer(self) -> None:
        assert self.service.keys is not None
        form = self._read_form()
        following = form.get("next", "")
        if not await self._may_try():
            self.show(429, following, "There were too many attempts: wait a minute.")
        elif principal := self.service.keys.find(form.get("key", "").strip()):
            self.caller, self.login = principal, "session"
            sessions.begin(self, self.service.keys.note(principal))
            # However it looks, that is a path below ours: it leads to no other host.
            self.see_other("./" + quote(following.lstrip("/\\"), safe="/?&=%+:@!$'()*,;~"))
            self.finish()
        else:
            self.show(401, following, "This is no valid key.")

    def _read_form(self) -> dict[str, str]:
        """Return the body's fields; of several of one name the first."""
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != "application/x-www-form-urlencoded":
            raise UNSUPPORTED_MEDIA_TYPE("The body must be a form.")
        try:
            fields = parse_qs(self.read_body().decode("ascii"), max_num_fields=10)
        except ValueError:
            raise BAD_REQUEST("The body is not a form.") from None
        return {name: values[0] for name, values in fields.items()}

    async def _may_try(self) -> bool:
        """Return whether the address has attempts left. Without the ledger nothing is counted."""
        try:
            allowance = await take(self.service.ledger, f"login:{self.request.remote_ip}", RATE)
        except LedgerUnavailable:
            return True
        if not allowance.is_granted:
            self.set_header("Retry-After", str(allowance.wait))
        return allowance.is_granted


class LogOut(PageEndpoint):
    """The end of a session."""

    route = Route(("POST",), "/logout")
    answers: ClassVar = {303: Answer("The login page.")}
    is_page = True
    needs_ledger = False

    async def answer(self) -> None:
        with suppress(LedgerUnavailable):  # the cookies are taken back at least
            await sessions.end(self, self.service.ledger)
        self.see_other("login")
        self.finish()
