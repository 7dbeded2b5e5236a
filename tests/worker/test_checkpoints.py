"""A long job goes on where it was: what its code saves, and what the next attempt gets of it."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tornado_celery_bridge import Bridge, TaskFailed
from tornado_celery_bridge.checkpoints import MAX_BYTES, MIN_INTERVAL, Document, checkpoint, resumable
from tornado_celery_bridge.ledger import Job


class Store:
    """What a document writes, and a clock for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, saved: str | None = None) -> None:
        self.time, self.saved, self.writes, self.is_away = 100.0, saved, 0, False
        monkeypatch.setattr(time, "monotonic", lambda: self.time)
        self.document = Document(lambda: self.saved, self.write)

    def write(self, text: str) -> bool:
        self.writes += 1
        if not self.is_away:
            self.saved = text
        return not self.is_away


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def test_writes_are_bounded_in_rate(store: Store) -> None:
    for number in range(1000):
        store.document.set("main", number)
        store.time += MIN_INTERVAL / 100
    assert store.writes == 10
    store.document.flush()
    assert (store.writes, store.saved) == (11, '{"main":999}')
    store.document.flush()
    assert store.writes == 11


def test_what_could_not_be_written_is_written_later(store: Store) -> None:
    store.is_away = True
    store.document.set("main", 1)
    assert (store.document.get("main"), store.saved) == (1, None)
    store.is_away = False
    store.document.flush()
    assert store.saved == '{"main":1}'


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": [(1,)]}, {1}, float("nan"), datetime.now(UTC), b"x"])
def test_what_would_come_back_as_something_else_is_refused_at_once(store: Store, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"JSON|serializable|compliant"):
        store.document.set("main", value)
    assert (store.writes, store.document.get("main")) == (0, None)


