"""What all handlers share: who asks, limits, JSON in and out, problems, and clients that leave."""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, NoReturn, TypeVar, cast
from urllib.parse import quote

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.base.tracing import Span
from tornado_celery_bridge.ledger import MAX_INLINE, Job, LedgerUnavailable
from tornado_celery_bridge.service.access import sessions
from tornado_celery_bridge.service.access.keys import EVERYBODY, Keyring, Principal
from tornado_celery_bridge.service.access.limits import Allowance, take
from tornado_celery_bridge.service.http.body import MAX_NODES, parse_body
from tornado_celery_bridge.service.http.prefer import preferences
from tornado_celery_bridge.service.http.problems import CONTENT_TYPE, Fault, Problem, problem_of
from tornado_celery_bridge.service.http.trace import Trace, current, current_job, valid
from tornado_celery_bridge.service.pages import files as docs
from tornado_celery_bridge.service.process.lifecycle import Lifecycle
from tornado_celery_bridge.service.resources import representation
from tornado_celery_bridge.service.resources.documents import AuditEntry, Login
from tornado_celery_bridge.service.resources.jobs.service import Jobs

__all__ = ("MAX_BODY", "MAX_DISCARDED", "MAX_WAIT", "ApiHandler", "ClientLeft")

T = TypeVar("T")

#: Bytes of a body that are kept and looked at, unless the deployment says otherwise.
MAX_BODY = 1024 * 1024
#: Bytes beyond it that are read and thrown away, so that the client has sent all and reads the answer.
MAX_DISCARDED = 8 * MAX_BODY
#: Seconds for a client whose body is larger than even that to read that it was refused.
LINGER = 2.0
#: Seconds that a client may ask to wait for.
MAX_WAIT = 60

# `curl -d` says that its body is a form; it is JSON all the same, or it is refused as not JSON.
_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")

# Where clients would put a key if they were let; a query is in browsers' histories and proxies' logs.
_KEY_PARAMETERS = frozenset({"api_key", "key", "token", "access_token"})


class ClientLeft(Exception):
    """The client hung up before it was answered."""


