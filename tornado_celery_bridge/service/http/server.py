"""
The HTTP server: Tornado's, with limits for a port that strangers can reach.

Theory of operation. A connection *waits* while its next request's header is not complete, and is *busy* from then on
until that request is answered. There is a bound on connections, of all and of each address. At the bound a new one
takes the place of the one that has waited for longest, of the same address if that is at its bound: so half-sent
requests and idle clients keep nobody out. If all are busy, the new one is refused. The first header has a deadline, and
a body a least rate. So has the reading of an answer, and there is a bound on what all clients together have not read:
at it those go that have read nothing for longest. If the process runs out of descriptors all the same, it accepts
nobody for a second, and says so in one line.
"""

import asyncio
import errno
import fcntl
import logging
import resource
import socket
import sys
import termios
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError

_log = logging.getLogger(__name__)

#: The most connections of a process, unless it may open fewer files, of which it keeps some for all else.
MOST, KEPT = 10_000, 100
#: Of them, what one address may have.
SHARE = 0.5
#: Descriptors that a process asks for.
DESCRIPTORS = 65_536
#: Seconds for the header of a connection's first request, and to wait for the next one.
FIRST_HEADER, IDLE = 10.0, 75.0
#: Bytes a second that a client has to send of a body, or to read of an answer, and seconds in which that is measured.
LEAST_RATE, WINDOW = 1024, 10.0
#: Bytes of answers that all clients together may leave unread, and how many requests may begin between two looks. Then
#: there are those that the kernel keeps of each connection: it would take 4 MB of its own, which nobody counts.
MOST_UNREAD, REQUESTS, SEND_BUFFER = 128 * 1024 * 1024, 64, 128 * 1024
#: Seconds between two looks at who is too slow, and between two lines about the same.
LOOK, QUIET = 2.0, 60.0
#: Seconds in which nobody is accepted once descriptors have run out.
PAUSE = 1.0
#: Bytes of a header that are read. A larger one is answered by hanging up.
MAX_HEADER = 64 * 1024
#: Connections that the kernel keeps for a busy process, as far as it may; one more is reset, or comes seconds late.
KEPT_BY_KERNEL = 4_096
#: Connections that are accepted in one turn of the loop.
BACKLOG = 128

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def raise_descriptors() -> None:
    """Let this process open as many files as it may, up to ``DESCRIPTORS``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """Return how many connections a process may have with the descriptors that it may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft - KEPT))


