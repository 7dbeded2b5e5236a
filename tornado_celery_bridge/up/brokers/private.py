"""What the private brokers have in common."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from tornado_celery_bridge.up.brokers.ports import free_port

__all__ = ("Private", "end_group")


class Private:
    """
    A server on loopback, to be killed, frozen and started again; its subclasses say what it is.

    Args:
        folder: All that it writes is there.
        port: Where it listens on 127.0.0.1; a free one, if there is none.
    """

    #: What it is called in BROKER, and to people.
    name: ClassVar[str]
    title: ClassVar[str]
    #: Seconds for it to answer.
    patience: ClassVar[float]

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def available() -> bool:
        """Return whether the server is installed, or now is; else it is said on standard error what to do."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where it is, for Celery."""
        raise NotImplementedError

    def start(self) -> Self:
        """
        Start it, or start it again on what it has; returns when it takes connections.

        Raises:
            RuntimeError: It ended, or did not answer in time; with its last words.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prepare()
        log = self.folder / "console.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.patience
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.title} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process:
            end_group(self._process)

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

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        assert self._process
        return self._process.wait()

    @property
    def groups(self) -> list[int]:
        """The process groups to end it by."""
        return [self._process.pid] if self._process else []

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    # What subclasses say.

    def _prepare(self) -> None:
        """Write what it reads."""

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str] | None:
        """Return its environment; None for ours."""
        return None

    def _answers(self) -> bool:
        """Return whether it takes connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2.0):
            return True
        return False


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
