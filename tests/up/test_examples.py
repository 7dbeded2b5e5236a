"""
`tcb up` over the examples of Celery's own source, a Django project, and a project of two queues.

They run in an environment of their own, with Django in it. `make test` has test_projects.py instead.
"""

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.needs import missing
from tests.servers import free_port
from tests.up.processes import ROOT, VARIABLES, Up, run

pytestmark = pytest.mark.nightly

PROJECTS = Path(__file__).parent / "projects"

Start = Callable[..., Up]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has what this one has, and Django."""
    folder = tmp_path_factory.mktemp("django")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = folder / "bin" / "python"
    (place,) = folder.glob("lib/python*/site-packages")
    (place / "all.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    pip(str(made), "install", "--ignore-installed", "django>=5.2,<6")
    return str(made)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples of the Celery that is installed, from its source distribution."""
    folder = tmp_path_factory.mktemp("celery")
    wanted = f"celery=={version('celery')}"
    pip(sys.executable, "download", "--no-deps", "--no-binary", "celery", "--dest", str(folder), wanted)
    (archive,) = folder.glob("celery-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (found,) = folder.glob("celery-*/examples")
    return found


def pip(python: str, *words: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode:
        missing(f"what `pip {' '.join(words)}` brings ({done.stderr[-200:]})")


@pytest.fixture
def start(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Up, str]]]:
    """Start `tcb up` in a folder, with `--broker redis` and all tasks exposed; return it and its URL."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    started: list[Up] = []

    def start(folder: Path, app: str, *options: str) -> tuple[Up, str]:
        port = free_port()
        words = ["-m", "tornado_celery_bridge", "up", "-A", app, "--broker", "redis", "--expose", "*", *options]
        ports = {"PORT": str(port), "FLOWER_PORT": str(free_port())}
        one = Up(tmp_path, [python, *words], folder, PYTHONDONTWRITEBYTECODE="1", **ports)
        started.append(one)
        one.line("stop      Ctrl-C")
        return one, f"http://127.0.0.1:{port}"

    yield start
    for one in started:
        one.close()


def digest(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.py")}


@pytest.mark.parametrize(
    ("folder", "app", "task", "input", "result"),
    [
        ("app", "myapp", "myapp.add", {"x": 2, "y": 3}, 5),
        ("next-steps", "proj", "proj.tasks.mul", {"x": 2, "y": 3}, 6),
        ("django", "proj", "demoapp.tasks.xsum", {"numbers": [1, 2, 3]}, 6),
        ("periodic-tasks", "myapp", "myapp.say", {"what": "hello"}, None),
        ("pydantic", "tasks", "tasks.x", {"arg": {"value": 3}}, {"value": "example: 3"}),
        ("stamping", "myapp", "tasks.xsum", {"numbers": [1, 2]}, 3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_example_of_celery(
    start: Any, examples: Path, folder: str, app: str, task: str, input: dict[str, Any], result: Any
) -> None:
    before = digest(examples / folder)
    one, url = start(examples / folder, app)
    assert run(url, task, **input)["result"] == result
    if folder == "periodic-tasks":
        one.line(r"myapp\.say\[.*succeeded")  # by its own schedule
        one.line(r"myapp\.say\[.*succeeded")
    if folder == "stamping":
        assert run(url, "tasks.identity", x=4)["result"] == 4  # replaced twice, with stamps
    one.signal()
    assert one.end() == 0
    assert digest(examples / folder) == before


def test_a_django_project(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(PROJECTS / "django", folder)
    one, url = start(folder, "shop")
    said = "\n".join(one.lines)
    assert "in shop.settings:" in said
    assert "CELERY_TASK_ALWAYS_EAGER = False" in said
    assert run(url, "orders.tasks.ship", order=7)["result"] == "order 7 is shipped"
    one.signal()
    assert one.end() == 0


def test_a_project_of_two_queues(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(PROJECTS / "queues", folder)
    one, url = start(folder, "proj.celery:app")
    assert any("queues    celery, heavy" in line for line in one.lines)
    assert run(url, "proj.tasks.add", x=2, y=3)["queue"] == "celery"
    assert run(url, "proj.tasks.mul", x=2, y=3)["queue"] == "heavy"
    one.signal()
    assert one.end() == 0