class Server(HTTPServer):
    """
    Tornado's HTTP server, with limits.

    Args:
        request_callback: An application.
        behind_proxy:
            Whether a proxy alone can connect. Then the client's address and scheme are those of ``X-Real-IP`` and
            ``X-Forwarded-Proto``, and no address has a share of its own: the proxy bounds its clients.
        options: Others of Tornado's.

    .. versionadded:: 0.1.0
    """

    def initialize(  # type: ignore[override]
        self, request_callback: Any, *, behind_proxy: bool = False, **options: Any
    ) -> None:
        """Set the limits."""
        given = {"max_header_size": MAX_HEADER, "idle_connection_timeout": IDLE, "decompress_request": False}
        super().initialize(request_callback, xheaders=behind_proxy, **(given | options))
        self.most = most_connections()
        self.most_of_one = self.most if behind_proxy else max(1, round(self.most * SHARE))
        self._addresses: dict[IOStream, str] = {}
        self._of_one: Counter[str] = Counter()
        #: Connections that wait, the longest first, with since when; those of the first header are in ``_first``, too.
        self._waiting: dict[IOStream, float] = {}
        self._first: set[IOStream] = set()
        #: WebSockets, which Tornado's server knows no more.
        self._detached: set[IOStream] = set()
        #: What is sent of bodies, and how much of it came until the last look.
        self._receiving: dict[_Request, int] = {}
        #: Whose client has not read all of an answer, the longest first, and how much it had read at the last look.
        self._unread: dict[IOStream, int] = {}
        self._begun = 0
        self._looking: asyncio.Task[None] | None = None
        self._refusals: set[asyncio.Task[None]] = set()
        self._told = 0.0

    # Accepting.

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these sockets."""
        with suppress(RuntimeError):  # before the loop runs it is too early
            asyncio.get_running_loop()
            self._begin_to_look()
        for each in sockets:
            self._sockets[each.fileno()] = each
            self._handlers[each.fileno()] = self._accept_from(each)

    def _accept_from(self, listening: socket.socket) -> Callable[[], None]:
        """Begin to accept; return what ends that."""
        loop, is_removed = IOLoop.current(), False

        def accept(*_: Any) -> None:
            for _turn in range(BACKLOG):
                try:
                    connection, address = listening.accept()
                except ConnectionAbortedError:
                    continue
                except BlockingIOError:
                    return
                except OSError as exc:  # no descriptor, or no memory: the listening socket stays readable
                    if exc.errno in (errno.EMFILE, errno.ENFILE) and self._make_room(None):
                        self.most = max(1, len(self._addresses))  # so many it can have
                        continue
                    self._tell(f"no connection can be accepted for a second: {exc.strerror}")
                    loop.remove_handler(listening)
                    loop.call_later(PAUSE, resume)
                    return
                self._handle_connection(connection, address)

        def resume() -> None:
            if not is_removed:
                loop.add_handler(listening, accept, IOLoop.READ)

        def remove() -> None:
            nonlocal is_removed
            is_removed = True
            with suppress(KeyError, ValueError):
                loop.remove_handler(listening)

        resume()
        return remove

    def stop(self) -> None:
        """Accept no more."""
        super().stop()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    # Connections.

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Take a new connection, or make room for it, or refuse it."""
        self._begin_to_look()
        host = str(address[0]) if isinstance(address, tuple) and address else ""
        if self._of_one[host] >= self.most_of_one:
            is_taken = self._make_room(host)
        else:
            is_taken = len(self._addresses) < self.most or self._make_room(None)
        if not is_taken:
            self._tell(f"a connection of {host or 'a socket'} was refused: {len(self._addresses)} are busy")
            refusal = asyncio.ensure_future(_refuse(stream))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)
            return
        with suppress(OSError):  # it has hung up
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._addresses[stream] = host
        self._of_one[host] += 1
        self._first.add(stream)
        self._waiting[stream] = time.monotonic()
        super().handle_stream(stream, address)

    def _make_room(self, host: str | None) -> bool:
        """Close the connection that has waited for longest, of one address or of all; return whether there is one."""
        for stream in self._waiting:
            if host is None or self._addresses[stream] == host:
                self._tell(f"there are {len(self._addresses)} connections: those that wait make room")
                self._close(stream)
                return True
        return False

    def _close(self, stream: IOStream) -> None:
        self._forget(stream)
        stream.close()

    def _forget(self, stream: IOStream) -> None:
        host = self._addresses.pop(stream, None)
        self._waiting.pop(stream, None)
        self._first.discard(stream)
        self._unread.pop(stream, None)
        if host is not None:
            self._of_one[host] -= 1
            if not self._of_one[host]:
                del self._of_one[host]

    def on_close(self, server_conn: object) -> None:
        """Forget a connection that has ended."""
        stream = cast(HTTP1ServerConnection, server_conn).stream
        if stream.closed():
            self._forget(stream)
        else:
            self._waiting.pop(stream, None)
            self._first.discard(stream)
            self._detached.add(stream)
        super().on_close(server_conn)

    # Requests.

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Wait for a connection's next request."""
        stream = cast(HTTP1ServerConnection, server_conn).stream
        if stream in self._addresses:
            self._waiting.setdefault(stream, time.monotonic())
        return _Request(self, stream, super().start_request(server_conn, request_conn))

    def begun(self, request: "_Request", *, has_body: bool) -> None:
        """Note that a request's header is complete."""
        self._waiting.pop(request.stream, None)
        self._first.discard(request.stream)
        self._begun += 1
        if not self._begun % REQUESTS:
            self._look_at_readers()
        if has_body:
            self._receiving[request] = 0

    def received(self, request: "_Request") -> None:
        """Note that a request's body is complete, or its client gone."""
        self._receiving.pop(request, None)

    def _begin_to_look(self) -> None:
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        """Close, again and again, the connections of those who are too slow."""
        while True:
            for _ in range(round(WINDOW / LOOK)):
                await asyncio.sleep(LOOK)
                for stream in [each for each in self._detached if each.closed()]:
                    self._detached.discard(stream)
                    self._forget(stream)
                late = time.monotonic() - FIRST_HEADER
                for stream in [each for each in self._first if self._waiting.get(each, late) < late]:
                    self._close(stream)
                self._look_at_readers()
            for stream, before in list(self._unread.items()):
                self._unread[stream] = _taken(stream)
                if before >= 0 and self._unread[stream] - before < LEAST_RATE * WINDOW:
                    self._tell("an answer was read too slowly: its connection is closed")
                    self._close(stream)
            for request, before in list(self._receiving.items()):
                # In its first window a request may have begun a moment ago.
                if request.is_old and request.size - before < LEAST_RATE * WINDOW:
                    self._tell("a body came too slowly: its connection is closed")
                    request.stream.close()
                elif request in self._receiving:
                    self._receiving[request], request.is_old = request.size, True

    def _look_at_readers(self) -> None:
        """See who has not read all of an answer, and close whom there is no room for."""
        unread = {stream: len(stream._write_buffer) for stream in self._addresses if stream.writing()}
        self._unread = {stream: self._unread.get(stream, -1) for stream in [*self._unread, *unread] if stream in unread}
        total = sum(unread.values())
        for stream in list(self._unread):
            if total <= MOST_UNREAD:
                break
            self._tell(f"{total:,} bytes of answers are not read: connections are closed")
            total -= unread[stream]
            self._close(stream)

    def _tell(self, message: str) -> None:
        """Log, and then be quiet for a while: an attacker does not decide how long the log is."""
        if (now := time.monotonic()) > self._told + QUIET or not self._told:
            self._told = now
            _log.warning("%s (this is not said again for %.0f s)", message, QUIET)


