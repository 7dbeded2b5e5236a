"""
Lets a task save where it is, so that its job goes on from there.

An attempt may end early: its worker is stopped or lost, or the code asks for a retry. The next attempt begins the code
again, and gets what the one before has saved.

This module imports only Celery, as :mod:`.progress` does, so a worker never loads what the event loop's side needs.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeVar

from celery import current_task
from celery.exceptions import Ignore

__all__ = ("MAX_BYTES", "MIN_INTERVAL", "Checkpoint", "checkpoint", "resumable")

T = TypeVar("T")

#: Bytes of JSON that all checkpoints of a job may have together.
MAX_BYTES = 64 * 1024
#: Seconds between two writes to the ledger. So no more than a second of work is done again after a crash.
MIN_INTERVAL = 1.0


class Checkpoint:
    """
    A place of a job's work that was saved under a name. Get it by :func:`checkpoint`.

    .. versionadded:: 0.1.0
    """

    def __init__(self, document: "Document", name: str) -> None:
        self._document = document
        self._name = name

    @property
    def value(self) -> Any:
        """What was saved last, by this attempt or one before; None if nothing was. A change to it changes nothing."""
        return self._document.get(self._name)

    def save(self, value: Any) -> None:
        """
        Save *value*, in the place of the one before.

        It is written to the ledger at once. If the last write was less than a second ago, it is written by the next
        call after that second, or as the code ends, whichever is first. A process that is killed loses what was not
        written: up to a second of work, which the next attempt does again. If the ledger is away, the task goes on,
        and the next call tries again.

        Args:
            value: JSON: None, a boolean, a number, a text, a list, or a dict whose keys are texts.

        Raises:
            TypeError: *value* is not JSON, or would not come back as it is, such as a tuple.
            ValueError: All checkpoints of the job together have more than 64 KiB.
            JobCancelled: The job was cancelled: clean up, and let it pass. (At most once a second this is found out.)
        """
        self._document.set(self._name, value)


def checkpoint(name: str = "main") -> Checkpoint:
    """
    Return a checkpoint of the running job.

    Outside of a job (in a unit test that calls the task as a function, or in a task that was not submitted as a job)
    it has no value at first, and what is saved is kept nowhere.

    Args:
        name: Which one, for a task that has several. The job shows them by their names.

    .. versionadded:: 0.1.0
    """
    return Checkpoint(_document(), name)


def resumable(items: Iterable[T], name: str = "items", *, key: Callable[[T], Any] | None = None) -> Iterator[T]:
    """
    Yield *items* one by one, but not those that an earlier attempt of the job is done with.

    ::

        for order in resumable(orders_by_id(), key=lambda order: order.id):
            send(order)

    An item is done when the loop asks for the next one. Then it is saved that it is, as :meth:`Checkpoint.save` does.
    What the code has saved itself while it had the item is saved together with that. If it does not get so far (it
    raises, breaks out of the loop, or is killed), neither is, and the item comes again. So a sum or a count in a
    checkpoint has each item once. What else the code does with an item may happen twice: see that this does no harm.

    Args:
        items: The same at each attempt, in the same order.
        name: Of the checkpoint. A task with several such loops gives each of them another name.
        key:
            Returns what an item is known by, as JSON, such as its id. Items have to come in ascending order of it, each
            with another one; then some may be added or removed between two attempts. Without it, items are counted.

    Raises:
        ValueError: Keys do not ascend; another loop of this attempt has the name; the loop is within another one; or
            see :meth:`Checkpoint.save`.
        TypeError, JobCancelled: See :meth:`Checkpoint.save`.

    .. versionadded:: 0.1.0
    """
    document = _document()
    document.begin_loop(name)
    saved = document.get(name) or {"done": 0}
    done: int = saved["done"]
    if key is None:
        for item in islice(items, done, None):
            with document.item(name):
                yield item
                done += 1
                document.set(name, {"done": done})
        return
    goes_on = "key" in saved
    last = saved.get("key")
    for item in items:
        its_key = key(item)
        if (goes_on or done > saved["done"]) and its_key <= last:
            if done == saved["done"]:  # an earlier attempt is done with it
                continue
            raise ValueError(f"resumable() {name!r}: the key {its_key!r} comes after {last!r}: keys have to ascend")
        with document.item(name):
            yield item
            done, last = done + 1, its_key
            document.set(name, {"done": done, "key": its_key})


_NO_LOOPS: frozenset[str] = frozenset()


class Document:
    """
    All checkpoints of one attempt, which are saved together.

    Args:
        read: Returns what was saved by earlier attempts, as JSON; None for nothing.
        write: Keeps JSON. Returns whether it could.
    """

    def __init__(
        self, read: Callable[[], str | None] | None = None, write: Callable[[str], bool] | None = None
    ) -> None:
        self._read, self._write = read, write
        #: The values as JSON, by name; None before they were read.
        self._values: dict[str, str] | None = None
        self._loops = _NO_LOOPS
        #: The loop that has an item, and the values as they were when it got it.
        self._item: tuple[str, dict[str, str]] | None = None
        self._lock = threading.RLock()  # the code may have threads of its own; and it may be ended while it holds this
        self._written = float("-inf")
        self._is_behind = False

    def get(self, name: str) -> Any:
        """Return the value of this name; None if there is none."""
        with self._lock:
            return json.loads(self._known().get(name, "null"))

    def set(self, name: str, value: Any) -> None:
        """Change a value, and write all of them if it is time; see :meth:`Checkpoint.save`."""
        text = json.dumps(value, allow_nan=False)
        if json.loads(text) != value:
            raise TypeError(
                f"checkpoint {name!r}: this would not come back from JSON as it is: "
                "save lists instead of tuples, and dicts whose keys are texts"
            )
        with self._lock:
            values = self._known() | {name: text}
            size = len(_joined(values))
            if size > MAX_BYTES:
                raise ValueError(
                    f"checkpoint {name!r}: a job's checkpoints may have {MAX_BYTES:,} bytes of JSON, and now have "
                    f"{size:,}: save where the work is, and keep elsewhere what it has made"
                )
            self._values = values
            self._changed()

    @contextmanager
    def item(self, loop: str) -> Iterator[None]:
        """Have the changes in the block be made together at its end, or not at all."""
        with self._lock:
            self._item = loop, self._known()
        try:
            yield
        except BaseException:
            with self._lock:
                self._values, self._item = self._item[1], None
            raise
        with self._lock:
            self._item = None
            self._changed()

    def _changed(self) -> None:
        if self._item is None:
            self._is_behind = True
            if time.monotonic() - self._written >= MIN_INTERVAL:
                self._write_all()

    def flush(self) -> None:
        """Write what was not yet written: the code ends."""
        with self._lock, suppress(Ignore):  # of a job that was cancelled; it ends anyway
            if self._is_behind:
                self._write_all()

    def begin_loop(self, name: str) -> None:
        """Note that a loop of this name begins; a ValueError if there was one, or if another one has an item."""
        with self._lock:
            if self._item is not None:
                raise ValueError(
                    f"resumable() {name!r} is within the loop {self._item[0]!r}, and only that one can go on where it "
                    "was: iterate over the items themselves"
                )
            if name in self._loops:
                raise ValueError(f"resumable() {name!r}: this task has such a loop already: give each another name")
            self._loops |= {name}

    def _known(self) -> dict[str, str]:
        if self._values is None:
            saved = self._read() if self._read else None
            self._values = {name: json.dumps(value) for name, value in json.loads(saved or "{}").items()}
        return self._values

    def _write_all(self) -> None:
        self._written = time.monotonic()
        values = self._item[1] if self._item else self._known()
        self._is_behind = self._write is not None and not self._write(_joined(values))


def _joined(values: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in values.items()) + "}"


def _document() -> Document:
    """Return the checkpoints of the code that runs; of no job's code, some that nobody keeps."""
    # The request of a job's attempt has its own: see tornado_celery_bridge.worker.attempt.
    found: Document = vars(current_task.request).setdefault("checkpoints", Document()) if current_task else Document()
    return found
