"""
A private RabbitMQ: ``python -m deploy.brokers rabbitmq``.

One node of Debian's package, as whoever runs it, on loopback. Everything that it writes is in its folder, the name
server of its Erlang (epmd) is its own, and both end together. The server is started by the package's own script below
/usr/lib: the one in PATH changes the user.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from deploy.brokers._apt import ensure
from deploy.brokers._ports import free_port

__all__ = ("RabbitMQ",)

BIN = Path("/usr/lib/rabbitmq/bin")

#: Seconds for the server to answer; it takes 6 on two idle cores.
PATIENCE = 90.0

#: A server for trying out must not take the machine: half a gigabyte, and no wait in a loop for something to do.
CONFIG = """\
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 100MB
log.console = false
log.file.level = info
"""
ERLANG = "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"


class RabbitMQ:
    """
    A node that keeps its data in *folder*, to be killed, frozen and started again.

    Args:
        folder: All of its files are there.
        port: Where it listens on 127.0.0.1; a free one, if there is none.
    """

    name = "rabbitmq"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port or free_port()
        self._ports = {"RABBITMQ_DIST_PORT": free_port(), "ERL_EPMD_PORT": free_port()}
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @staticmethod
    def available() -> bool:
        """Return whether the server is installed, or now is; see :func:`ensure`."""
        return (BIN / "rabbitmq-server").exists() or ensure("rabbitmq-server")

    @property
    def url(self) -> str:
        """Where it is, for Celery."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> Self:
        """
        Start the node, or start it again on what it has; returns when it takes connections.

        Raises:
            RuntimeError: It ended, or did not answer in time; with its last words.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
        (self.folder / "rabbitmq.conf").write_text(CONFIG)
        (self.folder / "enabled_plugins").write_text("[].\n")
        self._start_epmd()
        with (self.folder / "console.log").open("ab") as out:
            self._process = subprocess.Popen(
                [str(BIN / "rabbitmq-server")],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"RabbitMQ does not start: {(self.folder / 'console.log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    @property
    def groups(self) -> list[int]:
        """The process groups to end it by."""
        return [process.pid for process in (self._process, self._epmd) if process]

    def control(self, *words: str) -> str:
        """Return what ``rabbitmqctl`` answers. It is an Erlang of its own, and takes seconds."""
        command = [str(BIN / "rabbitmqctl"), "--quiet", *words]
        return subprocess.run(
            command, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process:
            _end_group(self._process)
        # Another epmd would know the dead node's name for a while, and refuse it to the next one.
        if self._epmd:
            _end_group(self._epmd)

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

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _start_epmd(self) -> None:
        if self._epmd and self._epmd.poll() is None:
            return
        self._epmd = subprocess.Popen(
            [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(self._ports["ERL_EPMD_PORT"])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _environment(self) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        folder = self.folder
        return {
            **inherited,
            **{name: str(port) for name, port in self._ports.items()},
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": str(folder),
            "RABBITMQ_NODENAME": "private@localhost",  # its epmd knows no other
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
        }

    def _answers(self) -> bool:
        """Return whether it speaks: a server that is not ready yet closes what connects."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
            connection.settimeout(5.0)
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
