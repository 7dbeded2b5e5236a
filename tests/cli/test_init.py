"""``tcb init``: what it writes passes ``tcb check`` and its own test, and is what docs/cli.md shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.up.processes import ROOT, VARIABLES
from tornado_celery_bridge.cli.main import main

PYTEST = ["pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-c", "/dev/null", "--rootdir", "."]


def run(folder: Path, *words: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES and "PYTEST" not in name}
    environment = {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_new_project(tmp_path: Path) -> None:
    status, written = run(tmp_path, "tornado_celery_bridge", "init", "shop")
    assert status == 0
    status, checked = run(tmp_path / "shop", "tornado_celery_bridge", "check")
    assert (status, checked.splitlines()[-1]) == (0, "0 unsafe, 0 allowed or unwise")
    status, tested = run(tmp_path / "shop", *PYTEST)
    assert status == 0, tested
    assert "2 passed" in tested

    shown = re.search(
        r"\$ tcb init shop\n(.*)\$ cd shop\n\$ tcb check\n(.*?)```", (ROOT / "docs/cli.md").read_text(), re.S
    )
    assert shown
    assert written.startswith(shown[1] + "\nTo run it: ")
    assert re.sub(r"^app .*?\n\n", f"{'app':<25}…\n\n", checked, flags=re.DOTALL | re.MULTILINE) == shown[2]


def test_no_file_that_is_there_is_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Procfile").write_text("mine")
    assert main(["init", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"tcb: {tmp_path} has Procfile already: nothing is written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["Procfile"]


def test_no_module_that_is_there_is_hidden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tasks.py").write_text("mine")
    assert main(["init", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said == f"tcb: {tmp_path} has tasks.py, which a package of that name would hide\n"
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.py"]


def test_a_folder_that_can_not_be_made_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["init", str(tmp_path / "file" / "shop")]) == 1
    assert capsys.readouterr().err == f"tcb: {tmp_path}/file/shop: Not a directory\n"
