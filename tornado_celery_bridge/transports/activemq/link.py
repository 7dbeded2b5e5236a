"""
One connection to an ActiveMQ broker: what is sent is confirmed in time, and a dead connection is noticed.

stomp.py reads and writes frames and heart-beats, in two threads for each connection. It connects and closes in ways
that do not suit us; `_Wire` does it differently:

- it tries the hosts in the order given, without pauses, each with its share of one timeout;
- a write that the other side does not read ends after a time (else it hangs for ever, and the heart-beats behind it);
- a TLS connection that the other side closed has ended (stomp.py would read on, in a loop), and a half-open one can be
  closed (stomp.py would wait for the other side).

A frame that is to be confirmed has one of the three outcomes of :mod:`tornado_celery_bridge.transports.core`.
"""

import itertools
import logging
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import stomp
from kombu.exceptions import ChannelError
from stomp.protocol import Protocol12
from stomp.transport import Transport as StompTransport
from stomp.utils import Frame, PollableQueue, default_create_thread

from tornado_celery_bridge.base.forks import OfOneProcess, without_signals
from tornado_celery_bridge.transports.activemq.dialect import Dialect, dialect_of
from tornado_celery_bridge.transports.activemq.settings import Settings
from tornado_celery_bridge.transports.core import AccessRefused, NotSent, Refused, SentInDoubt, WrongServer
from tornado_celery_bridge.transports.servers import ActiveMQ, server_of_stomp

log = logging.getLogger(__name__)

#: What is said of a broker that is another.
FOR = "activemq:// is for ActiveMQ and ActiveMQ Artemis alone, as each server has its own words in STOMP"
#: Seconds for the broker to answer a DISCONNECT: it has then read all that was sent.
GOODBYE = 1.0
#: A connection is dead after so many times the heart-beat's interval: after any other frame the broker leaves one out.
GRACE = 2.5
#: How often we send a heart-beat in the interval that we promise. The broker looks once in it, and may miss one.
BEATS = 2


