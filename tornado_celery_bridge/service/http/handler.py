"""What all handlers share: limits, JSON in and out, problems, and clients that leave. They know no keys."""

import asyncio
import gzip
import logging
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, stream_request_body

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.base.logs import quoted
from tornado_celery_bridge.base.tracing import Span
from tornado_celery_bridge.handlers import ClientLeft, UntilClientLeaves
from tornado_celery_bridge.ledger import MAX_INLINE
from tornado_celery_bridge.service.http import problems
from tornado_celery_bridge.service.http.body import MAX_NODES, parse_body
from tornado_celery_bridge.service.http.conditions import encoded, etag_of
from tornado_celery_bridge.service.http.json import Encoded, encode
from tornado_celery_bridge.service.http.lifecycle import Lifecycle
from tornado_celery_bridge.service.http.origins import is_foreign
from tornado_celery_bridge.service.http.problems import Problem, problem_of
from tornado_celery_bridge.service.http.trace import Trace, current, current_job, valid
from tornado_celery_bridge.service.http.turns import Turns

_log = logging.getLogger(__name__)
_access = logging.getLogger("tornado_celery_bridge.access")

#: Bytes of a body that are kept and looked at, unless the deployment says otherwise.
MAX_BODY = 1024 * 1024
#: Bytes beyond it that are read and thrown away, so that the client has sent all and reads the answer.
MAX_DISCARDED = 8 * MAX_BODY
#: Seconds for a client whose body is larger than even that to read that it was refused.
LINGER = 2.0
#: Bytes of a document from which on it is compressed.
COMPRESSED = 16 * 1024
#: Objects in a list from which on each of them is encoded in its turn.
MANY = 20
#: Characters of a request's target, and of its header's fields.
MAX_TARGET, MAX_FIELDS = 8_000, 16 * 1024
#: Methods that change nothing.
SAFE = ("GET", "HEAD", "OPTIONS")

# `curl -d` says that its body is a form. It is read as JSON all the same.
_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")


class File(NamedTuple):
    """Content that stays the same while the process lives."""

    content: bytes
    media_type: str
    #: The entity tag of the content as it is.
    etag: str
    #: The content, compressed; None for one that is small.
    compressed: bytes | None = None


class Site(Protocol):
    """What a handler needs of the service that it belongs to. Each rule gives it to its handler."""

    #: What all paths begin with; empty at the root.
    prefix: str
    #: Bytes of a body that are kept and looked at.
    max_body: int
    #: How far the process is from its end.
    lifecycle: Lifecycle
    #: For work of which a request may bring many pieces.
    turns: Turns

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""


