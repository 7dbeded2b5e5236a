"""The word counter, called as a function; tests/tasks/test_in_a_worker.py runs it as a chord."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import text as module
from tasks.text import count_words, find_words, merge, split_text


def test_counts_words_folding_case() -> None:
    assert count_words("One two. ONE, two — one!", top=2) == {
        "total": 5,
        "distinct": 2,
        "top": [{"word": "one", "count": 3}, {"word": "two", "count": 2}],
    }


def test_equally_frequent_words_are_in_alphabetical_order() -> None:
    words = [entry["word"] for entry in count_words("pear apple fig apple fig pear kiwi", top=3)["top"]]
    assert words == ["apple", "fig", "pear"]


def test_no_words() -> None:
    assert count_words("42 -- _ ²") == {"total": 0, "distinct": 0, "top": []}
    assert count_words("") == {"total": 0, "distinct": 0, "top": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't", ["don", "t"]),
        ("x²y", ["x", "y"]),
        ("snake_case", ["snake", "case"]),
        ("Straße ΟΔΥΣΣΕΥΣ 日本語", ["Straße", "ΟΔΥΣΣΕΥΣ", "日本語"]),
        ("a1b2", ["a", "b"]),
    ],
)
def test_a_word_is_a_run_of_letters(text: str, words: list[str]) -> None:
    assert list(find_words(text)) == words


@given(st.text())
def test_words_are_exactly_the_runs_of_letters(text: str) -> None:
    assert list(find_words(text)) == "".join(char if char.isalpha() else " " for char in text).split()


@given(st.text(alphabet="ab é-\n", max_size=300), st.integers(1, 20))
def test_splitting_loses_nothing_and_cuts_no_word(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_PART_CHARS", size)
        parts = list(split_text(text))
    assert "".join(parts) == text
    assert len(parts) <= module.MAX_PARTS
    assert [word for part in parts for word in find_words(part)] == list(find_words(text))


def test_a_text_without_any_gap_is_one_part() -> None:
    assert len(list(split_text("x" * 100_000))) == 1


def test_merging_nothing() -> None:
    assert merge([], 5) == {"total": 0, "distinct": 0, "top": []}
