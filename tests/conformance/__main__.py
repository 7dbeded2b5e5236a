"""``python -m tests.conformance``: runs the contract on every broker, and writes what came of it into the docs."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import matrix


class Collector:
    """Keeps the reports of a run."""

    def __init__(self) -> None:
        self.reports: list[Any] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.reports.append(report)


def main(*options: str) -> int:
    matrix.write("abilities", matrix.abilities())
    collector = Collector()
    files = sorted(str(path) for path in Path(__file__).parent.glob("test_on_*.py"))
    status = pytest.main([*files, *options], plugins=[collector])
    from tests.conformance.contract import Contract  # after pytest, which wants to be the first to import it

    found = matrix.matrix_of(collector.reports)
    checks = [name.removeprefix("test_").replace("_", " ") for name in vars(Contract)]
    matrix.write("contract", matrix.table({name: found[name] for name in checks if name in found}))
    return int(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
