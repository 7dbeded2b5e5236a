"""The sample application uses the package as anybody's application would: by its public names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tornado_celery_bridge
from tornado_celery_bridge import checkpoints, exceptions, handlers, service

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "celeryconfig.py", *sorted((ROOT / "web").rglob("*.py")), *sorted((ROOT / "tasks").rglob("*.py"))]

#: The public modules, and their public names.
PUBLIC = {
    "tornado_celery_bridge": tornado_celery_bridge.__all__,
    "tornado_celery_bridge.checkpoints": checkpoints.__all__,
    "tornado_celery_bridge.exceptions": exceptions.__all__,
    "tornado_celery_bridge.handlers": handlers.__all__,
    "tornado_celery_bridge.progress": ("progress",),
    "tornado_celery_bridge.schedules": ("Scheduler", "Schedules"),
    "tornado_celery_bridge.service": service.__all__,
    "tornado_celery_bridge.testing": ("bridge",),
    "tornado_celery_bridge.transports": ("register",),
    "tornado_celery_bridge.worker": ("install",),
}


def used(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the names of ours that a file imports, each with its module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "*") for alias in node.names if alias.name.startswith("tornado_celery_bridge"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tornado_celery_bridge"):
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_sample_uses_public_names_alone(path: Path) -> None:
    assert [f"{module}.{name}" for module, name in used(path) if name not in PUBLIC.get(module, ())] == []


def test_the_sample_uses_the_package() -> None:
    assert len({name for path in FILES for _, name in used(path)}) >= 8
