"""Tables for a terminal."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def write(rows: Iterable[Sequence[str]]) -> None:
    """Write rows to standard output, in columns."""
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def shown(text: str) -> str:
    """Return text on one line, without anything that a terminal would obey."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def shown_lines(text: str) -> str:
    """Return text of several lines, without anything else that a terminal would obey."""
    return "\n".join(map(shown, text.splitlines()))


def shown_json(value: Any) -> str:
    """Return JSON for a terminal, over several lines, without anything that it would obey."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return text if all(map(str.isprintable, text.split("\n"))) else json.dumps(value, indent=2)
