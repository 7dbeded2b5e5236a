"""The guard: who asks, and whether they may. Every endpoint of the service is behind it."""

import time
from typing import ClassVar, Protocol
from urllib.parse import quote

from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable
from tornado_celery_bridge.service.access import sessions
from tornado_celery_bridge.service.access.audit import Audit
from tornado_celery_bridge.service.access.documents import AuditEntry, Login
from tornado_celery_bridge.service.access.keys import EVERYBODY, Keyring, Principal
from tornado_celery_bridge.service.access.limits import Allowance, take
from tornado_celery_bridge.service.http import endpoint
from tornado_celery_bridge.service.http.documents import rfc3339
from tornado_celery_bridge.service.http.handler import SAFE
from tornado_celery_bridge.service.http.problems import FORBIDDEN, LEDGER_UNAVAILABLE, Kind, Problem, problem_of

KEY_IN_QUERY = Kind("key-in-query", 400, "A key belongs into `Authorization`, not into the query.")
UNAUTHORIZED = Kind("unauthorized", 401, "There is no valid key in `Authorization`.")
FORBIDDEN_SCOPE = Kind("forbidden-scope", 403, "The key lacks the scope that this needs.")
FORBIDDEN_HOST = Kind("forbidden-host", 403, "Mounted without API keys, the service answers this machine alone.")
RATE_LIMITED = Kind("rate-limited", 429, "More requests than the key may make.")

# Clients would put a key there if they were let. A query is in browsers' histories and in proxies' logs.
_KEY_PARAMETERS = frozenset({"api_key", "key", "token", "access_token"})


class GuardedSite(sessions.SessionSite, Protocol):
    """What the guard needs of the service."""

    #: Who may do what; None lets everybody do everything.
    keys: Keyring | None
    #: Whether, without keys, requests may come from anywhere: whoever listens sees to it that they do not.
    any_host: bool
    #: Where rates are counted.
    ledger: Ledger
    audit: Audit


