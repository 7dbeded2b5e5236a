"""An editable install offers the package, and nothing that stands beside it in the project's folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "web").exists(), reason="the wheel's tests have no project to install")

#: Loads the folder as site-packages would be, and says what can be imported.
SAY = """
import importlib.util, site, sys
site.addsitedir(sys.argv[1])
names = ("tornado_celery_bridge", "tornado_celery_bridge.cli.main", "web", "tasks", "celeryconfig", "tests")
print(*(name for name in names if importlib.util.find_spec(name)))
"""


def test_an_editable_install_offers_the_package_alone(tmp_path: Path) -> None:
    build = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as made:
        made.extractall(tmp_path / "site")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", SAY, str(tmp_path / "site")]
    said = subprocess.check_output(command, cwd=tmp_path, env=clean, text=True)
    assert said.split() == ["tornado_celery_bridge", "tornado_celery_bridge.cli.main"]
