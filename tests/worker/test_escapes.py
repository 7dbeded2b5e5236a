"""What a task's code or a hook of it raises ends the attempt, once, and not the worker; in each pool."""

import asyncio
from pathlib import Path
from typing import Any

from celery import chord

from tests.worker.sample import ESCAPES
from tornado_celery_bridge import Bridge, TaskFailed
from tornado_celery_bridge.base.versions import CELERY
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
#: Below 5.7, Celery can't encode the state RETRY with what is no Exception.
FORMS = [
    (where, what)
    for where in PLACES
    for what in ESCAPES
    if CELERY >= (5, 7) or where != "retry" or what == "MemoryError"
]


async def test_it_ends_the_attempt_and_not_the_worker(pools: Bridge, tmp_path: Path) -> None:
    escapes, silent = pools.app.tasks["e.escapes"], pools.app.tasks["e.escapes_silently"]

    async def ended(kind: str, where: str, what: str) -> tuple[Any, ...]:
        """Run one, and return what is told of it: by get, by the backend, by the ledger; and how often it began."""
        path = tmp_path / f"{kind} {where} {what}"
        task = silent if kind == "silent job" else escapes
        signature = task.s(str(path), where, what)
        result = await (pools.dispatch(signature) if kind == "plain task" else pools.submit(signature))
        try:
            said = await pools.get(result, timeout=30)
        except TaskFailed as exc:
            said = str(exc).partition(" failed: ")[2]
        except TimeoutError:
            return kind, where, what, "nothing is told"
        state, ends = (await pools.state(result)).state, 1
        if kind != "plain task":
            with pools.ledger.events.follow(result.id) as events:
                ends = [event.kind async for event in events].count("end")
            job = await pools.ledger.jobs.get(result.id)
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
    after = await pools.submit(pools.app.tasks["e.returns"].s(str(tmp_path / "after")))
    assert await pools.get(after, timeout=10) == "done"


async def test_a_chord_counts_each_of_its_tasks_once(pools: Bridge, tmp_path: Path) -> None:
    escapes, gathers = pools.app.tasks["e.escapes"], pools.app.tasks["e.gathers"]
    header = [escapes.s(str(tmp_path / "marks"), where, what) for where, what in FORMS if PLACES[where] == "done"]
    result = await pools.dispatch(chord(header, gathers.s()))
    assert await pools.get(result, timeout=30) == ["done"] * len(header)