class Guarded(sessions.SessionHandler):
    """Finds out who asks, and turns away those who may not."""

    service: GuardedSite
    #: Whether it answers without a key.
    is_public: ClassVar[bool] = False
    #: Whether people see it, so that without a login it leads a browser to one.
    is_page: ClassVar[bool] = False
    #: Whether it has no answer without the ledger. If so, a request waits for none once that is away.
    needs_ledger: ClassVar[bool] = True

    #: Who asks. It is missing on routes that answer without a key.
    caller: Principal
    #: How they say so.
    login: Login = "none"
    _allowance: Allowance | None = None

    @property
    def scope(self) -> str | None:
        """The scope that the request needs; None: any key will do."""
        return None

    @property
    def key_id(self) -> str:  # type: ignore[override]
        """The id of the caller's key; empty without one."""
        caller = getattr(self, "caller", None)
        return "" if caller is None else caller.key_id

    def set_default_headers(self) -> None:
        super().set_default_headers()
        for name, value in (self._allowance.headers if self._allowance else {}).items():
            self.set_header(name, value)

    async def reason_to_refuse(self) -> Problem | None:
        keys = self.service.keys
        try:
            if keys is None:
                self._check_host()
                self.caller = EVERYBODY
                return None
            if not _KEY_PARAMETERS.isdisjoint(map(str.lower, self.request.query_arguments)):
                raise KEY_IN_QUERY("Logs keep a path's query: send the key as Authorization: Bearer.")
            if not self.is_public:
                self.caller = await self._authenticated(keys)
                await self.pay()
                self._check_scope()
        except (Problem, LedgerUnavailable) as exc:
            return problem_of(exc)
        return None

    def _check_host(self) -> None:
        """
        Raise a Problem if a request without keys is not from this machine, for a name that only this machine has.

        The name tells a page of another site apart whose own name was made to stand for 127.0.0.1 (DNS rebinding).
        """
        if self.service.any_host or all(map(sessions.is_loopback, (self.request.host_name, self.request.remote_ip))):
            return
        raise FORBIDDEN_HOST(
            "Without API keys this service answers requests from this machine alone, sent to localhost, 127.0.0.1 or "
            "[::1]: set API_KEYS_FILE to let others in."
        )

    async def _authenticated(self, keys: Keyring) -> Principal:
        """
        Return whose key the request came with, or whose session.

        Raises:
            Problem: 401; 403 for a session in whose name some other site may have asked.
            LedgerUnavailable: It is not known whether the session has ended, and the answer needs the ledger, or the
                request is to change something.
        """
        given = self.request.headers.get("Authorization")
        if given is not None:
            self.login = "key"
            scheme, _, key = given.partition(" ")
            caller = keys.find(key.strip(" ")) if scheme.lower() == "bearer" else None
        else:
            self.login = "session"
            try:
                caller = await sessions.find(self, keys, self.service.ledger)
            except LedgerUnavailable:
                if self.needs_ledger or self.request.method not in SAFE:
                    raise
                session = sessions.session_of(self)
                caller = None if session is None else keys.find_noted(session.note)
        if caller is None:
            detail = "This needs a valid API key, as Authorization: Bearer <key>."
            raise UNAUTHORIZED(detail, headers={"WWW-Authenticate": "Bearer"})
        if self.login == "session" and not sessions.is_from_our_page(self):
            raise FORBIDDEN("With a session, Origin or Sec-Fetch-Site must say whose page this is from.")
        return caller

    async def known_caller(self) -> Principal | None:
        """Return who asks where everybody gets an answer; None for whoever has no valid key."""
        keys = self.service.keys
        try:
            return EVERYBODY if keys is None else await self._authenticated(keys)
        except (Problem, LedgerUnavailable):
            return None

    async def pay(self, owed: int | None = None) -> None:
        """
        Take a request off what the key may make. Without the ledger nothing is counted and all may go on.

        Args:
            owed: Take so many, also if that is more than are left: the key's next request waits until they are back.

        Raises:
            Problem: 429.
        """
        rate = self.caller.rate
        if rate is None:
            return
        try:
            self._allowance = await take(self.service.ledger, self.caller.key_id, rate, owed)
        except LedgerUnavailable:
            if self.needs_ledger:
                raise
            return
        for name, value in self._allowance.headers.items():
            self.set_header(name, value)
        if not self._allowance.is_granted:
            wait = {"Retry-After": str(self._allowance.wait)}
            raise RATE_LIMITED(f"More than {rate} requests with this key.", headers=wait)

    def _check_scope(self) -> None:
        if self.scope is not None and not self.caller.may(self.scope):
            raise FORBIDDEN_SCOPE(f"This key lacks the scope {self.scope}.")

    def _compose(self, problem: Problem) -> bytes:
        body = super()._compose(problem)
        if problem.status_code == 401 and self.is_page and "text/html" in self.request.headers.get("Accept", ""):
            uri = str(self.request.uri).removeprefix(self.service.prefix)
            wanted = uri.lstrip("/") if self.request.method == "GET" else ""
            self.see_other(f"login?next={quote(wanted, safe='')}" if wanted else "login")
        return body

    def on_counted(self) -> None:
        """Put the request into the audit log, if it is one to change something and it is known who asked."""
        method, caller = str(self.request.method), getattr(self, "caller", None)
        if method in SAFE or caller is None:
            return
        made = self._headers.get("Location", "")
        entry: AuditEntry = {
            "at": rfc3339(round(time.time() * 1000)),
            "key": caller.key_id or None,
            "owner": caller.owner,
            "login": self.login,
            "ip": self.request.remote_ip,
            "method": method,
            "path": self.request.path,
            "target": made if made.startswith(f"{self.service.prefix}/v1/") else self.request.path,
            "status": self.get_status(),
            "request_id": self.trace.request_id,
        }
        self.service.audit.record(entry, is_submission=self.scope == "submit")


class Endpoint(Guarded, endpoint.Endpoint):
    """A route behind the guard."""

    @classmethod
    def guard_problems(cls) -> tuple[Kind, ...]:
        needs_key = () if cls.is_public else (UNAUTHORIZED, FORBIDDEN_SCOPE, RATE_LIMITED, LEDGER_UNAVAILABLE)
        return (KEY_IN_QUERY, *needs_key)

    @property
    def scope(self) -> str | None:
        return self.route.scope

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "route" in cls.__dict__:
            cls.is_public = cls.route.is_public


class MethodNotAllowed(Guarded, endpoint.MethodNotAllowed):
    """A path by a method that it does not have, behind the guard."""


class NotFound(Guarded, endpoint.NotFound):
    """Every other path, behind the guard: without a key nobody learns which paths there are."""

    needs_ledger = False
