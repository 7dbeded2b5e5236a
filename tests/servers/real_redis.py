"""Redis and Valkey of several versions."""

from pathlib import Path
from typing import NamedTuple

from tests.needs import missing
from tests.servers import Server
from tests.servers.debian import folder_of
from tornado_celery_bridge.up.brokers.apt import ensure


class Version(NamedTuple):
    """A server's program, and the suite of Debian that has it; an empty one is this machine's own."""

    program: str
    suite: str = ""

    def __str__(self) -> str:
        return f"{self.program.removesuffix('-server')}-{self.suite or 'here'}"


#: 7.0 and 8.0; 8.1 and 9. The embedded Valkey is one more.
VERSIONS = (
    Version("redis-server"),
    Version("redis-server", "trixie"),
    Version("valkey-server", "trixie"),
    Version("valkey-server", "sid"),
)


class RealServer(Server):
    """A server of a distribution's package."""

    def __init__(self, folder: Path, version: Version, *options: str, port: int | None = None) -> None:
        super().__init__(folder, *options, port=port)
        self.version = version

    @property
    def program(self) -> list[str]:
        name, suite = self.version
        if not suite:
            if not ensure(name):
                missing(name)
            return [name]
        root = folder_of(suite)  # without a chroot: with the suite's own libraries
        (loader,) = [*root.glob("usr/lib64/ld-linux-*"), *root.glob("usr/lib/ld-linux-aarch64*")][:1]
        (libraries,) = root.glob("usr/lib/*-linux-gnu")
        return [str(loader), "--library-path", str(libraries), str(root / "usr" / "bin" / name)]
