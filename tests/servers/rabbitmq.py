"""RabbitMQ of several versions."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers.debian import folder_of
from tornado_celery_bridge.up.brokers.rabbitmq import RabbitMQ

#: Enters a suite's folder, with the node's own folder in it under the same name. What is mounted ends with the node.
_ENTER = """\
root=$1 data=$2
shift 2
mkdir -p "$root$data"
mount --bind "$data" "$root$data"
mount -t proc proc "$root/proc"
exec chroot "$root" "$@"
"""


class Configured(RabbitMQ):
    """
    A node of this machine's package, or of another suite's.

    Args:
        suite: Of Debian; an empty one is this machine's own.
        settings: Of the application ``rabbit``.
    """

    def __init__(self, folder: Path, port: int | None = None, *, suite: str = "", **settings: int) -> None:
        super().__init__(folder, port)
        self._suite, self._settings = suite, settings

    def control(self, *words: str) -> str:
        command = self._entered("/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", *words)
        done = subprocess.run(
            command, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert not done.returncode, done.stderr
        return done.stdout

    def _environment(self) -> Mapping[str, str]:
        made = dict(super()._environment())
        words = "".join(f" -rabbit {name} {value}" for name, value in self._settings.items())
        made["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += words
        return made

    def _command(self) -> list[str]:
        return self._entered(*super()._command())

    def _entered(self, *command: str) -> list[str]:
        if not self._suite:
            return [*command]
        return [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            _ENTER,
            "enter",
            str(folder_of(self._suite)),
            str(self.folder),
            *command,
        ]
