"""The contract's checks are no file of tests themselves: their assertions are to explain themselves all the same."""

import pytest

pytest.register_assert_rewrite("tests.conformance.contract")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave the checks for the night that a class does not have by day."""
    by_day = getattr(getattr(item, "cls", None), "by_day", None)
    if by_day is not None and getattr(item, "originalname", "").removeprefix("test_") not in by_day:
        item.add_marker("nightly")
