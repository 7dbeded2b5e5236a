"""
A private RabbitMQ: ``python -m tornado_celery_bridge.up.brokers rabbitmq``.

It runs one node of Debian's package on loopback, as the current user. The node writes only to its folder. It has a name
server of Erlang (epmd) of its own, and both end together. The package's own script below /usr/lib starts the node,
because the script in PATH changes the user.
"""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tornado_celery_bridge.up.brokers.apt import ensure
from tornado_celery_bridge.up.brokers.private import Private, end_group, free_port

BIN = Path("/usr/lib/rabbitmq/bin")

#: A server for trials must not fill the machine: half a gigabyte of memory, and no busy waiting.
CONFIG = """\
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 100MB
log.console = false
log.file.level = info
"""
ERLANG = "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"


class RabbitMQ(Private):
    """A node that keeps its data in its folder."""

    name, title = "rabbitmq", "RabbitMQ"
    patience = 90.0  # it takes 6 s on two idle cores

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._ports = {"RABBITMQ_DIST_PORT": free_port(), "ERL_EPMD_PORT": free_port()}
        self._epmd: subprocess.Popen[bytes] | None = None

    @staticmethod
    def available() -> bool:
        return (BIN / "rabbitmq-server").exists() or ensure("rabbitmq-server")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def groups(self) -> list[int]:
        return [process.pid for process in (self._process, self._epmd) if process]

    def control(self, *words: str) -> str:
        """Return the answer of ``rabbitmqctl``, which starts an Erlang of its own and takes seconds."""
        command = [str(BIN / "rabbitmqctl"), "--quiet", *words]
        return subprocess.run(
            command, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout

    def kill(self) -> None:
        super().kill()
        # The old epmd would know the dead node's name for a while, and refuse it to the next node.
        if self._epmd:
            end_group(self._epmd)

    def _prepare(self) -> None:
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
        (self.folder / "rabbitmq.conf").write_text(CONFIG)
        (self.folder / "enabled_plugins").write_text("[].\n")
        self._start_epmd()

    def _command(self) -> list[str]:
        return [str(BIN / "rabbitmq-server")]

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
            "RABBITMQ_NODENAME": "private@localhost",  # the only node that its epmd knows
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
        """Return whether the server speaks AMQP: while it is not ready, it accepts connections and closes them."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
            connection.settimeout(5.0)
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False
