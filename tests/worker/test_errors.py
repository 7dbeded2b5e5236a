"""Exceptions are told as the task raised them: in the ledger, in Celery's result backend, and to whoever waits."""

import asyncio
import time
from typing import Any

import pytest

from tests.worker.raising import FORMS
from tornado_celery_bridge import Bridge, TaskFailed
from tornado_celery_bridge.base.errors import Described, text_of
from tornado_celery_bridge.ledger import Job


def expected(form: str) -> Described:
    try:
        FORMS[form]()
    except Exception as exc:
        text = "x, 1" if form == "cannot say" else text_of(exc)
        return Described(type(exc).__qualname__, type(exc).__module__, shown(text))
    raise AssertionError


def shown(text: str) -> str:
    """Return a message as the ledger has it, where all text is Unicode."""
    return text.replace("\ud800", "?")


def test_what_is_expected_is_what_python_says() -> None:
    assert expected("two").message == "x"
    assert expected("name").message == "[Errno -2] Name or service not known"
    assert expected("http") == Described("HTTPError", "urllib.error", "HTTP Error 404: Not Found")
    assert expected("notes").message == "x\nfirst note\nsecond note"


@pytest.mark.parametrize("retries", [False, True], ids=["fails", "retries"])
async def test_an_exception_of_each_form(ends: Bridge, retries: bool) -> None:
    async def seen(form: str) -> list[Any]:
        result = await ends.submit("e.raises_form", (form, retries))
        if retries:
            with ends.ledger.events.follow(result.id) as events:
                async for event in events:
                    if '"RETRY"' in event.data:
                        break
        else:
            with pytest.raises(TaskFailed) as failed:
                await ends.get(result, timeout=30)
            name, _, _ = expected(form)
            assert type(failed.value.__cause__).__name__.rpartition(".")[2] == name.rpartition(".")[2]
            message = str(failed.value).partition(" failed: ")[2].partition(": ")[2]
            assert shown(message) == expected(form).message
        async with asyncio.timeout(10):  # of a retry, the backend is told after the ledger
            while not (state := await ends.state(result)).error:
                await asyncio.sleep(0.05)
        job = await ends.ledger.jobs.get(result.id)
        assert isinstance(job, Job)
        assert job.error is not None
        assert (job.traceback is None) == retries
        assert not retries or (job.due is not None and 30 < job.due / 1000 - time.time() < 90)
        if form == "cause":
            assert retries or "KeyError: 'inner'" in (job.traceback or "")
            assert "KeyError: 'inner'" in (state.traceback or "")
        if form == "group":
            assert retries or "TwoArguments: x" in (job.traceback or "")
        await ends.ledger.jobs.cancel(result.id)
        return [Described(state.error.type, state.error.module, shown(state.error.message)), Described(**job.error)]

    found = await asyncio.gather(*map(seen, FORMS))
    assert dict(zip(FORMS, found, strict=True)) == {form: [expected(form)] * 2 for form in FORMS}


STORED: list[tuple[Any, str]] = [
    ({"exc_type": "ValueError", "exc_message": ["mine"], "exc_module": "builtins"}, "ValueError: mine"),
    ({"exc_type": "ValueError", "exc_message": "mine", "exc_module": "builtins"}, "ValueError: mine"),
    ({"exc_type": "ValueError", "exc_message": ["a", 1]}, "ValueError: a, 1"),
    ({"exc_type": "ValueError"}, "ValueError: "),
    ({"exc_type": "Mine", "exc_module": "nowhere", "exc_message": "x"}, "Mine: x"),
    ({"exc_type": "system", "exc_module": "os", "exc_message": "rm"}, "system: rm"),
    ({"exc_type": "TwoArguments", "exc_module": "tests.worker.raising", "exc_message": ["x"]}, "TwoArguments: x"),
    ({"exc_type": 5, "exc_message": 5}, "5: 5"),
    ({"exc_message": "mine"}, 'Exception: {"exc_message":"mine"}'),
    ({"error": "no", "code": 5}, 'Exception: {"error":"no","code":5}'),
    ({}, "Exception: {}"),
    (["a", 1], 'Exception: ["a",1]'),
    ([["a", 1]], 'Exception: [["a",1]]'),
    ("mine", "Exception: mine"),
    ("", "Exception: "),
    (5, "Exception: 5"),
    (True, "Exception: True"),
    (None, "Exception: "),
]


async def test_what_the_code_has_stored_as_its_failure(ends: Bridge) -> None:
    async def seen(meta: Any) -> str:
        result = await ends.submit("e.stores", (meta,))
        with pytest.raises(TaskFailed) as failed:
            await ends.get(result, timeout=30)
        async with asyncio.timeout(10):  # the ledger is told when the code has ended
            with ends.ledger.events.follow(result.id) as events:
                assert [event.kind async for event in events][-1] == "end"
        job = await ends.ledger.jobs.get(result.id)
        state = await ends.state(result)
        assert isinstance(job, Job)
        assert job.error is not None
        assert state.error is not None
        assert job.error["message"] == state.error.message
        assert isinstance(failed.value.__cause__, Exception)
        raised = await asyncio.to_thread(lambda: ends.app.AsyncResult(result.id).result)  # by Celery's own
        assert isinstance(raised, Exception) or not meta
        return str(failed.value).partition(" failed: ")[2]

    assert await asyncio.gather(*(seen(meta) for meta, _ in STORED)) == [text for _, text in STORED]
