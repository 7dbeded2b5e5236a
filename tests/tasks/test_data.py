"""Profiles of good and broken tables."""

import json
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import data
from tasks.data import profile_csv
from tornado_celery_bridge import checkpoints


def column(csv: str) -> dict[str, Any]:
    (only,) = profile_csv(csv)["columns"]
    return dict(only)


def test_profiles_each_column() -> None:
    profile = profile_csv("name,age,joined\nAda,36,1833-06-05\nBob,,1999-12-31\n\nCy,40,2001-01-01\n")
    assert profile == {
        "rows": 3,
        "columns": [
            {"name": "name", "type": "text", "missing": 0, "min": None, "max": None, "mean": None},
            {"name": "age", "type": "integer", "missing": 1, "min": 36, "max": 40, "mean": 38.0},
            {
                "name": "joined",
                "type": "date",
                "missing": 0,
                "min": "1833-06-05",
                "max": "2001-01-01",
                "mean": None,
            },
        ],
    }


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2"], "integer"),
        (["1", "2.5"], "number"),
        ([".5", "-1e3"], "number"),
        (["true", "False"], "boolean"),
        (["2024-02-29"], "date"),
        (["2023-02-29"], "text"),
        (["2024-01-01T10:00:00Z", "2024-01-01 10:00"], "datetime"),
        (["nan"], "text"),
        (["1e999"], "text"),
        (["1", "x"], "text"),
        (["2024-01-01", "5"], "text"),
        (["9223372036854775807"], "integer"),
        (["9223372036854775808"], "number"),
        (["9" * 5000], "text"),
        (["٣"], "text"),
        (['" "'], "empty"),
    ],
)
def test_the_narrowest_type_that_fits(cells: list[str], kind: str) -> None:
    assert column("x\n" + "\n".join(cells) + "\n")["type"] == kind


def test_the_mean_of_huge_numbers_is_finite() -> None:
    assert column("x\n1e308\n1.5e308\n")["mean"] == pytest.approx(1.25e308)


def test_header_only() -> None:
    assert profile_csv("a,b\n") == {
        "rows": 0,
        "columns": [
            {"name": name, "type": "empty", "missing": 0, "min": None, "max": None, "mean": None} for name in ("a", "b")
        ],
    }


def test_quotes_byte_order_mark_delimiters_and_line_ends() -> None:
    assert column('\ufeff"a;b"\r\n"1\r\n2"\r\n')["name"] == "a;b"
    assert [c["name"] for c in profile_csv("a;b\r1;2\r", delimiter=";")["columns"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("csv", "complaint"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("a,b\n1,2\n1,2,3\n", "^line 3: 3 cells, but the header has 2$"),
        ('a,b\n"1\n2",3\n4\n', "^line 4: 1 cells, but the header has 2$"),
        ('a,b\n1,2\n3,"4\n5,6\n', "^line 3: a quote is never closed$"),
        ('a,b\n1,"2"x\n', "^line 2: "),
        ("a,b\n1,\x002\n", "^line 2: a NUL character"),
        ("a\n" + "x" * 200_000, "^line 2: field larger"),
    ],
)
def test_says_what_is_broken_and_where(csv: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        profile_csv(csv)


@pytest.mark.parametrize("delimiter", ["\n", '"', "", "ab"])
def test_a_delimiter_that_cannot_be_one(delimiter: str) -> None:
    with pytest.raises(ValueError, match="delimiter"):
        profile_csv("a\n1\n", delimiter)


def test_reports_progress_per_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[float, float | None]] = []
    monkeypatch.setattr(data, "progress", lambda current, total, message: reported.append((current, total)))
    profile_csv("x\n" + "1\n" * 5000)
    assert reported == [(1001 + 1000 * n, 5002) for n in range(5)]


def test_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        f"{n},{n / 3},{n if n < 3000 else 'x'},{date(2000, 1, 1) + timedelta(n)},{'1e308' if n % 2 else ''}"
        for n in range(5000)
    ]
    csv, added, add = "a,b,c,d,e\n" + "\n".join(rows), 0, data._Tally.add

    def counted(tally: data._Tally, cell: str) -> None:
        nonlocal added
        added += 1
        add(tally, cell)

    def going_on(saved: str | None) -> tuple[data.CsvProfile, list[str]]:
        """Return what the task returns, and what it saves meanwhile."""
        written: list[str] = []

        def write(text: str) -> bool:
            written.append(text)
            return True

        document = checkpoints.Document(lambda: saved, write)
        monkeypatch.setattr(data, "checkpoint", lambda: checkpoints.Checkpoint(document, "main"))
        return profile_csv(csv), written

    monkeypatch.setattr(checkpoints, "MIN_INTERVAL", 0)
    monkeypatch.setattr(data._Tally, "add", counted)
    whole, written = going_on(None)
    for number, saved in enumerate(written, start=1):
        added = 0
        assert going_on(saved) == (whole, written[number:])
        assert added == 5 * (5000 - 1000 * number)
    assert len(written) == 5
    assert max(map(len, written)) * data.MAX_SAVED_COLUMNS < checkpoints.MAX_BYTES * 5


@given(st.text(alphabet='ab1,."\n\r\0-eE ٣', max_size=60))
def test_either_a_profile_fit_for_json_or_a_clear_complaint(csv: str) -> None:
    try:
        profile = profile_csv(csv)
    except ValueError as exc:
        complaint = str(exc)
    else:
        complaint = "line"
        json.dumps(profile, allow_nan=False)
    assert complaint.startswith(("line", "the CSV is empty"))
