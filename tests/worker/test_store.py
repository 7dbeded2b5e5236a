"""A large result of a job, and a store that does not work."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.servers import Database
from tornado_celery_bridge.base.store import MAX_INLINE, Stored
from tornado_celery_bridge.exceptions import StoreUnavailable
from tornado_celery_bridge.worker import values

LARGE = "x" * (MAX_INLINE + 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the blobs would be: a file is in the place of the folder."""
    made = tmp_path / "blobs"
    made.write_text("in the way")
    return made


@pytest.fixture
def app(database: Database, folder: Path) -> Iterator[Celery]:
    made = Celery("values", broker=database.url, backend=database.url, set_as_current=False)
    made.conf.job_store_url = f"file://{folder}"
    yield made
    made.close()


def run(app: Celery, calls: list[None]) -> Any:
    def code() -> str:
        calls.append(None)
        return LARGE

    return values.run_with_values(code, (), {}, app, is_job=True)


def test_a_store_that_works_again_has_the_result(app: Celery, folder: Path) -> None:
    calls = list[None]()
    repair = threading.Timer(0.3, folder.unlink)
    repair.start()
    kept = run(app, calls)
    repair.join()
    assert isinstance(kept, Stored)
    assert values.load(kept, app) == LARGE
    assert len(calls) == 1


def test_a_result_that_is_lost_is_said_to_be(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "PAUSES", (0.01, 0.01))
    calls = list[None]()
    with pytest.raises(StoreUnavailable, match=r"the code of the task succeeded, but its result is lost: .*store"):
        run(app, calls)
    assert len(calls) == 1
