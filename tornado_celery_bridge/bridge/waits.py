"""Waits for results: a future, and what a listener tells it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from celery import states

from tornado_celery_bridge.bridge.listener import Listener
from tornado_celery_bridge.bridge.results import AsyncResult, Result, ancestors, failure, leaves, value
from tornado_celery_bridge.bridge.states import Meta, TaskState
from tornado_celery_bridge.exceptions import ResultError

__all__ = ("Follower", "Wait")

#: States that a stream's consumer may be behind; older progress is dropped first.
MAX_BEHIND = 256


class Wait:
    """
    One wait for a result: done when all its tasks succeeded, or at the first that did not.

    Tasks that it comes after (a chain's earlier steps, a chord's header) are watched for failure: the rest of a
    broken chain stays PENDING for ever.

    Args:
        result: What is waited for.
        rebuild: Turns what is stored into what Celery shows, exceptions rebuilt; None: any end is an end.
    """

    __slots__ = ("_outstanding", "_rebuild", "_result", "future", "seen", "task_ids")

    def __init__(self, result: Result, rebuild: Callable[[Meta], Meta] | None) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._result = result
        self._rebuild = rebuild
        #: The states in which tasks ended.
        self.seen: dict[str, Meta] = {}
        self._outstanding: dict[str, AsyncResult[Any]] = {}
        for leaf in leaves(result):
            if leaf._cache is None and not leaf._ignored:
                self._outstanding[leaf.id] = leaf
            elif leaf._cache is not None and not self.future.done():
                self.seen[leaf.id] = leaf._cache
                if leaf._cache["status"] in states.PROPAGATE_STATES and rebuild is not None:
                    self.future.set_exception(failure(leaf.id, leaf._cache))
        #: Ancestors first: a failure is told from where it began.
        self.task_ids = tuple(
            {leaf.id: None for leaf in ancestors(result) if leaf._cache is None} | dict.fromkeys(self._outstanding)
        )
        self._end_if_complete()

    @property
    def task_id(self) -> str:
        """The id to name in an error."""
        return str(self._result.id)

    def watch(self, listener: Listener) -> None:
        """Hear of the tasks from *listener*."""
        listener.watch(self.task_ids, self)

    def unwatch(self, listener: Listener) -> None:
        """Hear no more."""
        listener.unwatch(self.task_ids, self)

    def __call__(self, task_id: str, news: Meta | ResultError) -> None:
        if isinstance(news, ResultError):
            news.task_id = news.task_id or task_id
            self.fail(news)
        else:
            self.heard(task_id, news)

    def heard(self, task_id: str, meta: Meta) -> None:
        """Take note of the state of one task."""
        if meta["status"] not in states.READY_STATES or self.future.done():
            return
        leaf = self._outstanding.get(task_id)
        if self._rebuild is None:
            self.seen[task_id] = meta
        elif meta["status"] in states.PROPAGATE_STATES:
            self._heard_of_failure(task_id, leaf, meta)
            return
        elif leaf is not None:
            leaf._cache = meta
        if leaf is not None:
            del self._outstanding[task_id]
        self._end_if_complete()

    def _heard_of_failure(self, task_id: str, leaf: AsyncResult[Any] | None, meta: Meta) -> None:
        assert self._rebuild is not None
        try:
            meta = self._rebuild(meta)
        except Exception as exc:  # what is stored is not an exception that Celery will rebuild
            self.fail(ResultError(f"the failure of task {task_id} can't be rebuilt: {exc}", task_id=task_id))
            return
        if leaf is not None:
            leaf._cache = meta
        self.fail(failure(task_id, meta))

    def fail(self, error: Exception) -> None:
        """End the wait with *error*."""
        if not self.future.done():
            self.future.set_exception(error)

    def _end_if_complete(self) -> None:
        if not self._outstanding and not self.future.done():
            self.future.set_result(value(self._result) if self._rebuild is not None else None)


class Follower:
    """The states of one task, from a listener to one consumer, each once."""

    def __init__(self, first: TaskState) -> None:
        self._last = first
        self._states: deque[TaskState | ResultError] = deque()
        self._wake = asyncio.Event()

    def __call__(self, task_id: str, news: Meta | ResultError) -> None:
        if isinstance(news, ResultError):
            self._states.append(news)
        else:
            state = TaskState.from_meta(task_id, news)
            newest = self._states[-1] if self._states else self._last
            if newest == state or (isinstance(newest, TaskState) and newest.ready):
                return
            if len(self._states) >= MAX_BEHIND:
                self._states.popleft()
            self._states.append(state)
        self._wake.set()

    def __aiter__(self) -> "Follower":
        return self

    async def __anext__(self) -> TaskState:
        if self._last.ready:
            raise StopAsyncIteration
        while not self._states:
            self._wake.clear()
            await self._wake.wait()
        state = self._states.popleft()
        if isinstance(state, ResultError):
            raise state
        self._last = state
        return state
