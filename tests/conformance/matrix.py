"""
Which check of the contract each broker holds, and what it can do, as tables for docs/brokers.md.

The first is printed at the end of a run, too. ``python -m tests.conformance`` runs the contract and writes both anew.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tornado_celery_bridge.transports import servers
from tornado_celery_bridge.transports.servers import ABILITIES

#: The servers in the table of what each can do. Those of a kind that differ by version are there by version.
SHOWN: Mapping[str, servers.Server] = {
    "Redis, Valkey": servers.Redis(),
    "RabbitMQ 3.10 to 4.2": servers.RabbitMQ("RabbitMQ", "4.2"),
    "RabbitMQ from 4.3 on": servers.RabbitMQ("RabbitMQ", "4.3"),
    "Kafka": servers.Kafka(),
    "ActiveMQ": servers.ActiveMQ(),
    "ActiveMQ Artemis": servers.Artemis(),
}
DOCS = Path(__file__).parents[2] / "docs" / "brokers.md"

#: check → broker → what came of it.
Matrix = Mapping[str, Mapping[str, str]]

#: A table in the docs is what is between two comments.
_MARKED = r"(<!-- {0} -->)(.*?)(<!-- end of {0} -->)"

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
    brokers = sorted({broker for row in matrix.values() for broker in row})
    lines = [f"| check | {' | '.join(brokers)} |", "| --- " * (len(brokers) + 1) + "|"]
    for name, row in matrix.items():
        cells = (_WORDS[row[broker]] if broker in row else "" for broker in brokers)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def abilities() -> list[str]:
    """Return what each server can do as lines of Markdown."""
    lines = [f"| | {' | '.join(SHOWN)} |", "| --- " * (len(SHOWN) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(each.abilities[name] for each in SHOWN.values())} |" for name in ABILITIES]


def written(name: str) -> list[str]:
    """Return the table of this name in docs/brokers.md."""
    match = re.search(_MARKED.format(name), DOCS.read_text("utf-8"), re.DOTALL)
    assert match, f"docs/brokers.md has no place for {name}"
    return match[2].strip().splitlines()


def write(name: str, lines: Iterable[str]) -> None:
    """Write the table of this name in docs/brokers.md."""
    text, before = "\n".join(["", *lines, ""]), DOCS.read_text("utf-8")
    after = re.sub(_MARKED.format(name), lambda match: match[1] + text + match[3], before, flags=re.DOTALL)
    DOCS.write_text(after, "utf-8")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table, if the contract was part of the run."""
    reports = [each for outcome in _ORDER for each in terminalreporter.stats.get(outcome, ())]
    matrix = matrix_of(each for each in reports if hasattr(each, "nodeid"))
    if matrix:
        terminalreporter.section("the contract, check by broker")
        for line in table(matrix):
            terminalreporter.write_line(line)
