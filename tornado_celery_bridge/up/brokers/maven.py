"""
Fetches servers that are Java archives, by Maven: once, into the user's cache.

Maven finds its repository by its own settings (``~/.m2/settings.xml``), as for any other project on this machine.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Seconds for Maven, which fetches some 100 MB.
PATIENCE = 300

POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>private</groupId><artifactId>server</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>{dependencies}</dependencies>
</project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def jars(name: str, *artifacts: str) -> Path | None:
    """
    Return a folder with *artifacts*, as ``group:artifact:version`` each, and all that they need; None if they can't be
    had here, which standard error then explains. Blocks, for minutes if they must be fetched.
    """

    def fetch(folder: Path) -> None:
        dependencies = "".join(DEPENDENCY.format(*artifact.split(":")) for artifact in artifacts)
        (folder / "pom.xml").write_text(POM.format(dependencies=dependencies))
        _maven("dependency:copy-dependencies", f"-DoutputDirectory={folder}", "-DincludeScope=runtime", folder=folder)

    return _cached(name, fetch)


def archive(name: str, artifact: str) -> Path | None:
    """
    Return the one folder that is in an archive, ``group:artifact:version:tar.gz:bin``; None if it can't be had here.

    See :func:`jars`.
    """

    def fetch(folder: Path) -> None:
        _maven("dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}", folder=folder)
        for packed in folder.glob("*.tar.gz"):
            with tarfile.open(packed) as members:
                members.extractall(folder, filter="data")
            packed.unlink()

    found = _cached(name, fetch)
    return found and next(each for each in found.iterdir() if each.is_dir())


def cache() -> Path:
    """Return the folder in which servers that were fetched are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "tornado-celery-bridge"


def _cached(name: str, fetch: Callable[[Path], None]) -> Path | None:
    """Return the folder of this name in the cache; *fetch* fills it if there is none."""
    folder = cache() / name
    if folder.exists():
        return folder
    if not (shutil.which("mvn") and shutil.which("java")):
        print(
            f"missing here: {name}, which Maven would fetch; on Debian or Ubuntu, as root: apt-get install maven",
            file=sys.stderr,
        )
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may want it at once
        if folder.exists():
            return folder
        made = folder.with_name(f"{name}.{os.getpid()}")
        made.mkdir()
        try:
            fetch(made)
            made.rename(folder)
        except (subprocess.SubprocessError, OSError) as exc:
            print(f"{name} can't be fetched: {getattr(exc, 'stdout', None) or exc}", file=sys.stderr)
            return None
        finally:
            with suppress(FileNotFoundError):
                shutil.rmtree(made)
    return folder


def _maven(*words: str, folder: Path) -> None:
    command = ["mvn", "--quiet", "--batch-mode", *words]
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
