"""What the ledger tells Celery's result backend, against what Celery's own writes."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Ignore, TaskRevokedError
from celery.result import AsyncResult

from tests.ledger.records import accept, record
from tests.ledger.sample import make_app
from tests.servers import Database
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.blocking import WorkerLedger
from tornado_celery_bridge.worker.attempt import Attempt


@pytest.fixture
def client(database: Database) -> Iterator[redis.Redis]:
    with database.client() as made:
        yield made


@pytest.fixture(params=[False, True], ids=["short", "extended"])
def app(request: pytest.FixtureRequest, client: redis.Redis, database: Database) -> Iterator[Celery]:
    made = make_app(database.url, database.url)
    made.conf.update(result_extended=request.param, result_expires=1000)
    yield made
    made.close()


@pytest.fixture
def celerys(app: Celery, database: Database) -> Iterator[Celery]:
    made = Celery("stock", broker=database.url, backend=database.url, set_as_current=False)
    made.conf.update(result_extended=app.conf.result_extended, result_expires=1000)
    yield made
    made.close()


def context(task_id: str) -> Context:
    return Context(id=task_id, task="sample.add", args=[1], kwargs={}, retries=0, hostname="w@here", children=[])


def stored(app: Celery, client: redis.Redis, state: str, result: Any, traceback: str | None) -> tuple[Any, int, Any]:
    """Return what is written and said of a task whose state is stored, without what no two have in common."""
    task_id = str(uuid.uuid4())
    key = f"celery-task-meta-{task_id}"
    with client.pubsub() as heard:  # type: ignore[no-untyped-call]
        heard.subscribe(key)
        assert heard.get_message(timeout=5)
        request = context(task_id)
        app.backend.store_result(task_id, result, state, traceback=traceback, request=request)
        if state == "STARTED" and "sample.add" in app.tasks:  # else Celery's own has stored it
            begin(app, request)
        said = heard.get_message(timeout=5)
    written = client.get(key)
    assert said
    assert said["data"] == written
    meta = json.loads(written)  # type: ignore[arg-type]
    assert meta.pop("task_id") == task_id
    assert (meta.pop("date_done") is None) == (state == "STARTED")
    return meta, client.ttl(key), list(meta)


def begin(app: Celery, request: Context) -> None:
    Attempt.of(app, request).begin(app.tasks["sample.add"], request)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's own
@pytest.mark.parametrize(
    ("state", "result", "traceback"),
    [
        ("STARTED", {"pid": 1, "hostname": "w@here"}, None),
        ("SUCCESS", {"status": "SUCCESS", "ü": [1, None]}, None),
        ("SUCCESS", None, None),
        ("FAILURE", KeyError("x"), "Traceback …"),
        ("REVOKED", TaskRevokedError("cancelled"), None),
    ],
)
def test_it_is_what_celery_writes(
    app: Celery, celerys: Celery, client: redis.Redis, state: str, result: Any, traceback: str | None
) -> None:
    written = stored(celerys, client, state, result, traceback)
    if isinstance(result, Exception):  # beside it, for an exception that Celery can't rebuild
        written[0]["result"]["exc_text"] = str(result)
    assert stored(app, client, state, result, traceback) == written


def test_nothing_is_told_over_a_success(app: Celery, client: redis.Redis) -> None:
    for result, state in (({"status": "FAILURE"}, "SUCCESS"), (KeyError("x"), "FAILURE"), ({}, "STARTED")):
        app.backend.store_result("a", result, state, request=(request := context("a")))
    begin(app, request)
    assert AsyncResult("a", app=app).get() == {"status": "FAILURE"}


def test_what_does_not_run_is_not_said_to_have_started(app: Celery, client: redis.Redis) -> None:
    worker = WorkerLedger(app)

    ledger = Ledger(app)

    async def make_it_a_job() -> None:
        await accept(ledger, record("a", task="sample.add"), {})
        await ledger.close()

    asyncio.run(make_it_a_job())
    worker.finish("a", "SUCCESS", 1)
    request = context("a")
    app.backend.store_result("a", {}, "STARTED", request=request)
    with pytest.raises(Ignore):
        begin(app, request)
    assert not client.exists("celery-task-meta-a")
