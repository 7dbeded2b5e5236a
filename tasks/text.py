"""Tasks on text."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, NamedTuple

from celery import Task, chord
from celery.canvas import Signature
from pydantic import Field
from typing_extensions import TypedDict

from tasks.celery import app
from tornado_celery_bridge.progress import progress

#: From this size on, a part is worth a message of its own: counting it takes about 2 ms, sending it 1 ms.
MIN_PART_CHARS = 16_384
#: More parts would not make a book faster: each part is a message, a result and a member of the chord.
MAX_PARTS = 16

# \w is letters, all kinds of digits, and the underscore. find_words removes what is not a letter.
_WORDLIKE = re.compile(r"[^\W\d_]+")


class WordCount(TypedDict):
    """One word and how often it occurs."""

    word: str
    count: int


class WordCounts(TypedDict):
    """The words of a text."""

    total: int
    distinct: int
    top: list[WordCount]


class _Routing(NamedTuple):
    """The queue and the priority of the running task. Its parts are sent with the same."""

    queue: str | None
    priority: int | None


@app.task(bind=True, exposed=True)
def count_words(self: "Task[..., WordCounts]", text: str, top: Annotated[int, Field(ge=0, le=1000)] = 20) -> WordCounts:
    """
    Count the words of a text.

    A word is a run of Unicode letters, case folded. A long text is split, its parts are counted in parallel, and the
    counts are merged. The merged result is the result of this task.

    Args:
        text: The text.
        top: How many of the most frequent words to list. Words with the same count are in alphabetical order.
    """
    parts = list(split_text(text))
    if len(parts) <= 1 or self.request.called_directly:
        return merge([count_part(part) for part in parts], top)
    progress(0, len(parts), "counting")
    # The chord takes over the id of this task: its last step stores the result that the caller waits for.
    self.replace(_in_parallel(parts, top, _routing(self)))
    raise AssertionError("replace() has ended this task")


@app.task
def count_part(text: str) -> dict[str, int]:
    """Count the words of one part."""
    return Counter(word.casefold() for word in find_words(text))


@app.task
def merge_counts(counts: list[dict[str, int]], top: int) -> WordCounts:
    """Merge the counts of all parts."""
    return merge(counts, top)


def merge(counts: list[dict[str, int]], top: int) -> WordCounts:
    """Add *counts* up and list the *top* most frequent words."""
    merged: Counter[str] = Counter()
    for count in counts:
        merged.update(count)
    ranked = sorted(merged.items(), key=lambda item: (-item[1], item[0]))
    return {
        "total": merged.total(),
        "distinct": len(merged),
        "top": [{"word": word, "count": count} for word, count in ranked[:top]],
    }


def find_words(text: str) -> Iterator[str]:
    """Yield the runs of letters in *text*."""
    for match in _WORDLIKE.findall(text):
        if match.isalpha():
            yield match
        else:  # "x²" or "Ⅷ": Unicode calls them numbers, but they are neither \d nor letters
            yield from "".join(char if char.isalpha() else " " for char in match).split()


def split_text(text: str) -> Iterator[str]:
    """Yield consecutive parts of *text*, at most ``MAX_PARTS``. No word is cut."""
    size = max(MIN_PART_CHARS, -(-len(text) // MAX_PARTS))
    start = 0
    while start < len(text):
        end = _end_of_word(text, min(start + size, len(text)))
        yield text[start:end]
        start = end


def _end_of_word(text: str, position: int) -> int:
    """Return the first position, from *position* on, that is not inside a word."""
    while position < len(text) and text[position - 1].isalpha() and text[position].isalpha():
        position += 1
    return position


def _routing(task: "Task[..., WordCounts]") -> _Routing:
    delivery = task.request.delivery_info or {}
    return _Routing(delivery.get("routing_key"), delivery.get("priority"))


def _in_parallel(parts: list[str], top: int, routing: _Routing) -> Signature[WordCounts]:
    """Return the chord that counts *parts* and merges the counts. Its steps go to the queue of the task itself."""
    options = {name: value for name, value in routing._asdict().items() if value is not None}
    header = [count_part.s(part).set(**options) for part in parts]
    return chord(header, merge_counts.s(top).set(**options))
