"""Each block of Python in the documentation can be read, and what it names of the package is there."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tornado_celery_bridge import Bridge, BridgeConfig
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.schedules import Entry, Schedules

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("README.md"), *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE = "tornado_celery_bridge"

#: What a name stands for in each block.
KNOWN = {"bridge": Bridge, "schedules": Schedules, "ledger": Ledger}
#: What is called with named arguments.
MADE = {"BridgeConfig": BridgeConfig, "Entry": Entry}


def blocks() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^( *)```python\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            yield pytest.param(textwrap.dedent(found[2]), id=f"{page.relative_to(ROOT)}:{line}")


BLOCKS = list(blocks())


def faults(code: str) -> Iterator[str]:
    """Yield what a block names that there is not."""
    tree = compile(code, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] == PACKAGE:
                there = importlib.import_module(module)
                for each in names:
                    if not hasattr(there, each.name) and not is_module(f"{module}.{each.name}"):
                        yield f"from {module} import {each.name}"
            case ast.Attribute(value=value, attr=attr) if (owner := KNOWN.get(last_name(value))) is not None:
                if not hasattr(owner, attr) and f"self.{attr}" not in inspect.getsource(vars(owner)["__init__"]):
                    yield f"{owner.__name__}.{attr}"
            case ast.Call(func=ast.Name(id=name), keywords=given) if name in MADE:
                fields = inspect.signature(MADE[name]).parameters
                yield from (f"{name}({each.arg}=…)" for each in given if each.arg not in (None, *fields))


def is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def last_name(node: ast.expr) -> str:
    """Return the name itself, or the last of `self.bridge`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def test_what_is_not_there_is_noticed() -> None:
    code = "from tornado_celery_bridge import Bridge, Bride\nbridge.send()\nself.bridge.get(x)\nEntry(args=1, name=2)"
    assert list(faults(code)) == ["from tornado_celery_bridge import Bride", "Entry(args=…)", "Bridge.send"]


@pytest.mark.parametrize("code", BLOCKS)
def test_what_a_block_names_is_there(code: str) -> None:
    assert list(faults(code)) == []


def test_there_are_some() -> None:
    assert len(BLOCKS) > 30
