"""The schedules for blocking code: a script, a Django view, a task."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from celery import Celery

from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.schedules.schedules import Schedules

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[Schedules, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["BlockingSchedules", P], R]:
    @functools.wraps(method)
    def call(self: "BlockingSchedules", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._runner.run(method(self._schedules, *args, **kwargs))
        raise RuntimeError("this blocks: on an event loop, use Schedules")

    return call


class BlockingSchedules:
    """
    The schedule entries in a ledger's Redis, for blocking code and one thread::

        with BlockingSchedules(app) as schedules:
            schedules.create(Entry(name="report", task="proj.report", crontab="0 6 * * *"))

    Each method does what the one of :class:`Schedules` does, and raises the same. On an event loop they raise
    ``RuntimeError``: use :class:`Schedules` there.

    Args:
        app: The Celery app.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: Celery) -> None:
        self._runner = asyncio.Runner()
        self._ledger = Ledger(app)
        self._schedules = Schedules(self._ledger, app)

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._ledger.close())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    create = _blocking(Schedules.create)
    replace = _blocking(Schedules.replace)
    delete = _blocking(Schedules.delete)
    get = _blocking(Schedules.get)
    find = _blocking(Schedules.find)
    count = _blocking(Schedules.count)
    pause = _blocking(Schedules.pause)
    resume = _blocking(Schedules.resume)
    run = _blocking(Schedules.run)
    backfill = _blocking(Schedules.backfill)
    next_runs = _blocking(Schedules.next_runs)
    runs = _blocking(Schedules.runs)
    quarantined = _blocking(Schedules.quarantined)
    beat = _blocking(Schedules.beat)
    statistics = _blocking(Schedules.statistics)