class Link(OfOneProcess, stomp.ConnectionListener):
    """
    A connection, made.

    Args:
        settings: Where the broker is, and how long things may take.
        on_message: Gets each message that comes, in a thread of stomp.py's.
        on_lost: Called there, once, when the connection is lost.

    Raises:
        AccessRefused: The broker does not let us in.
        OSError: No host can be reached, or none answers as a broker.
    """

    def __init__(
        self, settings: Settings, on_message: Callable[[Frame], None], on_lost: Callable[[ConnectionError], None]
    ) -> None:
        super().__init__()
        self._settings = settings
        self._on_message, self._on_lost = on_message, on_lost
        self._numbers = itertools.count(1)
        self._confirming: dict[str, Future[None]] = {}
        #: Of subscriptions whose messages go to somebody who waits for them.
        self._private: dict[str, SimpleQueue[Frame]] = {}
        self._lost: ConnectionError | None = None
        #: What the broker says that it is, and how it is talked to.
        self.server = ActiveMQ()
        self.dialect = Dialect()
        self._wire, self._protocol = self._connect()

    @property
    def is_alive(self) -> bool:
        """Whether frames can be sent, as far as is known; never in a forked child."""
        return self._lost is None and self.is_mine

    @property
    def patience(self) -> float:
        """Seconds to wait for an answer."""
        return self._settings.confirm_timeout

    # Sending.

    def send(self, command: str, headers: Mapping[str, Any], body: bytes = b"") -> None:
        """
        Send a frame, without waiting for anything.

        Raises:
            NotSent: The connection was lost before, or is another process'.
            SentInDoubt: It was lost meanwhile.
        """
        if not self.is_alive:
            raise NotSent(str(self._lost or "the connection to the broker is another process'"))
        if command == "SEND":
            headers = {**self.dialect.to_send(headers["destination"]), **headers}
        try:
            self._protocol.send_frame(command, {"content-length": len(body), **headers} if body else {**headers}, body)
        except Exception as exc:  # of the socket or stomp.py; or an attribute that stomp.py has just removed
            self._lose(SentInDoubt(f"the connection to the broker was lost: {exc!r}"))
            raise SentInDoubt(f"the connection to the broker was lost: {exc!r}") from exc

    def request(self, command: str, headers: Mapping[str, Any], body: bytes = b"") -> None:
        """
        Send a frame, and return when the broker has it.

        Raises:
            Refused, NotSent: The broker does not have it.
            SentInDoubt: It may have it; the connection counts as lost.
        """
        self.request_all([(command, headers, body)], GOODBYE if command == "DISCONNECT" else None)

    def request_all(self, frames: Iterable[tuple[str, Mapping[str, Any], bytes]], timeout: float | None = None) -> None:
        """
        Send frames, and return when the broker has them all.

        Raises:
            NotSent: It has none of them.
            Refused: It does not have one of them, of which the error tells.
            SentInDoubt: It may have them; the connection counts as lost.
        """
        timeout = timeout or self._settings.confirm_timeout
        confirmed: dict[str, Future[None]] = {}
        try:
            for command, headers, body in frames:
                receipt = f"r{next(self._numbers)}"
                confirmed[receipt] = self._confirming[receipt] = Future()
                try:
                    self.send(command, {**headers, "receipt": receipt}, body)
                except NotSent as exc:
                    raise exc if len(confirmed) == 1 else SentInDoubt(str(exc)) from exc
            deadline = time.monotonic() + timeout
            for each in confirmed.values():
                each.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            error = SentInDoubt(f"the broker did not confirm what was sent within {timeout} s")
            self._lose(error)
            raise error from None
        finally:
            for receipt in confirmed:
                self._confirming.pop(receipt, None)

    # Receiving.

    def new_name(self) -> str:
        """Return a name for a subscription: who gets its messages must be known before they come."""
        return f"s{next(self._numbers)}"

    def subscribe(self, name: str, destination: str, headers: Mapping[str, Any], *, confirmed: bool = False) -> None:
        """Subscribe. If *confirmed*, return when the broker has it: then no message is missed."""
        headers = {"id": name, "destination": destination, **self.dialect.to_subscribe(destination), **headers}
        (self.request if confirmed else self.send)("SUBSCRIBE", headers)

    def unsubscribe(self, subscription: str) -> None:
        """End a subscription; the broker gives what was not acknowledged to others."""
        self.send("UNSUBSCRIBE", {"id": subscription})

    @contextmanager
    def listening(self, destination: str, headers: Mapping[str, Any]) -> Iterator["Listening"]:
        """Subscribe for the length of a block, with the messages to be taken in it."""
        listening = Listening(self.new_name())
        self._private[listening.name] = listening.frames
        try:
            self.subscribe(listening.name, destination, headers, confirmed=True)
            yield listening
            if not listening.keep:
                self.unsubscribe(listening.name)
        finally:
            del self._private[listening.name]

    # Ending.

    def close(self) -> None:
        """End the connection when the broker has read all that was sent, or after a second."""
        if self.is_alive:
            with suppress(OSError, ChannelError):
                self.request("DISCONNECT", {})
        self.abort()

    def abort(self) -> None:
        """End the connection now; the broker gives what was not acknowledged to others."""
        self._on_lost = lambda error: None
        if self.is_mine:  # else the parent's socket would be shut
            self._lose(NotSent("the connection to the broker was closed"))

    def _lose(self, error: ConnectionError) -> None:
        if self._lost is None:
            self._lost = error
            self._on_lost(error)
        for confirmed in [*self._confirming.values()]:
            with suppress(Exception):  # it is done
                confirmed.set_exception(SentInDoubt(str(error)))
        self._wire.disconnect_socket()

    # Connecting.

    def _connect(self) -> tuple["_Wire", Any]:
        settings, error = self._settings, OSError("no host is given")
        share = settings.connect_timeout / max(1, len(settings.hosts))
        for host in settings.hosts:
            try:
                return self._connect_to(host, share)
            except AccessRefused:
                raise
            except OSError as exc:
                error = type(exc)(f"{host[0]}:{host[1]}: {exc}")
        raise error

    def _connect_to(self, host: tuple[str, int], timeout: float) -> tuple["_Wire", Any]:
        settings = self._settings
        self._wire = wire = _Wire(host, settings.tls, timeout, settings.confirm_timeout)
        beats = int(settings.heartbeat * 1000)
        protocol = _Protocol(wire, (beats, beats), heart_beat_receive_scale=GRACE)
        wire.set_listener("link", self)
        self._connected: Future[None] = Future()
        try:
            wire.start()
            protocol.connect(settings.user, settings.password)
            self._connected.result(timeout)
        except Exception as exc:
            wire.remove_listener("link")  # the next attempt must not hear of this one's end
            wire.disconnect_socket()
            if isinstance(exc, TimeoutError):
                raise TimeoutError(f"no broker answered within {timeout} s") from exc
            raise exc if isinstance(exc, OSError) else OSError(str(exc)) from exc
        return wire, protocol

    # stomp.py calls these, in the thread that reads.

    def on_connected(self, frame: Frame) -> None:
        said = str(frame.headers.get("server", ""))
        server = server_of_stomp(said)
        with suppress(Exception):  # it was waited for for too long
            if server is None:
                self._connected.set_exception(WrongServer(f"it is {said or 'a server without a name'}: {FOR}"))
            else:
                self.server, self.dialect = server, dialect_of(server)
                self._connected.set_result(None)

    def on_message(self, frame: Frame) -> None:
        private = self._private.get(frame.headers.get("subscription"))
        if private is not None:
            private.put(frame)
        else:
            self._on_message(frame)

    def on_receipt(self, frame: Frame) -> None:
        if confirmed := self._confirming.get(frame.headers["receipt-id"]):
            confirmed.set_result(None)

    def on_error(self, frame: Frame) -> None:
        message = frame.headers.get("message") or (frame.body or b"").decode(errors="replace")[:200]
        if not self._connected.done():
            self._connected.set_exception(AccessRefused(message))
        elif confirmed := self._confirming.get(frame.headers.get("receipt-id")):
            confirmed.set_exception(Refused(message))
        else:
            log.error("the broker says: %s", message)

    def on_disconnected(self) -> None:
        if not self._connected.done():
            self._connected.set_exception(ConnectionResetError("the connection was closed at once"))
        elif hasattr(self, "_protocol"):
            self._lose(SentInDoubt("the connection to the broker was lost"))

    def on_heartbeat_timeout(self) -> None:
        log.warning("the broker gave no sign of life for %s s", self._settings.heartbeat * GRACE)


