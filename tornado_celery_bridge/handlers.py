"""A mixin for Tornado handlers, and a server's orderly end. This is the only module of the library that knows HTTP."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar, cast

from tornado.gen import convert_yielded
from tornado.httpserver import HTTPServer
from tornado.log import app_log
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from tornado_celery_bridge.bridge.bridge import Bridge
from tornado_celery_bridge.exceptions import BridgeError

__all__ = ("ClientLeft", "Requests", "TaskHandlerMixin", "UntilClientLeaves", "drain")

T = TypeVar("T")

#: What a WebSocket is closed with when its process ends.
GOING_AWAY, GOING = 1001, "the server is going down"
#: Seconds for clients to answer that.
HANDSHAKE = 1.0

#: In an application's settings: the requests that its handlers answer.
_REQUESTS = "tornado_celery_bridge.requests"


class ClientLeft(Exception):
    """
    The client hung up before it was answered. Nobody reads an answer any more.

    .. versionadded:: 0.1.0
    """


class Requests:
    """
    The requests under way in a process, so that it can end when they have ended.

    .. versionadded:: 0.1.0
    """

    def __init__(self) -> None:
        #: Set when the process is about to end: streams should.
        self.closing = asyncio.Event()
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()
        #: The WebSockets that are open, and how many calls each has under way.
        self._sockets: Counter[WebSocketHandler] = Counter()
        self._no_socket = asyncio.Event()
        self._no_socket.set()

    def request_began(self) -> None:
        """Count a request that is being answered."""
        self._requests += 1
        self._idle.clear()

    def request_ended(self) -> None:
        """Stop counting it."""
        self._requests -= 1
        if not self._requests:
            self._idle.set()

    @contextmanager
    def socket_open(self, socket: WebSocketHandler) -> Iterator[None]:
        """Have a WebSocket be closed in order when the process ends. It is open for as long as the block takes."""
        self._sockets[socket] = 0
        self._no_socket.clear()
        try:
            yield
        finally:
            del self._sockets[socket]
            if not self._sockets:
                self._no_socket.set()

    async def answer(self, socket: WebSocketHandler, work: Awaitable[T]) -> T:
        """Return what *work* returns: what a WebSocket's message began counts as a request."""
        self.request_began()
        self._sockets[socket] += 1
        try:
            return await work
        finally:
            self.request_ended()
            if socket in self._sockets:
                self._sockets[socket] -= 1
                if self.closing.is_set() and not self._sockets[socket]:
                    socket.close(GOING_AWAY, GOING)

    async def end(self, timeout: float) -> None:
        """
        Let the requests under way end, for up to *timeout* seconds.

        A WebSocket is closed when nothing that it asked for is under way, or when the time is over: with 1001, "going
        away", such as a server going down (https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1).
        """
        self.closing.set()
        for socket in [socket for socket, calls in self._sockets.items() if not calls]:
            socket.close(GOING_AWAY, GOING)
        if not await _is_set_within(self._idle, timeout):
            app_log.warning("%d requests are cut off: they did not end within %s s", self._requests, timeout)
        for socket in [*self._sockets]:
            socket.close(GOING_AWAY, GOING)
        await _is_set_within(self._no_socket, HANDSHAKE)

    async def _is_idle_within(self, seconds: float) -> bool:
        return await _is_set_within(self._idle, seconds)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def drain(server: HTTPServer, timeout: float, requests: Requests | None = None) -> None:
    """
    End a server in order: it takes no new connections, lets the requests under way end, and closes the connections.

    Call it before the bridge is closed, which the requests still need::

        async with Bridge(app) as bridge:
            server = Application(handlers, bridge=bridge).listen(8888)
            await stop.wait()  # set by a signal
            await drain(server, timeout=10.0)

    Args:
        server: Of an application whose handlers have :class:`TaskHandlerMixin`; other handlers are not waited for.
        timeout: Seconds for the requests under way, and what messages of WebSockets began. After that they are cut off.
            WebSockets are closed with 1001, each as soon as nothing that it asked for is under way.
        requests: Who counts the requests; None: the mixin.

    .. versionadded:: 0.1.0
    """
    server.stop()
    await (requests or _requests_of(cast(Application, server.request_callback))).end(timeout)
    await server.close_all_connections()


