"""
Servers of Debian's other suites, each in a folder of its own: RabbitMQ, Redis and Valkey, newer than this machine's.

``debootstrap`` makes the folder once, into the user's cache, from this machine's own mirror. It needs root.
"""

import fcntl
import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.needs import missing
from tornado_celery_bridge.up.brokers.maven import cache

#: The packages whose servers are run.
PACKAGES = "rabbitmq-server,redis-server,valkey-server"
#: Seconds for debootstrap, which takes a minute.
PATIENCE = 500


def folder_of(suite: str) -> Path:
    """Return the folder with a suite's servers. The test is skipped where it can't be made."""
    found = _made(suite)
    if found is None:
        missing(f"Debian {suite} (debootstrap, as root)")
    return found


@functools.cache
def _made(suite: str) -> Path | None:
    folder = cache() / f"debian-{suite}"
    if folder.exists():
        return folder
    if os.geteuid() or not shutil.which("debootstrap"):
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"lock-{suite}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        made = folder.with_name(f"{folder.name}.making")
        shutil.rmtree(made, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(made)]
        try:
            subprocess.run([*command, *_mirror()], check=True, capture_output=True, timeout=PATIENCE)
        except (subprocess.SubprocessError, OSError):
            return None
        (made / "etc" / "hosts").write_text("127.0.0.1 localhost\n")  # else Erlang finds no localhost
        made.rename(folder)
    return folder


def _mirror() -> list[str]:
    """Return the mirror that this machine gets its packages from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return [uri for uri in found if "security" not in uri][:1]
