"""Installs Debian packages, if that is possible here."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

#: Seconds for one command of apt (a first installation also fetches Erlang or Java), and to wait for another apt.
PATIENCE, TURN = 300, 240
#: The policy during an installation. We start servers ourselves, so the machine must not start them as services.
_NO_SERVICES = "#!/bin/sh\nexit 101\n"
_POLICY = "/usr/sbin/policy-rc.d"


def ensure(*packages: str) -> bool:
    """
    Install Debian *packages*, and return whether they are installed now. Blocks, for minutes if they must be fetched.

    As root it installs the missing packages, and starts no services. If the user is not root, or the installation
    fails, it says on standard error what to install.
    """
    if not (missing := [package for package in packages if not _is_installed(package)]):
        return True
    command = f"apt-get install {' '.join(missing)}"
    if os.geteuid() or not shutil.which("apt-get"):
        print(f"missing here: {' '.join(missing)}; on Debian or Ubuntu, as root: {command}", file=sys.stderr)
        return False
    with _turn(), _without_services():
        missing = [package for package in missing if not _is_installed(package)]
        if not missing or _apt("install", *missing) or (_apt("update") and _apt("install", *missing)):
            return True
    print(f"`{command}` failed", file=sys.stderr)
    return False


def _is_installed(package: str) -> bool:
    if not shutil.which("dpkg-query"):
        return False
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def _apt(*words: str) -> bool:
    options = ("--quiet", "--yes", "--no-install-recommends", "-o", f"DPkg::Lock::Timeout={TURN}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            ["apt-get", *options, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TURN + PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return not done.returncode


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Let one process at a time in. The lock is on the policy's folder, so no lock file can be left behind."""
    descriptor = os.open(os.path.dirname(_POLICY), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _without_services() -> Iterator[None]:
    """Keep Debian's packages from starting services meanwhile, unless the machine has a policy of its own."""
    if os.path.exists(_POLICY):
        yield
        return
    with open(_POLICY, "w") as policy:
        policy.write(_NO_SERVICES)
    os.chmod(_POLICY, 0o755)
    try:
        yield
    finally:
        os.unlink(_POLICY)
