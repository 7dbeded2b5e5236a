"""What the tests need of the machine."""

import os
from typing import NoReturn

import pytest

__all__ = ("missing",)


def missing(what: str) -> NoReturn:
    """Skip a test that needs what is not here and can't be had; in CI that is a failure."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is not here, and can't be installed")
    raise AssertionError