@stream_request_body
class Handler(UntilClientLeaves):
    """
    What all handlers share: limits, JSON, problems, and the end of a request whose client left.

    Bodies are streamed, so Tornado does not parse them as forms, and at most ``max_body`` bytes are kept. Nothing here
    looks at the application's settings: the application may be somebody else's.
    """

    service: Site
    #: The media type of a body.
    body_media_type: ClassVar[str] = "application/json"
    #: The path as metrics and spans name it.
    route_name: ClassVar[str] = "other"
    #: Which request this is.
    trace: Trace
    #: The id of the key that the request came with, for the log; empty without one.
    key_id: str = ""
    #: Whether JSON that is answered has an entity tag; and which version it shows of something that has versions.
    has_etag: bool = False
    version: int | None = None

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        self.service = kwargs["service"]  # before the default headers are set
        super().__init__(application, request, **kwargs)

    def initialize(self, service: Site, **options: Any) -> None:
        for name, value in options.items():
            setattr(self, name, value)
        given = valid(self.request.headers.get("traceparent"))
        self._span = self._begin_span(given)
        self.trace = Trace.begun(self._span.headers().get("traceparent") or given)
        current.set(self.trace)  # of the connection's task, whose requests come one after another
        self._span.enter()  # likewise
        current_job.set(None)
        self._received = bytearray()
        self._size = 0
        self._counted = True
        self._refusal: Problem | None = None
        self.service.lifecycle.request_began()
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
        route = self.route_name
        if is_known := route != "other":
            attributes["http.route"] = self.service.prefix + route
        parent = {"traceparent": traceparent, "tracestate": self.request.headers.get("tracestate")}
        name = f"{method} {self.service.prefix}{route}" if is_known else method
        return Span("server", name, attributes, parent=parent if traceparent else {})

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        if self.service.lifecycle.closing.is_set():
            self.set_header("Connection", "close")

    def _name_request(self) -> None:
        self.set_header("X-Request-Id", self.trace.request_id)
        self.set_header("traceparent", self.trace.traceparent)

    def compute_etag(self) -> None:
        """Make none: nothing here is to be stored."""

    def check_xsrf_cookie(self) -> None:
        """Look for no cookie, whatever the application's settings are: :meth:`prepare` looks at a page's origin."""

    # Reading.

    @property
    def connection(self) -> HTTP1Connection:
        """The connection, which is HTTP/1 as Tornado knows no other."""
        return cast(HTTP1Connection, self.request.connection)

    async def prepare(self) -> None:
        self.connection.set_max_body_size(sys.maxsize)  # our own limit answers properly; Tornado's hangs up
        if self.request.method not in SAFE and is_foreign(self.request, self._is_trusted):
            raise problems.FORBIDDEN("Forbidden.")
        announced = _content_length(self.request.headers)
        has_not_begun = self.request.headers.get("Expect", "").lower() == "100-continue"
        refusal = self._header_refusal() or await self.reason_to_refuse()
        if refusal is None and announced > self.service.max_body + (0 if has_not_begun else MAX_DISCARDED):
            refusal = _too_large(self.service.max_body)
        if refusal is None:
            return
        if has_not_begun or announced > sys.maxsize:  # a length that Tornado would answer itself, a second time
            raise refusal
        self._refuse(refusal)
        if announced > self.service.max_body + MAX_DISCARDED:
            self._refuse_early(refusal)

    def _header_refusal(self) -> Problem | None:
        """Return what is too large before the body, if anything is."""
        if len(self.request.uri or "") > MAX_TARGET:
            return problems.URI_TOO_LONG(f"A path with its query has at most {MAX_TARGET:,} characters.")
        if sum(len(name) + len(value) for name, value in self.request.headers.get_all()) > MAX_FIELDS:
            return problems.HEADER_TOO_LARGE(f"The header's fields have at most {MAX_FIELDS:,} characters.")
        return None

    def _is_trusted(self, origin: str) -> bool:
        return origin in self.settings.get("trusted_origins", ())

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self.service.max_body and self._refusal is None:
            self._received += chunk
            return
        self._received.clear()
        if self._size > self.service.max_body + MAX_DISCARDED and not self._headers_written:
            self._refuse_early(self._refusal or _too_large(self.service.max_body))

    def _refuse(self, problem: Problem) -> None:
        """
        Answer with *problem* in place of the method, once the client has sent its body, which is thrown away.

        Raised in ``prepare`` it would be answered at once, and Tornado would then hang up: see :meth:`_refuse_early`.
        """

        def refuse(*_: str, **__: str) -> NoReturn:
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

    async def reason_to_refuse(self) -> Problem | None:
        """Return why the request is not let in, whatever its body is; None if it is."""
        return None

    @property
    def size(self) -> int:
        """Bytes that the body had."""
        return self._size

    def read_body(self) -> bytes:
        """
        Return the body.

        Raises:
            Problem: 413.
        """
        if self._size > self.service.max_body:
            raise _too_large(self.service.max_body)
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
        is_patch = self.request.method == "PATCH"  # another kind of patch would mean something else
        is_json = media_type in _JSON_TYPES or media_type.endswith("+json")
        if not is_json or (is_patch and media_type not in (*_JSON_TYPES, self.body_media_type)):
            headers = {"Accept-Patch": self.body_media_type} if is_patch else {}
            raise problems.UNSUPPORTED_MEDIA_TYPE(f"The body must be {self.body_media_type}.", headers=headers)
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise problems.UNSUPPORTED_MEDIA_TYPE("The body must not be compressed.")
        if self._size <= MAX_INLINE:
            return parse_body(body, max_nodes)
        return await asyncio.to_thread(parse_body, body, max_nodes)

    # Writing.

    async def write_json(self, document: Mapping[str, Any]) -> None:
        """Answer with *document*, compressed if it is large and the client takes that."""
        if self._headers_written:  # it was refused early
            self._give_up()
            return
        body = await self._encoded(document)
        etag = etag_of(body, self.version) if self.has_etag or self.version is not None else None
        if len(body) >= COMPRESSED:
            self.add_header("Vary", "Accept-Encoding")
            if self._takes_gzip():
                body = await asyncio.to_thread(gzip.compress, body, 5)
                etag = None if etag is None else encoded(etag, "gzip")
                self.set_header("Content-Encoding", "gzip")
        if self._client_left:
            self._give_up()
        elif etag is None or not self.is_current(etag):
            self.finish(body)

    async def _encoded(self, document: Mapping[str, Any]) -> bytes:
        """Return *document* as JSON. Of a long list, each object is encoded in its turn."""
        if not any(map(_is_long, document.values())):
            return encode(document)
        return b"{%s}" % b",".join([encode(name) + b":" + await self._member(document[name]) for name in document])

    async def _member(self, value: Any) -> bytes:
        return b"[%s]" % b",".join([await self._element(each) for each in value]) if _is_long(value) else encode(value)

    async def _element(self, value: Any) -> bytes:
        if isinstance(value, Encoded):
            return value
        await self.service.turns.take()
        return encode(value)

    def _takes_gzip(self) -> bool:
        """Return whether the client takes gzip: RFC 9110, section 12.5.3."""
        for given in self.request.headers.get("Accept-Encoding", "").lower().split(","):
            name, _, weight = given.partition(";")
            if name.strip() in ("gzip", "x-gzip"):
                return weight.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
        return False

    def write_nothing(self) -> None:
        """Answer that there is nothing to say."""
        self.clear_header("Content-Type")
        self.set_status(204)
        self.finish()

    def is_current(self, etag: str) -> bool:
        """Tell the client the content's entity tag; if it has this content already, answer 304 and return True."""
        self.set_header("Etag", etag)
        if self.request.method not in SAFE or not self.check_etag_header():
            return False
        self.set_status(304)
        self.finish()
        return True

    def write_file(self, file: File) -> None:
        """Answer with content that a client may keep as long as it asks whether it is still the same."""
        self.set_header("Content-Type", file.media_type)
        self.set_header("Cache-Control", "no-cache")
        content, etag = file.content, file.etag
        if file.compressed is not None:
            self.add_header("Vary", "Accept-Encoding")
            if self._takes_gzip():
                content, etag = file.compressed, encoded(etag, "gzip")
                self.set_header("Content-Encoding", "gzip")
        if not self.is_current(etag):
            self.finish(content)

    def see_other(self, path: str) -> None:
        """Lead to a path of the service's, relatively: it holds under whatever prefix a proxy puts it."""
        self.set_status(303)
        levels = self.request.path.count("/") - self.service.prefix.count("/") - 1
        self.set_header("Location", "../" * levels + path)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with a problem document. Tornado's own errors come through here too."""
        if self._client_left or self._headers_written:
            self._give_up()
            return
        self.finish(self._compose(problem_of(kwargs["exc_info"][1] if kwargs.get("exc_info") else None, status_code)))

    def _compose(self, problem: Problem) -> bytes:
        """Set status and headers for a problem, and return its document."""
        self.clear()
        self._name_request()
        self.set_header("Content-Type", problems.CONTENT_TYPE)
        for name, value in problem.headers.items():
            self.set_header(name, value)
        if problem.status_code == 405:
            self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.set_status(problem.status_code)
        return encode(problem.document(self.request.path, self.trace))

    def allowed_methods(self) -> tuple[str, ...]:
        """Return the methods that the path has."""
        return self.SUPPORTED_METHODS

    def _give_up(self) -> None:
        """End a request whose client is gone, or is in the middle of an answer that cannot be ended well."""
        if not self._headers_written:
            self.set_status(499, "Client Closed Request")  # nginx's word, for the log; nobody reads the answer
        if not self._finished:
            self.connection.close()
            self.finish()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what nobody expected; the rest is in the access log."""
        if not isinstance(value, HTTPError | BridgeError | ClientLeft | StreamClosedError):
            _log.error("unexpected", exc_info=(typ, value, tb))

    # The end.

    def on_connection_close(self) -> None:
        was_sending = not self.request._body_future.done()
        super().on_connection_close()
        if was_sending:  # Tornado drops the request here, and never finishes it
            self.on_finish()

    def on_finish(self) -> None:
        if self._counted:
            self._counted = False
            self.service.lifecycle.request_ended()
            status = self.get_status()
            self._span.note({"http.response.status_code": status}, error=str(status) if status >= 500 else None)
            self._span.end()
            method = str(self.request.method)
            method = method if method in self.SUPPORTED_METHODS else "other"
            self.service.count_request(method, self.route_name, status, self.request.request_time())
            self.on_counted()

    def on_counted(self) -> None:
        """Do what else there is to do after a request was answered, once."""

    def _log(self) -> None:
        """
        Log the answered request, whatever log function the application has. Tornado lets this method be overridden.

        Neither the query nor the body is logged: they may hold anything.
        """
        status, request = self.get_status(), self.request
        fields = {
            "method": request.method,
            "path": request.path,
            "status": status,
            "ms": round(1000 * request.request_time(), 1),
            "ip": request.remote_ip,
            "key": self.key_id or "-",
        }
        _access.log(
            logging.INFO if status < 500 else logging.WARNING,
            " ".join(f"{name}=%s" for name in fields),
            *map(quoted, fields.values()),
            extra={"trace": self.trace, "fields": fields},
        )


def _content_length(headers: HTTPHeaders) -> int:
    """Return how long the body is said to be; 0 for what Tornado will refuse as no number."""
    declared = headers.get("Content-Length", "")
    if not (declared.isascii() and declared.isdigit()):
        return 0
    return int(declared[:20])


def _is_long(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return isinstance(value[0], Encoded) or (len(value) >= MANY and isinstance(value[0], dict))


def _too_large(most: int) -> Problem:
    return problems.BODY_TOO_LARGE(f"The body is larger than {most:,} bytes.")
