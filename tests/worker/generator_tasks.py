"""Tasks that are generators, for the sample app: each of ``def`` (``g.…``) and of ``async def`` (``ag.…``)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from tests.worker.marks import is_there, mark, note
from tornado_celery_bridge.checkpoints import resumable
from tornado_celery_bridge.worker import JobCancelled


class Odd:
    """What JSON does not have."""


def add_generators(app: Celery) -> None:
    task = app.task

    @task(shared=False, name="g.counts")
    def counts(count: int) -> Generator[dict[str, int], None, str]:
        for number in range(count):
            yield {"n": number}
        return "done"

    @task(shared=False, name="ag.counts")
    async def counts_async(count: int) -> AsyncIterator[dict[str, int]]:
        for number in range(count):
            await asyncio.sleep(0)
            yield {"n": number}

    @task(shared=False, name="ag.waits")
    async def waits_async(event: str) -> AsyncIterator[str]:
        yield "first"
        while not is_there(event):
            await asyncio.sleep(0.02)
        yield "second"

    @task(shared=False, name="g.ticks")
    def ticks(event: str) -> Iterator[str]:
        while not is_there(event):
            yield "tick"
            time.sleep(0.02)
        yield "last"

    @task(shared=False, name="ag.ticks")
    async def ticks_async(event: str) -> AsyncIterator[str]:
        while not is_there(event):
            yield "tick"
            await asyncio.sleep(0.02)
        yield "last"

    @task(shared=False, name="g.goes_on")
    def goes_on(path: str) -> Iterator[int]:
        """Yield until something is raised here; note what."""
        mark(path)
        number = 0
        try:
            while True:
                yield number
                number += 1
                time.sleep(0.01)
        except JobCancelled as exc:
            note(f"{path}.told", type(exc).__name__)
            raise

    @task(shared=False, name="ag.goes_on")
    async def goes_on_async(path: str) -> AsyncIterator[int]:
        mark(path)
        number = 0
        try:
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.01)
        except (JobCancelled, asyncio.CancelledError, SoftTimeLimitExceeded) as exc:
            await asyncio.sleep(0)
            note(f"{path}.told", type(exc).__name__)
            raise

    @task(shared=False, bind=True, name="g.has_a_state_of_its_own")
    def has_a_state_of_its_own(self: Any) -> str:
        """No generator: it tells of a state that has the same name."""
        self.update_state(state="ITEM", meta={"number": 1, "of": "mine"})
        return "done"

    @task(shared=False, name="ag.persists")
    async def persists() -> AsyncIterator[int]:
        """End by no exception, neither where it awaits nor where it yields."""
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(0.01)
                yield 1

    @task(shared=False, name="g.yields_what_cannot_be_kept")
    def yields_what_cannot_be_kept() -> Iterator[Any]:
        for value in (Odd(), "x" * 100_000):
            try:
                yield value
            except Exception as exc:
                yield type(exc).__name__

    @task(shared=False, name="ag.yields_what_cannot_be_kept")
    async def yields_what_cannot_be_kept_async() -> AsyncIterator[Any]:
        for value in (Odd(), "x" * 100_000):
            try:
                yield value
            except Exception as exc:
                yield type(exc).__name__

    @task(shared=False, bind=True, name="g.retries")
    def retries(self: Any) -> Iterator[int]:
        for number in resumable(range(4)):
            yield number
            if number == 1 and not self.request.retries:
                raise self.retry(countdown=0)

    @task(shared=False, bind=True, name="ag.retries")
    async def retries_async(self: Any) -> AsyncIterator[int]:
        for number in resumable(range(4)):
            yield number
            if number == 1 and not self.request.retries:
                raise self.retry(countdown=0)

    @task(shared=False, name="g.calls_others")
    def calls_others() -> Iterator[int]:
        """Call a task as a function, which gives its items."""
        for each in counts(2):
            yield each["n"] * 10

    @task(shared=False, name="ag.calls_others")
    async def calls_others_async() -> AsyncIterator[int]:
        async for each in counts_async(2):
            yield each["n"] * 10
