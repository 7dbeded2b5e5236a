"""Tasks on tables."""

import csv as csvlib
import io
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from fractions import Fraction
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tasks.celery import app
from tornado_celery_bridge.checkpoints import checkpoint
from tornado_celery_bridge.progress import progress

ColumnType = Literal["integer", "number", "boolean", "date", "datetime", "text", "empty"]

#: A progress report costs a write to the result backend. A table has about 20 of them at most, a small one none.
MIN_CHUNK_ROWS = 1000
MAX_CHUNKS = 20
#: What is known of so many columns fits into a checkpoint.
MAX_SAVED_COLUMNS = 64
#: Each float is a whole number of these parts of 1.
UNITS = 2**1074

_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_BOOLEANS = frozenset(("true", "false"))
_INT64 = range(-(2**63), 2**63)


class Column(TypedDict):
    """The profile of one column."""

    name: str
    type: ColumnType
    missing: Annotated[int, Field(description="Cells that are empty or blank.")]
    min: Annotated[int | float | str | None, Field(description="Smallest value; null for text and booleans.")]
    max: Annotated[int | float | str | None, Field(description="Largest value; null for text and booleans.")]
    mean: Annotated[float | None, Field(description="Mean of the numbers; null for anything else.")]


class CsvProfile(TypedDict):
    """The profile of a table."""

    rows: int
    columns: list[Column]


@app.task(exposed=True)
def profile_csv(csv: str, delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ",") -> CsvProfile:
    """
    Describe each column of a table: its type, its missing cells, its smallest and largest value, and its mean.

    The first row names the columns. Blank lines are skipped. A column's type is the narrowest type that
    all of its cells have. Dates and times are recognised as ISO 8601, and compared as they are written.

    If the worker is stopped, the next one goes on with the rows that are left, unless there are many columns.

    Args:
        csv: The table, as text in the format of RFC 4180.
        delimiter: The character that separates cells.
    """
    _check_characters(csv)
    rows = _read_rows(csv, delimiter)
    header = next(rows, None)
    if header is None:
        raise ValueError("the CSV is empty: there is no header line")
    here = checkpoint()
    saved = here.value or {"rows": 0, "columns": [_Tally(name).saved() for name in header[1]]}
    columns = list(map(_Tally.of_saved, saved["columns"]))
    lines = csv.count("\n") + 1
    chunk = max(MIN_CHUNK_ROWS, lines // MAX_CHUNKS)
    count = done = saved["rows"]
    for count, (line, cells) in enumerate(islice(rows, done, None), start=done + 1):
        _check_width(line, cells, columns)
        for tally, cell in zip(columns, cells, strict=True):
            tally.add(cell)
        if count % chunk == 0:
            if len(columns) <= MAX_SAVED_COLUMNS:
                here.save({"rows": count, "columns": [tally.saved() for tally in columns]})
            progress(line, lines, "reading lines")
    return {"rows": count, "columns": [tally.column() for tally in columns]}


def _check_characters(csv: str) -> None:
    position = csv.find("\0")
    if position >= 0:
        line = csv.count("\n", 0, position) + 1
        raise ValueError(f"line {line}: a NUL character; is this a text file?")


def _read_rows(csv: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row, with the number of the line on which the row begins."""
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"{delimiter!r} cannot be a delimiter")
    reader = csvlib.reader(io.StringIO(csv.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    first_line = 1
    try:
        for cells in reader:
            if cells:
                yield first_line, cells
            first_line = reader.line_num + 1
    except csvlib.Error as exc:
        reason = "a quote is never closed" if "unexpected end" in str(exc) else str(exc)
        raise ValueError(f"line {first_line}: {reason}") from exc


def _check_width(line: int, cells: list[str], columns: list["_Tally"]) -> None:
    if len(cells) != len(columns):
        raise ValueError(f"line {line}: {len(cells)} cells, but the header has {len(columns)}")


@dataclass
class _Tally:
    """
    What is known about a column so far.

    Every type in ``types`` fits all cells that were added. A cell removes the types that it does not fit. Text always
    fits. However long the table is, this is small: so it can be saved.
    """

    name: str
    types: list[ColumnType] = field(default_factory=lambda: ["integer", "number", "boolean", "date", "datetime"])
    missing: int = 0
    #: Cells that are not missing.
    count: int = 0
    #: The smallest and the largest cell, as long as the column may be one of numbers, dates or times.
    least: int | float | str | None = None
    greatest: int | float | str | None = None
    #: The exact sum of the numbers, in units of the smallest float.
    total: int = 0

    @classmethod
    def of_saved(cls, saved: dict[str, Any]) -> "_Tally":
        return cls(**saved | {"total": int(Fraction(saved["total"]) * UNITS)})

    def saved(self) -> dict[str, Any]:
        """Return the same as JSON, which has no exact numbers of that size."""
        return asdict(self) | {"total": str(Fraction(self.total, UNITS))}

    def add(self, cell: str) -> None:
        cell = cell.strip()
        if not cell:
            self.missing += 1
            return
        self.count += 1
        self.types = [kind for kind in self.types if _FITS[kind](cell)]
        if not self.types:
            return
        value: Any = cell
        if "number" in self.types:
            value = int(cell) if "integer" in self.types else float(cell)
            numerator, denominator = value.as_integer_ratio()
            self.total += numerator << (UNITS.bit_length() - denominator.bit_length())
        self.least = value if self.least is None else min(self.least, value)
        self.greatest = value if self.greatest is None else max(self.greatest, value)

    def column(self) -> Column:
        kind: ColumnType = "empty" if not self.count else self.types[0] if self.types else "text"
        least, greatest, mean = self.least, self.greatest, None
        if kind in ("integer", "number"):
            mean = self.total / (self.count * UNITS)
        if kind == "number":
            least, greatest = float(least or 0), float(greatest or 0)
        if kind in ("boolean", "text"):
            least = greatest = None
        return {"name": self.name, "type": kind, "missing": self.missing, "min": least, "max": greatest, "mean": mean}


def _is_integer(cell: str) -> bool:
    return _INTEGER.fullmatch(cell) is not None and int(cell) in _INT64


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def _is_boolean(cell: str) -> bool:
    return cell.casefold() in _BOOLEANS


def _is_date(cell: str) -> bool:
    return _DATE.fullmatch(cell) is not None and _parses(date, cell)


def _is_datetime(cell: str) -> bool:
    return _DATETIME.fullmatch(cell) is not None and _parses(datetime, cell)


def _parses(kind: type[date], cell: str) -> bool:
    try:
        kind.fromisoformat(cell)
    except ValueError:
        return False
    return True


_FITS = {
    "integer": _is_integer,
    "number": _is_number,
    "boolean": _is_boolean,
    "date": _is_date,
    "datetime": _is_datetime,
}
