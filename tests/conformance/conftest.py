"""The contract's checks are no file of tests themselves: their assertions are to explain themselves all the same."""

import pytest

pytest.register_assert_rewrite("tests.conformance.contract")
