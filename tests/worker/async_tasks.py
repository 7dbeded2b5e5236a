"""Tasks of ``async def``, for the sample app."""

import asyncio
import contextlib
import os
import sys
import threading
import time
import weakref
from typing import Any, NoReturn

from celery import Celery, Task, current_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.utils.log import get_task_logger
from pydantic import BaseModel

from tests.worker.marks import is_there, mark, note
from tornado_celery_bridge.checkpoints import checkpoint
from tornado_celery_bridge.progress import progress

#: What was left on each loop: how often it has been asked, and its own task.
_left: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[list[int], asyncio.Task[None]]]" = (
    weakref.WeakKeyDictionary()
)


#: What so many runs meet at.
_met: asyncio.Barrier | None = None
#: One for each run that is to be alone.
_alone: list[None] = []


class Point(BaseModel):
    x: int
    y: int = 0


class Adds(Task):  # type: ignore[type-arg]
    """A task of a class, which awaits."""

    name = "a.class"

    async def run(self, x: int, y: int) -> int:
        await asyncio.sleep(0)
        return x + y


class CallsItself(Task):  # type: ignore[type-arg]
    """A class of tasks with a ``__call__`` of its own, as Flask's users have it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


def _computes(depth: int) -> None:
    if depth:
        _computes(depth - 1)
    else:
        time.sleep(0.02)


async def _counts(asked: list[int]) -> None:
    while True:
        await asyncio.sleep(0.001)
        asked[0] += 1


def add_async_tasks(app: Celery) -> None:
    task = app.task

    @task(shared=False, name="a.adds")
    async def adds(x: int, y: int) -> int:
        await asyncio.sleep(0.001)
        return x + y

    @task(shared=False, name="a.called", base=CallsItself)
    async def called(x: int) -> int:
        await asyncio.sleep(0)
        return x

    @task(shared=False, name="a.silent", ignore_result=True)
    async def silent() -> str:
        await asyncio.sleep(0)
        return "done"

    @task(shared=False, bind=True, name="a.tells")
    async def tells(self: Any, seconds: float) -> list[Any]:
        """Report all that a task can, from where it awaits, and from what it starts."""

        async def says(word: str) -> None:
            await asyncio.sleep(0.001)
            get_task_logger("a").warning(word)

        await says("first")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(says("of a group"))
        await asyncio.to_thread(get_task_logger("a").warning, "of a thread")
        checkpoint().save("half")
        progress(1, 2, "half")
        await asyncio.sleep(seconds)
        return [self.request.id, current_task.name, checkpoint().value]

    @task(shared=False, bind=True, name="a.awaits_others")
    async def awaits_others(self: Any, depth: int) -> int:
        """Call tasks as functions: this one, and another."""
        below: int = await awaits_others(depth - 1) if depth else 0
        one: int = await adds(1, 0)
        return below + one

    @task(shared=False, bind=True, name="a.retries")
    async def retries(self: Any, path: str) -> str:
        if await asyncio.to_thread(mark, path) < 3:
            raise self.retry(countdown=0)
        return "done"

    @task(shared=False, name="a.autoretries", autoretry_for=(ValueError,), retry_kwargs={"countdown": 0})
    async def autoretries(path: str) -> str:
        if await asyncio.to_thread(mark, path) < 3:
            raise ValueError("not yet")
        return "done"

    @task(shared=False, bind=True, name="a.models", pydantic=True, autoretry_for=(KeyError,))
    async def models(self: Any, point: Point) -> Point:
        await asyncio.sleep(0)
        return Point(x=point.x + 1, y=point.y)

    @task(shared=False, bind=True, name="a.replaces")
    async def replaces(self: Any) -> NoReturn:
        await asyncio.sleep(0)
        raise self.replace(adds.s(1, 2))

    @task(shared=False, name="a.left")
    async def left() -> tuple[str, int]:
        """Return which loop this is, and what goes on there since an earlier task."""
        loop = asyncio.get_running_loop()
        if loop not in _left:
            asked = [0]
            _left[loop] = asked, asyncio.create_task(_counts(asked))
        await asyncio.sleep(0.01)
        return f"{os.getpid()} {threading.get_ident()} {id(loop)}", _left[loop][0][0]

    @task(shared=False, name="a.raises")
    async def raises(what: str) -> NoReturn:
        await asyncio.sleep(0)
        match what:
            case "ValueError":
                raise ValueError("mine")
            case "Ignore":
                raise Ignore
            case "Reject":
                raise Reject("mine", requeue=False)
            case "SystemExit":
                sys.exit(3)
            case "KeyboardInterrupt":
                raise KeyboardInterrupt
            case "MemoryError":
                raise MemoryError("mine")
            case "CancelledError":
                raise asyncio.CancelledError
            case "StopIteration":
                raise StopIteration
            case "TaskGroup":
                async with asyncio.TaskGroup() as group:
                    group.create_task(raises("ValueError"))
        raise AssertionError

    @task(shared=False, name="a.goes_on_until_cancelled")
    async def goes_on_until_cancelled(path: str) -> None:
        mark(path)
        while True:
            progress(1, 2)
            await asyncio.sleep(0.02)

    @task(shared=False, name="a.cleans_up")
    async def cleans_up(path: str, how: str) -> str:
        """Note by what it is ended, as it awaits or computes; and await once more before it ends."""
        end = time.monotonic() + 30
        try:
            mark(path)
            async with asyncio.timeout(60):
                if how == "awaits":
                    await asyncio.sleep(30)
                elif how == "awaits others":
                    await asyncio.gather(asyncio.sleep(30), asyncio.to_thread(lambda: None))
                while time.monotonic() < end:
                    pass
        except (SoftTimeLimitExceeded, asyncio.CancelledError, SystemExit) as exc:
            note(f"{path}.told", type(exc).__name__)
            await asyncio.sleep(0)
            raise
        return "done"

    @task(shared=False, name="a.goes_on")
    async def goes_on(path: str) -> None:
        """End by no exception."""
        mark(path)
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(30)

    @task(shared=False, name="a.meets")
    async def meets(count: int) -> int:
        """Wait until so many are here at once."""
        global _met
        _met = _met or asyncio.Barrier(count)
        await _met.wait()
        return count

    @task(shared=False, name="a.waits_for")
    async def waits_for(path: str, event: str) -> str:
        """Wait until there is a file."""
        mark(path)
        try:
            while not is_there(event):
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            note(f"{path}.told", "CancelledError")
            raise
        return "done"

    @task(shared=False, name="a.alone", max_concurrency=1)
    async def alone() -> int:
        """Return how many of these are here."""
        _alone.append(None)
        await asyncio.sleep(0.05)
        count = len(_alone)
        _alone.pop()
        return count

    @task(shared=False, name="a.ticks")
    async def ticks(path: str, event: str) -> str:
        """Note that the loop goes on, again and again."""
        while not is_there(event):
            mark(path)
            await asyncio.sleep(0.01)
        return "done"

    @task(shared=False, bind=True, name="a.tells_and_ends", autoretry_for=(OSError,), retry_kwargs={"countdown": 0})
    async def tells_and_ends(self: Any, how: str, path: str, event: str) -> str:
        """Tell all that a task can once there is a file, and end."""
        here = checkpoint()
        if here.value == "told":
            return "done"
        mark(path)
        while not is_there(event):
            await asyncio.sleep(0.02)
        get_task_logger("a").warning("late")
        progress(1, 2, "late")
        here.save("told")
        mark(path)
        if how == "retries":
            raise OSError("not yet")
        if how == "retries itself":
            raise self.retry(countdown=0)
        if how == "fails":
            raise ValueError("mine")
        return "done"

    @task(shared=False, name="a.follows")
    async def follows(value: str) -> str:
        await asyncio.sleep(0)
        return value

    @task(shared=False, name="a.computes")
    async def computes(event: str) -> str:
        """Hold the loop up until there is a file."""
        while not is_there(event):
            _computes(depth=5)
        return "done"

    # Celery keeps on a class what the first app that has it says (task_serializer...): so each app has one of its own.
    own: Any = type("Adds", (Adds,), {"__module__": __name__})
    app.on_after_finalize.connect(lambda **_: app.register_task(own()), weak=False)