def test_size_is_bounded_over_all_names(store: Store) -> None:
    store.document.set("a", "x" * (MAX_BYTES // 2))
    with pytest.raises(ValueError, match="may have 65,536 bytes of JSON, and now have 65,549: save where the work is"):
        store.document.set("b", "é" * (MAX_BYTES // 12))
    assert store.document.get("b") is None


def test_what_was_got_is_a_copy(store: Store) -> None:
    store.document.set("main", {"seen": []})
    store.document.get("main")["seen"].append(1)
    assert store.document.get("main") == {"seen": []}


def test_outside_of_a_job_there_is_nothing_saved() -> None:
    here = checkpoint()
    assert here.value is None
    here.save([1])
    assert here.value == [1]
    assert checkpoint().value is None
    assert list(resumable("abc")) == ["a", "b", "c"]


@pytest.fixture
def loop(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The document is that of the running code, anew at each call of ``again``."""
    monkeypatch.setattr("tornado_celery_bridge.checkpoints._document", lambda: store.document)
    return store


def again(store: Store) -> None:
    store.document.flush()
    store.document = Document(lambda: store.saved, store.write)


def first_of(items: Any, count: int) -> list[Any]:
    """Return what a loop gets that is left while it has the last of so many items."""
    found = []
    for item in items:
        found.append(item)
        if len(found) == count:
            break
    return found


def test_items_are_counted(loop: Store) -> None:
    assert first_of(resumable("abcde"), 3) == ["a", "b", "c"]
    again(loop)
    assert list(resumable("abcde")) == ["c", "d", "e"]
    again(loop)
    assert list(resumable("abcde")) == []


def test_items_are_known_by_their_keys(loop: Store) -> None:
    def of(*numbers: int) -> Any:
        return resumable(numbers, key=lambda number: number)

    assert first_of(of(1, 2, 5, 7), 3) == [1, 2, 5]
    again(loop)
    assert first_of(of(1, 3, 5, 7, 9), 2) == [3, 5], "2 is gone, and 3 is new"
    again(loop)
    assert list(of(4, 7)) == [4, 7]


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1), (1, 2, 3, 0)])
def test_keys_that_do_not_ascend_are_refused(loop: Store, numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="keys have to ascend"):
        list(resumable(numbers, key=lambda number: number))


def test_two_loops_have_two_names(loop: Store) -> None:
    assert list(resumable("ab", "first")) == ["a", "b"]
    assert first_of(resumable("cd", "second"), 2) == ["c", "d"]
    with pytest.raises(ValueError, match="has such a loop already"):
        list(resumable("e", "first"))
    again(loop)
    assert [*resumable("ab", "first"), *resumable("cd", "second")] == ["d"]


def test_an_item_and_what_is_saved_with_it_are_saved_together(loop: Store) -> None:
    for number in resumable([1, 2, 3]):
        loop.time += MIN_INTERVAL
        loop.document.set("sum", (loop.document.get("sum") or 0) + number)
        if number == 3:
            break
    assert loop.document.get("sum") == 3
    assert loop.saved == '{"sum":3,"items":{"done": 2}}'
    loop.document.set("sum", 4)
    again(loop)
    assert loop.saved == '{"sum":4,"items":{"done": 2}}'


def test_a_loop_within_a_loop_is_refused(loop: Store) -> None:
    with pytest.raises(ValueError, match="'cells' is within the loop 'rows'"):
        for row in resumable(["ab"], "rows"):
            list(resumable(row, "cells"))


# In a worker.


async def run(bridge: Bridge, path: Path, how: str) -> tuple[Any, list[int], str]:
    """Return what a job ended with, the items that it began, and its id."""
    result = await bridge.submit(bridge.app.tasks["e.goes_on"].s(str(path), how))
    try:
        ended = await bridge.get(result, timeout=30)
    except TaskFailed as exc:
        ended = str(exc.__cause__)
    return ended, list(map(int, (await asyncio.to_thread(path.read_text)).split())), result.id


@pytest.mark.parametrize(
    "how", ["is terminated", "asks for a retry", "raises Retry", "goes back into its queue"], ids=lambda how: how
)
async def test_the_next_attempt_goes_on_with_the_item_that_was_begun(ends: Bridge, tmp_path: Path, how: str) -> None:
    ended, items, job_id = await run(ends, tmp_path / "items", how)
    assert (ended, items) == ([10, 28], [0, 1, 2, 3, 4, 5, 5, 6, 7])
    job = await ends.ledger.jobs.get(job_id)
    assert isinstance(job, Job)
    assert (job.state, job.attempt, job.checkpoint) == ("SUCCESS", 2, None)


async def test_a_process_that_is_killed_loses_what_was_not_written(ends: Bridge, tmp_path: Path) -> None:
    ended, items, _ = await run(ends, tmp_path / "items", "is killed")
    # All in one second, so that only the first was written.
    assert (ended, items) == ([0, 28], [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7])


async def test_a_failed_job_shows_where_it_was(ends: Bridge, tmp_path: Path) -> None:
    ended, _, job_id = await run(ends, tmp_path / "items", "fails")
    assert "mine" in ended
    job = await ends.ledger.jobs.get(job_id)
    assert isinstance(job, Job)
    assert job.checkpoint is not None
    assert job.checkpoint.value == {"items": {"done": 5}, "sum": 10}
    assert (job.checkpoint.attempt, abs(job.checkpoint.saved_at - time.time() * 1000) < 60_000) == (1, True)
    async with asyncio.timeout(10):
        with ends.ledger.events.follow(job_id) as events:
            kinds = [event.kind async for event in events]
    assert kinds == ["state", "checkpoint", "checkpoint", "end"]


async def test_what_takes_its_place_begins_at_its_beginning(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit(ends.app.tasks["e.saves_and_replaces"].s(str(tmp_path)))
    assert await ends.get(result, timeout=30) is None


async def test_a_cancelled_job_is_told_as_it_saves(ends: Bridge) -> None:
    result = await ends.submit(ends.app.tasks["e.saves_until_cancelled"].s())
    async with asyncio.timeout(20):
        with ends.ledger.events.follow(result.id) as events:
            async for event in events:
                if event.kind == "checkpoint":
                    break
        await ends.ledger.jobs.cancel(result.id)
        with ends.ledger.events.follow(result.id) as events:
            async for _ in events:
                pass
    job = await ends.ledger.jobs.get(result.id)
    assert isinstance(job, Job)
    assert job.state == "REVOKED"
    assert job.checkpoint is not None


async def test_a_plain_task_saves_nothing(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.dispatch(ends.app.tasks["e.goes_on"].s(str(tmp_path / "items"), "asks for a retry"))
    assert await ends.get(result, timeout=30) == [None, 28]
