"""The product's Celery app with tasks that fail where the product's own can't: ``celery -A tests.tasks.extra``."""

from typing import Any

from celery import Task, chord

from tasks.celery import app
from tasks.text import count_part, merge_counts

__all__ = ("app",)


@app.task(name="extra.fail")
def fail() -> None:
    raise ValueError("this part is broken")


@app.task(name="extra.split_and_fail", bind=True)
def split_and_fail(self: "Task[..., Any]") -> None:
    """Replace itself as count_words does, by a chord of which one part fails."""
    self.replace(chord([count_part.s("a"), fail.si(), count_part.s("b")], merge_counts.s(5)))
