"""Arguments and results, as tasks take and return them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain
from celery.backends.redis import RedisBackend

from tests.servers import Server, worker
from tests.worker.processes import OPTIONS, ROOT
from tests.worker.sample import make_app
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.base.store import Store, Stored
from tornado_celery_bridge.base.versions import CELERY
from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.worker import install
from tornado_celery_bridge.worker.guard import _limit_of


async def job(bridge: Bridge, job_id: str) -> Job:
    found = await bridge.ledger.jobs.get(job_id)
    assert isinstance(found, Job)
    return found


@pytest.fixture(scope="module")
def pickles_worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"redis://127.0.0.1:{server.port}/12"
    log = tmp_path_factory.mktemp("pickles-worker") / "worker.log"
    environment = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT), "SAMPLE_SERIALIZER": "pickle", "C_FORCE_ROOT": "1"}
    environment |= {"ALLOW_UNSAFE": "pickle"}
    with worker("tests.worker.sample", environment, log, *OPTIONS, "--hostname", "pickles@%h"):
        yield url


@pytest.fixture
async def pickles(pickles_worker: str) -> AsyncIterator[Bridge]:
    app = make_app(pickles_worker, serializer="pickle")
    async with Bridge(app) as made:
        yield made
    app.close()


async def test_what_json_does_not_have_is_a_success_everywhere(pickles: Bridge) -> None:
    result = await pickles.submit("e.gives_odd_values")
    value = {(1, "a"): {2, 1}, "itself": Path("x")}
    assert await pickles.get(result, timeout=20) == value
    with pickles.ledger.events.follow(result.id) as events:  # told after the backend, which is another step here
        assert [event.kind async for event in events][-1] == "end"
    done = await job(pickles, result.id)
    assert (done.state, done.result) == ("SUCCESS", {"1,a": [1, 2], "itself": "x"})
    assert (await pickles.state(result)).result == value


async def test_a_line_that_cannot_be_formatted_is_no_fault_of_the_job(ends: Bridge) -> None:
    result = await ends.submit("e.logs")
    assert await ends.get(result, timeout=20) == "done"
    with ends.ledger.events.follow(result.id) as events:
        lines = [json.loads(event.data)["message"] async for event in events if event.kind == "log"]
    first, *_, last = lines
    assert "%d" in first
    assert "'x'" in first
    assert last.endswith("fine: 1")
    assert len(lines) == 4


async def test_a_state_of_the_tasks_own_is_told_with_what_it_told(ends: Bridge, tmp_path: Path) -> None:
    result = await ends.submit("e.downloads", (str(tmp_path / "go on"),))
    with ends.ledger.events.follow(result.id) as events:
        async for event in events:
            if (told := json.loads(event.data)).get("state") == "DOWNLOADING":
                break
    assert told == {"state": "DOWNLOADING", "progress": {"pct": 10}}
    runs = await job(ends, result.id)
    assert (runs.state, runs.progress) == ("DOWNLOADING", {"pct": 10})
    await asyncio.to_thread((tmp_path / "go on").touch)
    assert await ends.get(result, timeout=20) == "done"


@pytest.mark.skipif(CELERY < (5, 7), reason="impossible here: Celery below 5.7 knows no aliases in what a task returns")
async def test_models_with_aliases_are_handed_on(ends: Bridge) -> None:
    gives, takes = ends.app.tasks["e.gives_model"], ends.app.tasks["e.takes_model"]
    result: Any = await ends.dispatch(chain(gives.s(5), takes.s(add=1), takes.s(add=1)))
    assert await ends.get(result, timeout=20) == {"inner": {"number": 7}, "inners": [{"number": 6}]}
    by_alias = {"theInner": {"theNumber": 1}, "theInners": []}
    assert await ends.get(await ends.submit(takes.s(by_alias)), timeout=20) == {"inner": {"number": 1}, "inners": []}


def test_a_limit_counts_large_arguments_by_what_they_are(tmp_path: Path) -> None:
    app = Celery("limits", set_as_current=False)
    app.conf.update(job_store_url=f"file://{tmp_path}/blobs")

    @app.task(shared=False, max_concurrency=1, limit_by="user")
    def limited(user: Any) -> None: ...

    store = Store.of_app(app)
    assert store is not None
    blobs = [Stored.new(1) for _ in range(3)]
    for blob, content in zip(blobs, ("same", "same", "other"), strict=True):
        store.write(blob.name, json.dumps([content]).encode())
    limit_of = _limit_of(limited, app)
    assert limit_of is not None
    references: list[Any] = [blob.in_place_of(["x" * 1_000])[0] for blob in blobs]  # type: ignore[index]
    first, second, third = (limit_of((each,), {}) for each in references)
    assert first == second == limit_of(("same",), {}) != third
    store.remove(blobs[0].name)
    assert limit_of((references[0],), {}) != first  # the task is told, as it begins


def test_backends_of_one_name_are_not_taken_for_each_other(server: Server) -> None:
    def make() -> tuple[Celery, type]:
        class Mine(RedisBackend): ...

        globals()["Mine"] = Mine
        app = Celery("mine", set_as_current=False)
        app.loader.override_backends = {"mine": f"{__name__}:Mine"}
        app.conf.update(result_backend=f"mine+{server.url}", job_ledger_url=server.url)
        install(app)
        assert app.conf.result_backend  # which configures it
        return app, Mine

    made = [make(), make()]
    for app, cls in made:
        assert isinstance(app.backend, cls)
