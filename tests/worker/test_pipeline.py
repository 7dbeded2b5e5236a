"""The thread by which runs of the asyncio pool tell the ledger."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis.exceptions import OutOfMemoryError

from tests.servers import Server, wait_for
from tests.worker.sample import make_app
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.worker.pipeline import Pipeline


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server").start()
    yield made
    made.stop()


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    made = make_app(server.url)
    yield made
    made.close()


def announce(blob: str) -> Any:
    return calls.announce(blob=blob, grace=1_000)


def test_what_it_is_given_is_done_in_order(app: Celery) -> None:
    pipeline, done, goes_on = Pipeline(app, lambda: None), list[Any](), threading.Event()

    def answered(value: Any, exc: BaseException | None) -> None:
        done.append(value if exc is None else exc)

    error = ValueError("mine")

    def fails() -> None:
        raise error

    pipeline.put(goes_on.wait, answered)
    pipeline.put(announce("a"), answered)
    pipeline.put(lambda: "called", answered)
    pipeline.put(fails, answered)
    pipeline.put(announce("b"), answered)
    goes_on.set()
    assert pipeline.ask(lambda: "asked") == "asked"
    assert done == [True, None, "called", error, None]
    with pytest.raises(ValueError, match="mine"):
        pipeline.ask(fails)
    pipeline.close(30)


def test_many_answers_are_told_of_once(app: Celery) -> None:
    told, answers, goes_on = list[int](), list[Any](), threading.Event()
    pipeline = Pipeline(app, lambda: told.append(len(answers)))
    pipeline.put(goes_on.wait, lambda *answer: answers.append(answer))
    for name in "abc":
        pipeline.put(announce(name), lambda *answer: answers.append(answer))
    goes_on.set()
    pipeline.close(30)
    assert told in ([1, 4], [1, 4, 4])


def test_a_full_server_may_have_room_soon(app: Celery, server: Server) -> None:
    pipeline, answers = Pipeline(app, lambda: None), list[tuple[Any, ...]]()
    with server.client() as client:
        pipeline.ask(announce("a"))  # it knows the script by now
        client.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            client.set("a", "b")
        pipeline.put(announce("b"), lambda *answer: answers.append(answer))
        refused = client.info("errorstats").get("errorstat_OOM", {}).get("count", 0)
        wait_for(lambda: client.info("errorstats")["errorstat_OOM"]["count"] > refused + 1)
        client.config_set("maxmemory", 0)
    wait_for(lambda: answers)
    assert answers == [(None, None)]
    pipeline.close(30)


def test_one_that_has_ended_says_so(app: Celery) -> None:
    pipeline = Pipeline(app, lambda: None)
    pipeline.close(30)
    with pytest.raises(RuntimeError, match="the pool has ended"):
        pipeline.ask(announce("a"))
