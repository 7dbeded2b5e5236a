"""Streams: the states of one task as they come, and results when their tasks end."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from tornado_celery_bridge.bridge.arguments import check_seconds
from tornado_celery_bridge.bridge.awaiting import Awaiting
from tornado_celery_bridge.bridge.results import AsyncResult
from tornado_celery_bridge.bridge.states import Meta, TaskState
from tornado_celery_bridge.exceptions import (
    BridgeError,
    ResultBackendUnavailable,
    ResultError,
    ResultTimeout,
    WaitersSaturated,
)

T = TypeVar("T")

#: How many states a consumer may be behind. After that, the oldest progress is dropped first.
MAX_BEHIND = 256


async def stream(awaiting: Awaiting, task_id: str, timeout: float | None) -> AsyncIterator[TaskState]:
    """Yield the states of a task; see :meth:`.Bridge.stream`."""
    check_seconds(timeout=timeout)
    first = await awaiting.state(task_id)
    if first.ready:
        yield first
        return
    timeout = awaiting.config.result_timeout if timeout is None else timeout
    deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
    coming = _States(first)
    awaiting.watch([task_id], coming, task_id)
    try:
        yield first  # what comes meanwhile is kept
        while not coming.ended:
            try:
                async with asyncio.timeout_at(deadline):  # not around `yield`: it would cancel the consumer (PEP 789)
                    state = await coming.next()
            except ResultTimeout:
                raise
            except TimeoutError:
                raise awaiting.timed_out(task_id, timeout or 0.0) from None
            yield state
    finally:
        awaiting.unwatch([task_id], coming)


async def as_completed(
    get: Callable[[AsyncResult[T]], Awaitable[Any]], results: Iterable[AsyncResult[T]]
) -> AsyncIterator[AsyncResult[T]]:
    """Yield each of *results* when *get* has it; see :meth:`.Bridge.as_completed`."""

    async def ended(result: AsyncResult[T]) -> AsyncResult[T]:
        try:
            await get(result)
        except (ResultTimeout, ResultBackendUnavailable, WaitersSaturated):
            raise
        except BridgeError:  # the task has ended, without a value
            pass
        return result

    tasks = [asyncio.ensure_future(ended(result)) for result in results]
    try:
        for future in asyncio.as_completed(tasks):
            yield await future
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _States:
    """The states of one task, on their way from a listener to one consumer. Each comes once."""

    def __init__(self, first: TaskState) -> None:
        self._last = first
        self._states: deque[TaskState | ResultError] = deque()
        self._wake = asyncio.Event()
        #: The number of the last item of each attempt.
        self._items: dict[str, int] = {}
        self._is_old(first)

    def _is_old(self, state: TaskState) -> bool:
        """Return whether it tells of an item that is not the next: what is read and what is heard cross each other."""
        if state.item is None:
            return False
        of, number = str(state.meta["result"]["of"]), state.item.number
        if number <= self._items.get(of, 0):
            return True
        self._items[of] = number
        return False

    def __call__(self, task_id: str, news: Meta | ResultError) -> None:
        if isinstance(news, ResultError):
            self._states.append(news)
        else:
            state = TaskState.from_meta(task_id, news)
            newest = self._states[-1] if self._states else self._last
            if newest == state or (isinstance(newest, TaskState) and newest.ready) or self._is_old(state):
                return
            if len(self._states) >= MAX_BEHIND:
                self._states.popleft()
            self._states.append(state)
        self._wake.set()

    @property
    def ended(self) -> bool:
        """Whether the task's last state was taken."""
        return self._last.ready

    async def next(self) -> TaskState:
        """Wait for the next state, and take it."""
        while not self._states:
            self._wake.clear()
            await self._wake.wait()
        state = self._states.popleft()
        if isinstance(state, ResultError):
            raise state
        self._last = state
        return state
