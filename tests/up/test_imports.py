"""What a process really loads, which import-linter cannot see: a package's ``__init__`` and other people's imports."""

import subprocess
import sys

import pytest

from tests.up.processes import ROOT


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split())


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


def test_the_settings_load_nothing_of_ours() -> None:
    assert not {"tornado_celery_bridge", "tasks", "web"} & loaded("import celeryconfig")