@dataclass
class Listening:
    """A subscription of :meth:`Link.listening`."""

    name: str
    #: Whether the subscription is to outlive the block.
    keep: bool = False
    frames: "SimpleQueue[Frame]" = field(default_factory=SimpleQueue)

    def take(self, timeout: float) -> Frame | None:
        """Return the next message, or None if none comes within *timeout* seconds."""
        try:
            return self.frames.get(timeout=timeout)
        except Empty:
            return None


class _Protocol(Protocol12):
    """stomp.py's protocol, with more heart-beats than it promises."""

    def on_send(self, frame: Frame) -> None:
        super().on_send(frame)
        if frame.cmd == "STOMP":
            ours, theirs = self.heartbeats
            frame.headers["heart-beat"] = f"{ours * BEATS},{theirs}"

    def on_connected(self, frame: Frame) -> None:
        theirs, _, ours = frame.headers.get("heart-beat", "0,0").partition(",")
        frame.headers["heart-beat"] = f"{theirs},{int(ours) // BEATS}"
        super().on_connected(frame)


class _Views(PollableQueue):
    """What is to be written. stomp.py writes 16 KB at a time, and without this copies all the rest each time."""

    def put(self, item: bytes) -> None:
        super().put(memoryview(item))


def _thread(callback: Callable[[], None]) -> Thread:
    """Start the thread that reads, which starts that of the heart-beats."""
    with without_signals():
        thread: Thread = default_create_thread(callback)
    return thread


class _Wire(StompTransport):
    """stomp.py's transport, which connects and closes differently; see the module."""

    def __init__(
        self, host: tuple[str, int], tls: ssl.SSLContext | None, connect_timeout: float, write_timeout: float
    ) -> None:
        super().__init__([host], auto_decode=False)
        self.override_threading(_thread)
        self._host, self._tls = host, tls
        self._connect_timeout, self._write_timeout = connect_timeout, write_timeout

    def attempt_connection(self) -> None:
        sock = socket.create_connection(self._host, self._connect_timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._host[0])
        except BaseException:
            sock.close()
            raise
        if self._tls is not None:  # stomp.py writes and reads it in one thread
            self.send_queue = _Views()
            self.sel = selectors.DefaultSelector()
            self.sel.register(self.send_queue, selectors.EVENT_READ)
            self.sel.register(sock, selectors.EVENT_READ)
            self.blocking = False
        sock.setblocking(self.blocking)
        seconds, rest = divmod(self._write_timeout, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6)))
        self.socket, self.current_host_and_port = sock, self._host

    def receive(self) -> bytes:
        try:
            data = bytes(self.socket.recv(65_536))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise  # stomp.py waits for more
        except Exception:  # an error, or the socket was taken away: the end
            data = b""
        if not data:
            self.running = False
        return data

    def disconnect_socket(self) -> None:
        self.running = False
        sock = self.socket
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads, which closes it
