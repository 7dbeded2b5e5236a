"""The common part of the private brokers."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self


class Private:
    """
    A server on loopback that can be killed, frozen and started again. Each subclass is one kind of server.

    Args:
        folder: The server writes only to this folder.
        port: The port on 127.0.0.1; None: a free one.
    """

    #: Its name in BROKER, and its name for people.
    name: ClassVar[str]
    title: ClassVar[str]
    #: Seconds to wait for its first answer.
    patience: ClassVar[float]
    #: Another server that does for a trial, where this one can't be had.
    stand_in: "ClassVar[type[Private] | None]" = None

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def available() -> bool:
        """Return whether the server is installed, or could be installed now. If not, standard error says what to do."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The server's URL for Celery."""
        raise NotImplementedError

    def start(self) -> Self:
        """
        Start the server, or start it again on its old data. Returns when it accepts connections.

        Raises:
            RuntimeError: It ended, or did not answer in time. The message has the end of its log.
        """
        self.spawn()
        return self.wait_until_ready()

    def spawn(self) -> None:
        """Start the server, and do not wait until it is ready."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prepare()
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def wait_until_ready(self) -> Self:
        """
        Return when the server accepts connections.

        Raises:
            RuntimeError: See :meth:`start`.
        """
        assert self._process
        deadline = time.monotonic() + self.patience
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.title} does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)
        return self

    @property
    def _log(self) -> Path:
        return self.folder / "console.log"

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        if self._process:
            end_group(self._process)

    def freeze(self) -> None:
        """Stop the server without ending it: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server in any state."""
        self.thaw()
        self.kill()

    def wait(self) -> int:
        """Wait until the server has ended, and return its exit status."""
        assert self._process
        return self._process.wait()

    @property
    def groups(self) -> list[int]:
        """The process groups of the server."""
        return [self._process.pid] if self._process else []

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    # For subclasses.

    def _prepare(self) -> None:
        """Write the files that the server reads."""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str] | None:
        """Return the environment of the server; None: the one of this process."""
        return None

    def _answers(self) -> bool:
        """Return whether the server accepts connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2.0):
            return True
        return False


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