@stream_request_body
class ApiHandler(RequestHandler):
    """
    What all handlers share: limits, JSON, problems, and the end of a request whose client left.

    Bodies are streamed so that Tornado parses none of them as a form and none is kept beyond ``max_body``.
    """

    #: The scope that each method needs; None is any key. A method that is not here needs admin.
    scopes: ClassVar[Mapping[str, str | None]] = {}
    #: Whether it answers without a key.
    is_public: ClassVar[bool] = False
    #: Whether people see it, so that without a login it leads a browser to one.
    is_page: ClassVar[bool] = False
    #: Whether it has no answer without the ledger, so that there is none to wait for once that is away.
    needs_ledger: ClassVar[bool] = True

    #: Which request this is.
    trace: Trace
    #: Who asks; there is none where no key is needed.
    principal: Principal
    #: How they say so.
    login: Login = "none"
    _allowance: Allowance | None = None

    @property
    def jobs(self) -> Jobs:
        """The application's jobs."""
        jobs: Jobs = self.settings["jobs"]
        return jobs

    @property
    def max_body(self) -> int:
        """Bytes of a body that are kept and looked at."""
        most: int = self.settings["max_body"]
        return most

    @property
    def lifecycle(self) -> Lifecycle:
        """How far the process is from its end."""
        lifecycle: Lifecycle = self.settings["lifecycle"]
        return lifecycle

    def initialize(self) -> None:
        given = valid(self.request.headers.get("traceparent"))
        self._span = self._begin_span(given)
        self.trace = Trace.begun(self._span.headers().get("traceparent") or given)
        current.set(self.trace)  # of the connection's task, whose requests come one after another
        self._span.enter()  # likewise
        current_job.set(None)
        self._received = bytearray()
        self._size = 0
        self._counted = True
        self._left = False
        self._refusal: Problem | None = None
        self._work: asyncio.Future[Any] | None = None
        self.lifecycle.request_began()
        self._name_request()

    def _begin_span(self, traceparent: str | None) -> Span:
        """Return the span of the request. The query is not in it: it may hold anything."""
        method = str(self.request.method)
        method = method if method in self.SUPPORTED_METHODS else "_OTHER"
        attributes = {
            "http.request.method": method,
            "url.path": self.request.path,
            "url.scheme": self.request.protocol,
        }
        if route := self.settings["routes"].get(type(self)):
            attributes["http.route"] = route
        parent = {"traceparent": traceparent, "tracestate": self.request.headers.get("tracestate")}
        return Span(
            "server", f"{method} {route}" if route else method, attributes, parent=parent if traceparent else {}
        )

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        for name, value in (self._allowance.headers if self._allowance else {}).items():
            self.set_header(name, value)
        if self.lifecycle.closing.is_set():
            self.set_header("Connection", "close")

    def _name_request(self) -> None:
        self.set_header("X-Request-Id", self.trace.request_id)
        self.set_header("traceparent", self.trace.traceparent)

    def compute_etag(self) -> None:
        """Make none: nothing here is to be stored."""

    # Reading.

    @property
    def connection(self) -> HTTP1Connection:
        """The connection, which is HTTP/1 as Tornado knows no other."""
        return cast(HTTP1Connection, self.request.connection)

    async def prepare(self) -> None:
        self.connection.set_max_body_size(sys.maxsize)  # our own limit answers properly; Tornado's hangs up
        announced = _content_length(self.request.headers)
        has_not_begun = self.request.headers.get("Expect", "").lower() == "100-continue"
        refusal = await self._reason_to_refuse()
        if refusal is None and announced > self.max_body + (0 if has_not_begun else MAX_DISCARDED):
            refusal = _too_large(self.max_body)
        if refusal is None:
            return
        if has_not_begun or announced > sys.maxsize:  # a length that Tornado would answer itself, a second time
            raise refusal
        self._refuse(refusal)
        if announced > self.max_body + MAX_DISCARDED:
            self._refuse_early(refusal)

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self.max_body and self._refusal is None:
            self._received += chunk
            return
        self._received.clear()
        if self._size > self.max_body + MAX_DISCARDED and not self._headers_written:
            self._refuse_early(self._refusal or _too_large(self.max_body))

    def _refuse(self, problem: Problem) -> None:
        """
        Answer with *problem* in place of the method, once the client has sent its body, which is thrown away.

        Raised in ``prepare`` it would be answered at once, and Tornado would then hang up: see :meth:`_refuse_early`.
        """

        def refuse(*_: str) -> NoReturn:
            raise problem

        self._refusal = problem
        setattr(self, str(self.request.method).lower(), refuse)

    def _refuse_early(self, problem: Problem) -> None:
        """
        Answer while the client still sends, then hang up.

        Not at once: closing a socket with unread data resets it, and the answer would be lost on its way.
        """
        self._refuse(problem)
        body = self._compose(problem)
        self.set_header("Content-Length", len(body))
        self.set_header("Connection", "close")
        self.write(body)
        self.flush()
        asyncio.get_running_loop().call_later(LINGER, self._give_up)

    # Who asks.

    async def _reason_to_refuse(self) -> Problem | None:
        """Return why the request is not let in, whatever its body is; if it is, say who asks."""
        keys: Keyring | None = self.settings["keys"]
        if keys is None:
            self.principal = EVERYBODY
            return None
        try:
            if not _KEY_PARAMETERS.isdisjoint(map(str.lower, self.request.query_arguments)):
                raise Problem(400, "key-in-query", "Logs keep a path's query: send the key as Authorization: Bearer.")
            if not self.is_public:
                self.principal = self._authenticated(keys)
                await self._check_rate()
                self._check_scope()
        except (Problem, LedgerUnavailable) as exc:
            return problem_of(exc)
        return None

    def _authenticated(self, keys: Keyring) -> Principal:
        """
        Return whose key the request came with, or whose session.

        Raises:
            Problem: 401; 403 for a session in whose name some other site may have asked.
        """
        given = self.request.headers.get("Authorization")
        if given is not None:
            self.login = "key"
            scheme, _, key = given.partition(" ")
            principal = keys.find(key.strip(" ")) if scheme.lower() == "bearer" else None
        else:
            self.login = "session"
            principal = sessions.find(self, keys)
        if principal is None:
            detail = "This needs a valid API key, as Authorization: Bearer <key>."
            raise Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        if self.login == "session" and not sessions.is_from_our_page(self):
            detail = "With a session, Origin or Sec-Fetch-Site must say whose page this is from."
            raise Problem(403, "forbidden", detail)
        return principal

    def is_by_an_admin(self) -> bool:
        """Return whether an admin asks, where everybody gets an answer."""
        keys: Keyring | None = self.settings["keys"]
        try:
            return (EVERYBODY if keys is None else self._authenticated(keys)).is_admin
        except Problem:
            return False

    async def _check_rate(self) -> None:
        """Take the request off what the key may make. Without the ledger nothing is counted and all may go on."""
        if self.principal.rate is None:
            return
        try:
            self._allowance = await take(self.jobs.ledger, self.principal.key_id, self.principal.rate)
        except LedgerUnavailable:
            if self.needs_ledger:
                raise
            return
        for name, value in self._allowance.headers.items():
            self.set_header(name, value)
        if not self._allowance.is_granted:
            detail = f"More than {self.principal.rate} requests with this key."
            raise Problem(429, "rate-limited", detail, headers={"Retry-After": str(self._allowance.wait)})

    def _check_scope(self) -> None:
        method = str(self.request.method)
        if method not in self._allowed():
            return  # 405
        scope = self.scopes.get(method, "admin")
        if scope is not None and not self.principal.may(scope):
            raise Problem(403, "forbidden-scope", f"This key lacks the scope {scope}.")

    def read_body(self) -> bytes:
        """
        Return the body.

        Raises:
            Problem: 413.
        """
        if self._size > self.max_body:
            raise _too_large(self.max_body)
        return bytes(self._received)

    async def read_json(self, *, optional: bool = False, max_nodes: int = MAX_NODES) -> dict[str, Any]:
        """
        Return the body, a JSON object.

        Args:
            optional: Whether no body at all stands for an empty object.
            max_nodes: How many values it may have.

        Raises:
            Problem: 400, 413, 415.
        """
        body = self.read_body()
        if optional and not body:
            return {}
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type not in _JSON_TYPES and not media_type.endswith("+json"):
            raise Problem(415, "unsupported-media-type", "The body must be application/json.")
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Problem(415, "unsupported-media-type", "The body must not be compressed.")
        if self._size <= MAX_INLINE:
            return parse_body(body, max_nodes)
        return await asyncio.to_thread(parse_body, body, max_nodes)

    async def read_nothing(self) -> None:
        """
        Return if the body says nothing: there is none, or an empty object.

        Raises:
            Problem: As :meth:`read_json`; 422.
        """
        if body := await self.read_json(optional=True):
            faults = [Fault(f"/{key}", "Nothing is known here.") for key in body]
            raise Problem(422, "invalid-body", "The body does not fit.", faults=faults)

    def read_wait(self) -> int | None:
        """Return for how many seconds the client would wait, and tell it so; None for not at all."""
        self.add_header("Vary", "Prefer")
        wanted = preferences(self.request.headers.get_list("Prefer"), MAX_WAIT)
        if wanted.applied:
            self.set_header("Preference-Applied", wanted.applied)
        return wanted.wait

    # Writing.

    def write_json(self, document: Mapping[str, Any], status: int = 200) -> None:
        """Answer with *document*."""
        if self._headers_written:  # it was refused early
            self._give_up()
            return
        self.set_status(status)
        self.finish(representation.encode(document))

    def write_nothing(self) -> None:
        """Answer that there is nothing to say."""
        self.clear_header("Content-Type")
        self.set_status(204)
        self.finish()

    async def write_job(self, job: Job, status: int = 200) -> None:
        """Answer with a job, and when to ask again if it is not done."""
        if not job.done:
            self.set_header("Retry-After", str(await self.jobs.retry_after(job.record.task)))
        self.write_json(representation.job(job, traceback=self.principal.sees_tracebacks), status)

    def write_file(self, file: docs.File) -> None:
        """Answer with content that a client may keep as long as it asks whether it is still the same."""
        self.set_header("Content-Type", file.media_type)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Etag", file.etag)
        if self.check_etag_header():
            self.set_status(304)
            self.finish()
        else:
            self.finish(file.content)

    def see_other(self, path: str) -> None:
        """Lead to a path of ours, relatively: it holds under whatever prefix a proxy puts the service."""
        self.set_status(303)
        self.set_header("Location", "../" * (self.request.path.count("/") - 1) + path)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with a problem document. Tornado's own errors come through here too."""
        if self._left or self._headers_written:
            self._give_up()
            return
        self.finish(self._compose(problem_of(kwargs["exc_info"][1] if kwargs.get("exc_info") else None, status_code)))

    def _compose(self, problem: Problem) -> bytes:
        """Set status and headers for a problem, and return its document."""
        self.clear()
        self._name_request()
        self.set_header("Content-Type", CONTENT_TYPE)
        for name, value in problem.headers.items():
            self.set_header(name, value)
        if problem.status_code == 405:
            self.set_header("Allow", ", ".join(self._allowed()))
        self.set_status(problem.status_code)
        if problem.status_code == 401 and self.is_page and "text/html" in self.request.headers.get("Accept", ""):
            wanted = str(self.request.uri).lstrip("/") if self.request.method == "GET" else ""
            self.see_other(f"login?next={quote(wanted, safe='')}" if wanted else "login")
        return representation.encode(problem.document(self.request.path, self.trace))

    def _give_up(self) -> None:
        """End a request whose client is gone, or is in the middle of an answer that cannot be ended well."""
        if not self._headers_written:
            self.set_status(499, "Client Closed Request")  # nginx's word, for the log; nobody reads the answer
        if not self._finished:
            self.connection.close()
            self.finish()

    def _allowed(self) -> list[str]:
        return [name for name in self.SUPPORTED_METHODS if getattr(type(self), name.lower()) is not _UNIMPLEMENTED]

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log what nobody expected; the rest is in the access log."""
        if not isinstance(value, HTTPError | BridgeError | ClientLeft | StreamClosedError):
            self.settings["logger"].error("unexpected", exc_info=(typ, value, tb))

    # Clients that leave.

    async def unless_client_leaves(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what *work* returns; it is cancelled when the client hangs up, and :class:`ClientLeft` raised."""
        self._work = asyncio.ensure_future(work)
        if self._left:
            self._work.cancel()
        try:
            return cast(T, await self._work)
        except asyncio.CancelledError:
            if self._left:
                raise ClientLeft from None
            raise
        finally:
            self._work = None

    def on_connection_close(self) -> None:
        was_sending = not self.request._body_future.done()
        super().on_connection_close()
        self._left = True
        if self._work is not None:
            self._work.cancel()
        if was_sending:  # Tornado drops the request here, and never finishes it
            self.on_finish()

    def on_finish(self) -> None:
        if self._counted:
            self._counted = False
            self.lifecycle.request_ended()
            status = self.get_status()
            self._span.note({"http.response.status_code": status}, error=str(status) if status >= 500 else None)
            self._span.end()
            method = str(self.request.method)
            self.jobs.metrics.request(
                method if method in self.SUPPORTED_METHODS else "other",
                self.settings["routes"].get(type(self), "other"),
                status,
                self.request.request_time(),
            )
            self._record()

    def _record(self) -> None:
        """Put the request into the audit log, if it is one to change something and it is known who asked."""
        method, principal = str(self.request.method), getattr(self, "principal", None)
        if method in sessions.SAFE or principal is None:
            return
        made = self._headers.get("Location", "")
        entry: AuditEntry = {
            "at": representation.rfc3339(round(time.time() * 1000)),
            "key": principal.key_id or None,
            "owner": principal.owner,
            "login": self.login,
            "ip": self.request.remote_ip,
            "method": method,
            "path": self.request.path,
            "target": made if made.startswith("/v1/") else self.request.path,
            "status": self.get_status(),
            "request_id": self.trace.request_id,
        }
        self.jobs.audit.record(entry, is_submission=self.scopes.get(method) == "submit")


def _content_length(headers: HTTPHeaders) -> int:
    """Return how long the body is said to be; 0 for what Tornado will refuse as no number."""
    declared = headers.get("Content-Length", "")
    if not (declared.isascii() and declared.isdigit()):
        return 0
    return int(declared[:20])


def _too_large(most: int) -> Problem:
    return Problem(413, "body-too-large", f"The body is larger than {most:,} bytes.")


_UNIMPLEMENTED: Callable[..., Any] = RequestHandler.get
