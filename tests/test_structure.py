"""How the tests themselves are built."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(TESTS)) for file in FILES])
def test_nothing_is_imported_from_a_module_of_tests(file: Path) -> None:
    """A fixture is found in a conftest.py, and a helper is in a module named for what it is."""
    found = re.findall(
        r"^\s*(?:from|import) tests\.(?:\w+\.)*(?:test_\w+|conftest)\b.*", file.read_text(), re.MULTILINE
    )
    assert found == []


@pytest.mark.parametrize("mark", ["server", "worker", "up", "rabbitmq", "kafka", "activemq"])
def test_a_mark_is_found_and_not_written(mark: str) -> None:
    pattern = rf"^\s*(@pytest\.mark\.{mark}|pytestmark = .*\.{mark})\b"
    assert [file for file in FILES if re.search(pattern, file.read_text(), re.MULTILINE)] == []
