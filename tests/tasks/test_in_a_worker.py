"""The tasks in a stock worker with one process: what a caller with the task's id sees."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tasks.text import MIN_PART_CHARS, count_words
from tests.servers import Server, worker

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery]:
    """A Celery app for publishing, whose worker has a single process, so that waiting inside a task would deadlock."""
    folder = tmp_path_factory.mktemp("product")
    server = Server(folder / "redis").start()
    environment = {"REDIS_URL": server.url, "DATA_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    app = Celery("client", broker=server.url, backend=server.url, set_as_current=False)
    try:
        with worker("tests.tasks.extra", environment, folder / "worker.log", "--concurrency", "1"):
            yield app
    finally:
        app.close()
        server.stop()


def test_the_callers_id_ends_with_the_merged_counts(client: Celery) -> None:
    text = "the quick brown fox " * (5 * MIN_PART_CHARS // 20)
    result = client.send_task("tasks.text.count_words", [text], {"top": 2}, task_id="book")
    assert result.id == "book"
    assert result.get(timeout=30) == count_words(text, top=2)
    assert result.state == "SUCCESS"


def test_a_short_text_needs_no_parts(client: Celery) -> None:
    counts = client.send_task("tasks.text.count_words", ["one two"]).get(timeout=30)
    assert (counts["total"], counts["distinct"]) == (2, 2)


def test_many_books_at_once_on_one_process(client: Celery) -> None:
    text = "word " * (3 * MIN_PART_CHARS // 5)
    results = [client.send_task("tasks.text.count_words", [text]) for _ in range(10)]
    assert [result.get(timeout=60)["total"] for result in results] == [3 * MIN_PART_CHARS // 5] * 10


def test_a_part_that_fails_fails_the_callers_id(client: Celery) -> None:
    result = client.send_task("extra.split_and_fail", task_id="broken-book")
    result.get(timeout=30, propagate=False)
    assert result.state == "FAILURE"
    assert "this part is broken" in str(result.result)


def test_a_broken_input_fails_with_its_reason(client: Celery) -> None:
    result = client.send_task("tasks.data.profile_csv", ["a,b\n1\n"])
    result.get(timeout=30, propagate=False)
    assert result.state == "FAILURE"
    assert str(result.result) == "line 2: 1 cells, but the header has 2"


@pytest.mark.skipif(not os.path.exists("/usr/share/common-licenses/GPL-3"), reason="the GPL is not on this machine")
def test_the_gpl(client: Celery) -> None:
    text = Path("/usr/share/common-licenses/GPL-3").read_text()
    counts = client.send_task("tasks.text.count_words", [text], {"top": 1}).get(timeout=30)
    assert counts == count_words(text, top=1)
    assert counts["top"] == [{"word": "the", "count": 345}]
