"""The README's handler and task run as pasted, and its first command answers what it says."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.servers import Server, free_port, wait_for, worker

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.exists(), reason="the wheel's tests have no README")


def paste(folder: Path) -> None:
    for name, code in re.findall(r"`(\w+\.py)`[^\n]*:\n\n```python\n(.*?)```", README.read_text(), re.DOTALL):
        (folder / name).write_text(code)


def test_handler_and_task_run_as_pasted(server: Server, tmp_path: Path) -> None:
    paste(tmp_path)
    port = free_port()
    url = server.url.removesuffix("0") + "5"  # a database of its own
    environment = {"REDIS_URL": url, "PORT": str(port), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    site = subprocess.Popen([sys.executable, "server.py"], cwd=tmp_path, env={**os.environ, **environment})
    try:
        with worker("jobs", environment, tmp_path / "worker.log", "--concurrency", "1"):
            answer: dict[str, int] = {}

            def asked() -> bool:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/add?x=2&y=3") as response:
                        answer.update(json.load(response))
                except OSError:
                    return False
                return True

            wait_for(asked)
            assert answer == {"sum": 5}
    finally:
        site.kill()
        site.wait()