def _requests_of(application: Application) -> Requests:
    requests: Requests = application.settings.setdefault(_REQUESTS, Requests())
    return requests


class UntilClientLeaves(RequestHandler):
    """
    Ends what a handler awaits when the client hangs up.

    .. versionadded:: 0.1.0
    """

    _client_left = False
    _awaited: "asyncio.Future[Any] | None" = None

    async def unless_client_leaves(self, work: Awaitable[T]) -> T:
        """
        Return what *work* returns. It is cancelled when the client hangs up::

            result = await self.bridge.dispatch(count.s())
            try:
                self.write({"count": await self.unless_client_leaves(result)})
            except ClientLeft:
                await self.bridge.revoke(result, terminate=True)

        Raises:
            ClientLeft: The client hung up. Without an `except` of its own the request just ends.
        """
        self._awaited = asyncio.ensure_future(work)
        if self._client_left:
            self._awaited.cancel()
        try:
            return cast(T, await self._awaited)
        except asyncio.CancelledError:
            if self._client_left:
                raise ClientLeft from None
            raise
        finally:
            self._awaited = None

    def on_connection_close(self) -> None:
        """Note that the client left. A handler that overrides this calls it as well."""
        super().on_connection_close()
        self._client_left = True
        if self._awaited is not None:
            self._awaited.cancel()


class TaskHandlerMixin(UntilClientLeaves):
    """
    Gives a handler the application's bridge, and answers errors of the bridge with their ``http_status_hint``.

    Put the bridge into the application's settings: ``Application(handlers, bridge=bridge)``. :func:`drain` waits for
    the requests of such handlers.

    .. versionadded:: 0.1.0
    """

    _written: "asyncio.Future[None] | None" = None

    async def _execute(self, *args: Any, **kwargs: Any) -> None:
        # Tornado's own frame around prepare, the method and finish: no override of these goes around it.
        requests = _requests_of(self.application)
        if isinstance(self, WebSocketHandler):
            self._count_calls(requests)
            with requests.socket_open(self):
                await super()._execute(*args, **kwargs)
            return
        requests.request_began()
        try:
            await super()._execute(*args, **kwargs)
            if self._written is not None and not self._written.done():  # a large answer: whoever closes cuts it off
                await asyncio.wait([self._written])
        finally:
            requests.request_ended()

    def _count_calls(self, requests: Requests) -> None:
        """Have what a WebSocket's opening and each of its messages begins count as a request."""
        socket: Any = self

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                made = call(*args, **kwargs)
                return None if made is None else requests.answer(socket, convert_yielded(made))

            return run

        socket.open, socket.on_message = counted(socket.open), counted(socket.on_message)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "asyncio.Future[None]":
        """Answer; see :meth:`tornado.web.RequestHandler.finish`."""
        self._written = super().finish(chunk)
        return self._written

    @property
    def bridge(self) -> Bridge:
        """The application's bridge."""
        bridge: Bridge = self.settings["bridge"]
        return bridge

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with an error. A :class:`BridgeError` has its own status and ``Retry-After``."""
        if self._client_left and not self._finished:  # nobody reads an answer
            self.set_status(499, "Client Closed Request")  # nginx's word, for the log
            self.finish()
            return
        error = _bridge_error(kwargs.get("exc_info"))
        super().send_error(status_code if error is None else error.http_status_hint, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write the body of the error; see :meth:`tornado.web.RequestHandler.write_error`."""
        error = _bridge_error(kwargs.get("exc_info"))
        if error is not None and error.retry_after is not None:
            self.set_header("Retry-After", str(max(1, round(error.retry_after))))
        super().write_error(status_code, **kwargs)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log a :class:`BridgeError` in one line, and any other exception as Tornado does."""
        if isinstance(value, ClientLeft):
            app_log.info("%s %s: the client left", self.request.method, self.request.path)
        elif isinstance(value, BridgeError):
            app_log.warning("%s %s: %s", self.request.method, self.request.path, value)
        else:
            super().log_exception(typ, value, tb)


def _bridge_error(exc_info: Any) -> BridgeError | None:
    error = exc_info[1] if exc_info else None
    return error if isinstance(error, BridgeError) else None
