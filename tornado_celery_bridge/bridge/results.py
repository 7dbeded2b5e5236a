"""The results that a bridge returns: Celery's own, but they can be awaited and never do I/O on an event loop."""

import asyncio
import contextlib
from collections.abc import Awaitable, Generator, Iterator
from typing import Any, Generic, Protocol, TypeVar

import celery.result
import vine
from celery import Celery, states

from tornado_celery_bridge.base.errors import Described, described
from tornado_celery_bridge.base.states import ENDED
from tornado_celery_bridge.base.versions import CelerysResult
from tornado_celery_bridge.bridge.states import Meta
from tornado_celery_bridge.exceptions import TaskFailed, TaskRevoked, WouldBlock

T = TypeVar("T")


def _refuse_on_loop(what: str, instead: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise WouldBlock(f"{what} would block the event loop: {instead}")


class AnyBridge(Protocol):
    """What results, and whoever makes them, use of a :class:`.Bridge`."""

    app: Celery

    async def get(self, result: Any, *, timeout: float | None = None) -> Any: ...
    def dispatch(self, *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


class AsyncResult(CelerysResult, Generic[T]):
    """
    Celery's ``AsyncResult`` that can be awaited: ``value = await result``.

    Off the event loop it is what Celery documents. On the loop, a method that would wait for the network raises
    ``WouldBlock``, which names what to await instead. Once awaited, ``result.state``, ``result.result`` and the like
    answer from memory. Nothing happens when it is garbage-collected.

    .. versionadded:: 0.1.0
    """

    id: str
    parent: Any
    _cache: Any
    _ignored: bool

    def __init__(self, task_id: str, bridge: AnyBridge, parent: "Result | None" = None) -> None:
        # Not Celery's own initialiser: it makes a backend for the calling thread, and a promise.
        self.id = task_id
        self.parent = parent
        self.app = bridge.app
        self._bridge = bridge
        self._cache: Any = None
        self._ignored = False

    def __await__(self) -> Generator[Any, None, T]:
        return self._bridge.get(self).__await__()

    def future(self) -> "asyncio.Future[T]":
        """
        Return a future of the value, for functions that need one: ``gen.WaitIterator``, ``gen.maybe_future``.

        If the future is cancelled, the task still runs.
        """
        return asyncio.ensure_future(self._bridge.get(self))

    @property
    def backend(self) -> Any:  # type: ignore[override]
        _refuse_on_loop("AsyncResult.backend", "await the result, or bridge.state(result)")
        return self.app.backend

    def __getattr__(self, name: str) -> Any:
        """Make Celery's promise when somebody asks for it: a `ResultSet` does, and no one on the loop."""
        if name != "on_ready":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _refuse_on_loop("AsyncResult.on_ready", "await the result, or its future()")
        self.on_ready = vine.promise(self._on_fulfilled, weak=True)
        if self._cache:  # it has ended before anybody asked
            self.on_ready(self)
        return self.on_ready

    def then(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_on_loop("AsyncResult.then()", "await the result, or its future()")
        return super().then(*args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_on_loop("AsyncResult.get()", "`await result`, or bridge.get(result, timeout=…)")
        waiting: Any = _Waiting(self.id, app=self.app, parent=self.parent)
        try:
            return waiting.get(*args, **kwargs)
        finally:
            with contextlib.suppress(Exception):  # as of Celery's own __del__
                waiting.backend.remove_pending_result(waiting)

    wait = get

    def forget(self) -> None:
        _refuse_on_loop("AsyncResult.forget()", "await bridge.forget(result)")
        super().forget()

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        _refuse_on_loop("AsyncResult.revoke()", "await bridge.revoke(result)")
        super().revoke(*args, **kwargs)

    def revoke_by_stamped_headers(self, *args: Any, **kwargs: Any) -> None:
        _refuse_on_loop("AsyncResult.revoke_by_stamped_headers()", "call it in an executor")
        super().revoke_by_stamped_headers(*args, **kwargs)

    def _maybe_set_cache(self, meta: Any) -> Any:
        if meta and meta["status"] in ENDED:
            meta = self._set_cache(self.backend.meta_from_decoded(meta))
            if "on_ready" in self.__dict__:
                self.on_ready(self)
        return meta

    def __copy__(self) -> "AsyncResult[T]":
        copy: AsyncResult[T] = type(self)(self.id, self._bridge, self.parent)
        copy._cache, copy._ignored = self._cache, self._ignored
        return copy

    def __reduce__(self) -> Any:
        return celery.result.AsyncResult, (self.id, None, None, None, self.parent)

    def __del__(self) -> None:
        """Do nothing: Celery's would unsubscribe, in whichever thread the collector runs."""


class _Waiting(CelerysResult):
    """Celery's result, for one ``get`` off the loop. It is part of a cycle: the collector may find it on the loop."""

    def __del__(self) -> None:
        """Do nothing, as in :class:`AsyncResult`."""


class GroupResult(celery.result.GroupResult):
    """
    Celery's ``GroupResult`` that can be awaited: ``values = await result``, in the order of the group.

    .. versionadded:: 0.1.0
    """

    results: Any
    parent: Any

    def __init__(
        self, group_id: str, results: "list[Result]", bridge: AnyBridge, parent: "Result | None" = None
    ) -> None:
        self.id = group_id
        self.results = results
        self.parent = parent
        self._app = bridge.app
        self._bridge = bridge

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._bridge.get(self).__await__()

    def future(self) -> "asyncio.Future[list[Any]]":
        """Return a future of the values. If it is cancelled, the tasks still run."""
        return asyncio.ensure_future(self._bridge.get(self))

    def get(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_on_loop("GroupResult.get()", "`await result`, or bridge.get(result, timeout=…)")
        return super().get(*args, **kwargs)

    def join(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_on_loop("GroupResult.join()", "`await result`, or bridge.get(result, timeout=…)")
        return super().join(*args, **kwargs)

    def join_native(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_on_loop("GroupResult.join_native()", "`await result`, or bridge.get(result, timeout=…)")
        _ = self.on_ready  # which subscribes: Celery looks once before that, and would miss an end in between
        return super().join_native(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Make Celery's promises when somebody asks for one, as in :class:`AsyncResult`."""
        if name not in ("on_ready", "_on_full"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _refuse_on_loop("GroupResult.on_ready", "await the result, or its future()")
        celery.result.ResultSet.__init__(self, self.results, app=self._app)
        return self.__dict__[name]

    def save(self, backend: Any = None) -> Any:
        _refuse_on_loop("GroupResult.save()", "call it in an executor")
        return super().save(backend)

    def delete(self, backend: Any = None) -> None:
        _refuse_on_loop("GroupResult.delete()", "call it in an executor")
        super().delete(backend)

    def then(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_on_loop("GroupResult.then()", "await the result, or its future()")
        return super().then(*args, **kwargs)

    def __reduce__(self) -> Any:
        return celery.result.GroupResult, (self.id, self.results)

    def __del__(self) -> None:
        """Do nothing, as in :class:`AsyncResult`."""


#: What a bridge returns.
Result = AsyncResult[Any] | GroupResult


def checked_id(task_id: Any) -> str:
    """
    Return *task_id*.

    Raises:
        TypeError, ValueError: It is no text (a UUID, say), or can't be a task's id: nothing would ever be heard of it.
    """
    if not isinstance(task_id, str):
        raise TypeError(f"a task's id is a text, and {task_id!r} is none: give str() of it")
    if not task_id:
        raise ValueError("a task's id is not empty")
    task_id.encode()  # half of a surrogate pair can't be sent
    return task_id


def adopt(result: Any, bridge: AnyBridge) -> Result:
    """Return a *result* that Celery made as ours, with its parents (a long chain has many) and children."""
    line: list[Any] = []
    while result is not None and not isinstance(result, AsyncResult | GroupResult):
        if not isinstance(result, celery.result.ResultBase):
            raise TypeError(f"{result!r} is neither a result nor a task's id")
        line.append(result)
        result = result.parent
    for each in reversed(line):
        result = _adopt(each, bridge, result)
    adopted: Result = result
    return adopted


def _adopt(result: Any, bridge: AnyBridge, parent: Result | None) -> Result:
    if isinstance(result, celery.result.ResultSet):
        children = [adopt(child, bridge) for child in result.results or ()]
        return GroupResult(getattr(result, "id", None) or "", children, bridge, parent)
    ours: AsyncResult[Any] = AsyncResult(checked_id(result.id), bridge, parent)
    ours._ignored = bool(getattr(result, "_ignored", False))
    if isinstance(result, celery.result.EagerResult):
        ours._cache = result._cache  # type: ignore[attr-defined]
    return ours


def leaves(result: Result) -> Iterator[AsyncResult[Any]]:
    """Yield the results of the single tasks in *result*."""
    if isinstance(result, AsyncResult):
        yield result
    else:
        for child in result.results:
            yield from leaves(child)


def ancestors(result: Result) -> Iterator[AsyncResult[Any]]:
    """Yield the results of the tasks before *result*: if one of them fails, *result* never comes."""
    stack: list[Any] = [child.parent for child in leaves(result)] + [result.parent]
    seen: set[str] = set()
    while stack:
        parent = stack.pop()
        if parent is None or parent.id in seen:
            continue
        seen.add(parent.id)
        yield from leaves(parent)
        stack.append(parent.parent)


def value(result: Result) -> Any:
    """Return the value of a *result* whose leaves are all known to have succeeded."""
    if isinstance(result, AsyncResult):
        return None if result._cache is None else result._cache["result"]
    return [value(child) for child in result.results]


def failure(task_id: str, meta: Meta) -> TaskFailed | TaskRevoked:
    """Return the error for a task that did not succeed, from its *meta* with the exception rebuilt."""
    cause = meta["result"]
    told: Described = meta.get("told") or described(cause)
    error: TaskFailed | TaskRevoked
    if meta["status"] == states.REVOKED:
        error = TaskRevoked(f"task {task_id} was revoked: {told.message}", task_id=task_id)
    else:
        what = f"{told.type.rpartition('.')[2]}: {told.message}"
        error = TaskFailed(f"task {task_id} failed: {what}", task_id=task_id, traceback=meta.get("traceback"))
    error.__cause__ = cause if isinstance(cause, BaseException) else None
    return error
