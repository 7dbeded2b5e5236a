"""Awaits results: it limits the number and the time of waits, and turns news about tasks into values and errors."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from celery import states

from tornado_celery_bridge.base.errors import described, rebuilt
from tornado_celery_bridge.base.states import ENDED
from tornado_celery_bridge.base.store import Store, Stored
from tornado_celery_bridge.bridge.arguments import check_seconds
from tornado_celery_bridge.bridge.config import RETRY_AFTER, BridgeConfig
from tornado_celery_bridge.bridge.listener import Listener, Watcher
from tornado_celery_bridge.bridge.results import AsyncResult, Result, ancestors, failure, leaves, value
from tornado_celery_bridge.bridge.states import Meta, TaskState
from tornado_celery_bridge.exceptions import (
    BridgeError,
    ResultBackendUnavailable,
    ResultError,
    ResultTimeout,
    StoreUnavailable,
    WaitersSaturated,
)


class Awaiting:
    """
    Awaits results for a bridge. Methods and errors are those of :class:`.Bridge`.

    Args:
        listener: It learns of results.
        backend: Rebuilds exceptions from what is stored; it does not read.
        store: Where large results are, if the app has a store.
    """

    def __init__(self, config: BridgeConfig, listener: Listener, backend: Any, store: Store | None) -> None:
        self.config = config
        self.listener = listener
        self._backend = backend
        self._store = store
        #: The number of waits under way.
        self.waits = 0

    async def get(self, result: Result, timeout: float | None) -> Any:
        check_seconds(timeout=timeout)
        if isinstance(result, AsyncResult) and result._ignored and result._cache is None:
            return None
        await self._wait(_Wait(result, self._rebuild), timeout)
        for leaf in leaves(result):
            if leaf._cache is not None and isinstance(stored := leaf._cache["result"], Stored):
                leaf._cache = {**leaf._cache, "result": await self._load(stored, leaf.id)}
        return value(result)

    async def wait(self, result: Result, timeout: float | None) -> TaskState:
        check_seconds(timeout=timeout)
        wait = _Wait(result, None)
        await self._wait(wait, timeout)
        return TaskState.from_meta(wait.task_id, wait.seen[wait.task_id])

    async def state(self, task_id: str) -> TaskState:
        found = (await self.listener.read([task_id])).get(task_id)
        if isinstance(found, ResultError):
            raise found
        return TaskState.from_meta(task_id, found or {"status": states.PENDING, "result": None})

    async def close(self) -> None:
        for task_id in self.listener.watched:
            self.listener.tell(task_id, ResultBackendUnavailable("the bridge was closed", retry_after=RETRY_AFTER))
        await self.listener.close()

    def watch(self, task_ids: Iterable[str], watcher: Watcher, task_id: str) -> None:
        """
        Report states to *watcher*, until :meth:`unwatch`.

        Raises:
            WaitersSaturated: Too many waits are under way; its ``task_id`` is *task_id*.
        """
        if self.waits >= self.config.max_waiters:
            raise WaitersSaturated("too many waits are under way", task_id=task_id, retry_after=RETRY_AFTER)
        self.listener.watch(task_ids, watcher)
        self.waits += 1

    def unwatch(self, task_ids: Iterable[str], watcher: Watcher) -> None:
        """Stop reporting to *watcher*."""
        self.waits -= 1
        self.listener.unwatch(task_ids, watcher)

    def timed_out(self, task_id: str, timeout: float) -> BridgeError:
        """Return the error for a wait that took too long."""
        if timeout and not self.listener.connected:
            return ResultBackendUnavailable(
                f"the result backend is not reachable; nothing was heard of task {task_id} in {timeout} s",
                task_id=task_id,
                retry_after=RETRY_AFTER,
            )
        return ResultTimeout(f"task {task_id} is not ready after {timeout} s", task_id=task_id)

    async def _wait(self, wait: "_Wait", timeout: float | None) -> None:
        if wait.future.done():
            wait.future.result()
            return
        timeout = self.config.result_timeout if timeout is None else timeout
        if timeout == 0:
            await self._look_once(wait)
            return
        self.watch(wait.task_ids, wait, wait.task_id)
        timer = timeout and wait.future.get_loop().call_later(timeout, self._expire, wait, timeout)
        try:
            await wait.future
        finally:
            self.unwatch(wait.task_ids, wait)
            if timer:
                timer.cancel()

    async def _look_once(self, wait: "_Wait") -> None:
        for task_id, news in (await self.listener.read(wait.task_ids)).items():
            wait(task_id, news)
        if not wait.future.done():
            self._expire(wait, 0)
        wait.future.result()

    def _expire(self, wait: "_Wait", timeout: float) -> None:
        wait.fail(self.timed_out(wait.task_id, timeout))

    def _rebuild(self, meta: Meta) -> Meta:
        """Return what is stored of a failure, with its exception rebuilt."""
        stored = meta["result"]
        cause = rebuilt(stored, lambda stored: self._backend.meta_from_decoded({**meta, "result": stored})["result"])
        return {**meta, "result": cause, "told": described(stored)}

    async def _load(self, stored: Stored, task_id: str) -> Any:
        if self._store is None:
            raise StoreUnavailable("this app has no job_store_url, where the large result is", task_id=task_id)
        return await asyncio.to_thread(self._store.load, stored)


class _Wait:
    """
    One wait for a result. It is done when all tasks of the result have succeeded, or when one has not.

    The tasks before them (a chain's earlier steps, a chord's header) are watched for failure, because the rest of a
    broken chain stays PENDING for ever.

    Args:
        result: What is waited for.
        rebuild: Rebuilds the exceptions in what is stored; None: the wait is for any end, and raises nothing.
    """

    __slots__ = ("_outstanding", "_rebuild", "_result", "future", "seen", "task_ids")

    def __init__(self, result: Result, rebuild: Callable[[Meta], Meta] | None) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._result = result
        self._rebuild = rebuild
        #: The last states of tasks that have ended.
        self.seen: dict[str, Meta] = {}
        self._outstanding: dict[str, AsyncResult[Any]] = {}
        for leaf in leaves(result):
            if leaf._cache is None and not leaf._ignored:
                self._outstanding[leaf.id] = leaf
            elif leaf._cache is not None and not self.future.done():
                self.seen[leaf.id] = leaf._cache
                if leaf._cache["status"] in states.PROPAGATE_STATES and rebuild is not None:
                    self.future.set_exception(failure(leaf.id, leaf._cache))
        #: Ancestors come first, so that a failure is reported for the task in which it began.
        self.task_ids = tuple(
            {leaf.id: None for leaf in ancestors(result) if leaf._cache is None} | dict.fromkeys(self._outstanding)
        )
        self._end_if_complete()

    @property
    def task_id(self) -> str:
        """The id to name in an error."""
        return str(self._result.id)

    def __call__(self, task_id: str, news: Meta | ResultError) -> None:
        if isinstance(news, ResultError):
            news.task_id = news.task_id or task_id
            self.fail(news)
        else:
            self.heard(task_id, news)

    def heard(self, task_id: str, meta: Meta) -> None:
        """Take in the state of one task."""
        if meta["status"] not in ENDED or self.future.done():
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
        meta = self._rebuild(meta)
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
