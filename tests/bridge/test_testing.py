"""The bridge for unit tests: an app with `install(app)`, with several queues, `submit`, and no server of the user's."""

import asyncio
import threading
from typing import Any

import pytest
from celery import Celery, chain, signals

from tornado_celery_bridge import TaskFailed, testing
from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.progress import progress
from tornado_celery_bridge.worker import install

#: Where nothing listens: whatever is really sent there fails.
NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture
def app() -> Celery:
    made = Celery("mine", broker=NOWHERE, backend=NOWHERE, set_as_current=False)
    made.conf.task_routes = {"mine.routed": {"queue": "second"}}

    @made.task(name="mine.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @made.task(name="mine.routed", shared=False)
    def routed(x: int) -> int:
        return x

    @made.task(name="mine.fail", shared=False)
    def fail() -> None:
        raise ValueError("as asked")

    @made.task(name="mine.again", shared=False, bind=True)
    def again(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0.01)
        return int(self.request.retries)

    return made


async def run_in_queues(bridge: Any) -> None:
    add, routed = bridge.app.tasks["mine.add"], bridge.app.tasks["mine.routed"]
    assert await (await bridge.dispatch(add.s(1, 2))) == 3
    assert await (await bridge.dispatch(routed.s(1))) == 1
    assert await (await bridge.dispatch(add.s(1, 2), queue="third")) == 3
    assert await (await bridge.dispatch(chain(add.s(1, 2), routed.s()))) == 3


async def test_what_is_routed_to_another_queue_runs(app: Celery) -> None:
    async with testing.bridge(app) as bridge:
        async with asyncio.timeout(20):
            await run_in_queues(bridge)


async def test_an_app_that_keeps_the_ledger(app: Celery) -> None:
    install(app)
    heard = len(signals.before_task_publish.receivers)
    for _ in range(2):  # it may be opened again
        async with testing.bridge(app) as bridge, asyncio.timeout(20):
            await run_in_queues(bridge)
            result = await bridge.submit("mine.routed", (5,), owner="me", tags=["a"])
            assert await result == 5
            with bridge.ledger.events.follow(result.id) as events:  # the result is there a moment before the job's end
                assert [event.kind async for event in events][-1] == "end"
            job = await bridge.ledger.jobs.get(result.id)
            assert isinstance(job, Job)
            assert (job.state, job.result, job.record.owner, job.attempt) == ("SUCCESS", 5, "me", 1)
            with pytest.raises(TaskFailed, match="as asked"):
                await (await bridge.submit("mine.fail"))
            assert await (await bridge.submit("mine.again")) == 1
    assert len(signals.before_task_publish.receivers) == heard  # nobody keeps messages in a ledger that is not there
    assert app.conf.broker_url == app.conf.result_backend == NOWHERE
    assert app.conf.job_ledger_url is None


async def test_a_stream_has_the_last_progress_however_soon_the_task_ends(app: Celery) -> None:
    """A poll would see the end in its place, as would a stream whose first state is long in the consumer's hands."""

    go = threading.Event()

    @app.task(name="mine.count", shared=False)
    def count(upto: int) -> int:
        assert go.wait(20)
        for number in range(1, upto + 1):
            progress(number, upto)
        return upto

    async with testing.bridge(app) as bridge, asyncio.timeout(30):
        for _ in range(10):
            go.clear()
            result = await bridge.dispatch(count.s(5))
            seen: list[Any] = []
            async for state in bridge.stream(result):
                seen.append(state.progress.current if state.progress else state.state)
                if len(seen) == 1:
                    go.set()
                    await bridge.wait(result)
            assert seen == ["PENDING", *range(1, 6), "SUCCESS"]
        assert await bridge.get(result.id) == 5
        await bridge.forget(result)
        assert (await bridge.state(result.id)).state == "PENDING"