class _Request(HTTPMessageDelegate):
    """Passes a request on, and tells the server how far it is."""

    def __init__(self, server: Server, stream: IOStream, inner: HTTPMessageDelegate) -> None:
        self.stream = stream
        #: Bytes of the body that have come.
        self.size = 0
        #: Whether it was there at the last look.
        self.is_old = False
        self._server = server
        self._inner = inner

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._server.begun(self, has_body="Content-Length" in headers or "Transfer-Encoding" in headers)
        if start_line.path.startswith(("http://", "https://", "HTTP://", "HTTPS://")):
            start_line = _origin_form(start_line, headers)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self.size += len(chunk)
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._server.received(self)
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._server.received(self)
        self._inner.on_connection_close()


def _taken(stream: IOStream) -> int:
    """Return how many bytes of answers a client's machine has taken: those that were written, but for the kernel's."""
    try:
        kept = fcntl.ioctl(stream.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # it is no socket of TCP
        kept = bytes(4)
    return stream._total_write_done_index - int.from_bytes(kept, sys.byteorder)


async def _refuse(stream: IOStream) -> None:
    with suppress(StreamClosedError):
        await stream.write(_FULL)
    stream.close()


def _origin_form(start_line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """Return a request for a whole URL as one for its path. Its ``Host`` is the URL's: RFC 9112, section 3.2.2."""
    try:
        parts = urlsplit(start_line.path)
    except ValueError:
        return start_line  # it will not be found
    headers["Host"] = parts.netloc
    path = parts.path or "/"
    return start_line._replace(path=f"{path}?{parts.query}" if parts.query else path)
