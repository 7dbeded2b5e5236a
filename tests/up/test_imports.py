"""What a process really loads, which import-linter cannot see: a package's ``__init__`` and other people's imports."""

import subprocess
import sys

import pytest

from tests.up.processes import ROOT


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    lines = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).splitlines()
    return set(lines[-1].split())


@pytest.mark.parametrize(
    "statement",
    [
        "import tornado_celery_bridge",
        "import tornado_celery_bridge.progress",
        "import tornado_celery_bridge.schedules",
        "from tasks.celery import app; app.loader.import_default_modules()",  # as a worker or beat starts
    ],
)
def test_a_worker_or_beat_never_loads_tornado(statement: str) -> None:
    modules = loaded(statement)
    assert not {"tornado", "tornado_celery_bridge.handlers", "tornado_celery_bridge.testing", "web"} & modules


def test_the_supervisor_loads_nothing_that_it_supervises() -> None:
    modules = loaded("import tornado_celery_bridge.cli.up")
    assert not {"celery", "kombu", "redis", "tornado", "pydantic"} & modules
    ours = {name.split(".")[1] for name in modules if name.startswith("tornado_celery_bridge.")}
    assert ours == {"_version", "base", "cli", "up"}


def test_the_help_needs_click_alone() -> None:
    modules = loaded("from tornado_celery_bridge.cli.main import main; main(['--help'])")
    assert "click" in modules
    assert not {"celery", "redis", "tornado", "tornado_celery_bridge.up"} & modules


def test_the_settings_load_nothing_of_ours() -> None:
    assert not {"tornado_celery_bridge", "tasks", "web"} & loaded("import celeryconfig")
