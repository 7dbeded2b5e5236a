"""What the tests of the schedules share."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.schedules.beats import Do


@pytest.fixture
def do() -> Iterator[Do]:
    """What runs a coroutine: the tests themselves block."""
    with asyncio.Runner() as runner:
        yield runner.run
