"""
Which check of the contract each broker holds, as a table: at the end of a run, and in docs/brokers.md.

``python -m tests.conformance`` runs the contract and writes the table anew.
"""

from collections.abc import Iterable, Mapping
from typing import Any

#: check → broker → what came of it.
Matrix = Mapping[str, Mapping[str, str]]

_ORDER = ("failed", "error", "skipped", "passed")
_WORDS = {"failed": "FAILED", "error": "FAILED", "skipped": "no", "passed": "yes"}


def matrix_of(reports: Iterable[Any]) -> Matrix:
    """Return what reports of pytest's tell of the contract; of a check in several variants, the worst."""
    found: dict[str, dict[str, str]] = {}
    for report in reports:
        broker, _, check = report.nodeid.partition("/test_on_")[2].partition(".py::")
        name = check.rpartition("::test_")[2].partition("[")[0].replace("_", " ")
        if not name or (report.when != "call" and report.outcome == "passed"):
            continue
        known = found.setdefault(name, {})
        known[broker] = min(known.get(broker, "passed"), report.outcome, key=_ORDER.index)
    return found


def table(matrix: Matrix) -> list[str]:
    """Return a matrix as lines of Markdown."""
    brokers = list(dict.fromkeys(broker for row in matrix.values() for broker in row))
    lines = [f"| check | {' | '.join(brokers)} |", "| --- " * (len(brokers) + 1) + "|"]
    for name, row in matrix.items():
        cells = (_WORDS[row[broker]] if broker in row else "" for broker in brokers)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table, if the contract was part of the run."""
    reports = [each for outcome in _ORDER for each in terminalreporter.stats.get(outcome, ())]
    matrix = matrix_of(each for each in reports if hasattr(each, "nodeid"))
    if matrix:
        terminalreporter.section("the contract, check by broker")
        for line in table(matrix):
            terminalreporter.write_line(line)
