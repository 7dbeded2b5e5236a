"""What a task's code or a hook of it raises ends the attempt, once, and not the worker; in each pool."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord

from tests.servers import Server, worker
from tests.worker.processes import OPTIONS, ROOT
from tests.worker.sample import ESCAPES, make_app
from tornado_celery_bridge import Bridge, TaskFailed
from tornado_celery_bridge.ledger import Job

#: Where it is raised, and what is told then: None for what was raised; else what was told before.
PLACES = {
    "code": None,
    "before_start": None,
    "retry": None,
    "on_failure": "ValueError: mine",
    "on_success": "done",
    "on_retry": "done",
    "after_return": "done",
}
FORMS = [(where, what) for where in PLACES for what in ESCAPES]


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[str]:
    """The URL of a server with a worker that has the pool."""
    if request.param == "prefork":
        yield request.getfixturevalue("ends_worker")
        return
    url = f"redis://127.0.0.1:{server.port}/{10 if request.param == 'threads' else 11}"
    log = tmp_path_factory.mktemp("escapes") / "worker.log"
    environment = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
    with worker("tests.worker.sample", environment, log, *OPTIONS, "--pool", request.param) as process:
        yield url
        assert process.poll() is None, log.read_text()[-5_000:]


@pytest.fixture
async def bridge(url: str) -> AsyncIterator[Bridge]:
    app = make_app(url)
    async with Bridge(app) as made:
        yield made
    app.close()


async def test_it_ends_the_attempt_and_not_the_worker(bridge: Bridge, tmp_path: Path) -> None:
    escapes, silent = bridge.app.tasks["e.escapes"], bridge.app.tasks["e.escapes_silently"]

    async def ended(kind: str, where: str, what: str) -> tuple[Any, ...]:
        """Run one, and return what is told of it: by get, by the backend, by the ledger; and how often it began."""
        path = tmp_path / f"{kind} {where} {what}"
        task = silent if kind == "silent job" else escapes
        signature = task.s(str(path), where, what)
        result = await (bridge.dispatch(signature) if kind == "plain task" else bridge.submit(signature))
        try:
            said = await bridge.get(result, timeout=30)
        except TaskFailed as exc:
            said = str(exc).partition(" failed: ")[2]
        except TimeoutError:
            return kind, where, what, "nothing is told"
        state, ends = (await bridge.state(result)).state, 1
        if kind != "plain task":
            with bridge.ledger.events.follow(result.id) as events:
                ends = [event.kind async for event in events].count("end")
            job = await bridge.ledger.jobs.get(result.id)
            assert isinstance(job, Job)
            state = job.state if job.state == state else f"{job.state} and {state}"
        return kind, where, what, said, state, ends, len(await asyncio.to_thread(path.read_text))

    def expected(kind: str, where: str, what: str) -> tuple[Any, ...]:
        told = PLACES[where]
        if told is None:
            told = f"{what}: mine" if what == "MemoryError" else f"CodeExited: {what}: mine"
        state = "SUCCESS" if told == "done" else "FAILURE"
        begins = 2 if where in ("retry", "on_retry") else 1
        return kind, where, what, told, state, 1, begins

    forms = [(kind, *form) for kind in ("job", "silent job", "plain task") for form in FORMS]
    told = await asyncio.gather(*(ended(*form) for form in forms))
    assert set(told) == {expected(*form) for form in forms}
    after = await bridge.submit(bridge.app.tasks["e.returns"].s(str(tmp_path / "after")))
    assert await bridge.get(after, timeout=10) == "done"


async def test_a_chord_counts_each_of_its_tasks_once(bridge: Bridge, tmp_path: Path) -> None:
    escapes, gathers = bridge.app.tasks["e.escapes"], bridge.app.tasks["e.gathers"]
    header = [escapes.s(str(tmp_path / "marks"), where, what) for where, what in FORMS if PLACES[where] == "done"]
    result = await bridge.dispatch(chord(header, gathers.s()))
    assert await bridge.get(result, timeout=30) == ["done"] * len(header)
