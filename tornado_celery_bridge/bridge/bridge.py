"""
The bridge: dispatches signatures and awaits their results, for one event loop.

This is the facade, with all that is documented. What it does, its parts do, each a subject of its own:

    sending     from the loop to the broker, with or without a job in the ledger
    awaiting    waits for results, by a listener: pubsub (Redis), polling (other backends)
    streams     states as they come, results as their tasks end
    operating   remote control, purging, forgetting
    guard       refuses Celery's own blocking calls on the loop
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, overload

from celery import Celery, Task
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from celery.canvas import Signature, chain, chunks, group
from celery.exceptions import ImproperlyConfigured

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.lane import Lane
from tornado_celery_bridge.base.store import Store
from tornado_celery_bridge.bridge import streams
from tornado_celery_bridge.bridge.arguments import check_app
from tornado_celery_bridge.bridge.awaiting import Awaiting
from tornado_celery_bridge.bridge.config import BridgeConfig
from tornado_celery_bridge.bridge.guard import Guard
from tornado_celery_bridge.bridge.listener import Listener
from tornado_celery_bridge.bridge.memory import MemoryBackend, MemoryListener
from tornado_celery_bridge.bridge.operating import MAX_CALLS, Caller, Operating
from tornado_celery_bridge.bridge.polling import PollingListener, RpcListener
from tornado_celery_bridge.bridge.pubsub import RedisListener
from tornado_celery_bridge.bridge.results import AsyncResult, GroupResult, Result, adopt, checked_id, leaves
from tornado_celery_bridge.bridge.sending import PublishingLanes, Sending, time_left
from tornado_celery_bridge.bridge.states import TaskState
from tornado_celery_bridge.exceptions import BridgeClosed, BridgeError
from tornado_celery_bridge.ledger import Ledger, Purged
from tornado_celery_bridge.ledger.checks import is_installed
from tornado_celery_bridge.schedules import Schedules
from tornado_celery_bridge.transports.publisher import Publisher, Target

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: Large canvases that are published at once, each by a thread and a connection that are made for the first one.
LARGE_AT_ONCE = 4


class _Parts(NamedTuple):
    """What an open bridge works with."""

    sending: Sending
    awaiting: Awaiting
    operating: Operating
    listener: Listener
    publisher: Lane
    lanes: tuple[Lane, ...]


class Bridge:
    """
    Dispatches tasks of a Celery app from an event loop, and awaits their results. Nothing in it blocks the loop.

    Open and close the bridge with the application, in the loop that uses it::

        async with Bridge(app) as bridge:
            result = await bridge.dispatch(add.s(2, 2))
            value = await result

    Args:
        app: Any Celery app. Its settings say where the broker and the result backend are.
        config: The bridge's own settings.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: Celery, config: BridgeConfig | None = None) -> None:
        check_app(app)
        self.app = app
        self.config = config or BridgeConfig()
        #: The store of large inputs and results, once the bridge is open; None if the app has no ``job_store_url``.
        self.store: Store | None = None
        self._ledger: Ledger | None = None
        self._guard: Guard | None = None
        self._open = False
        self._parts: _Parts

    # Opening and closing.

    async def start(self) -> Self:
        """
        Open the bridge for the running loop. It connects to broker and backend by itself, and again if need be.

        Raises:
            ImproperlyConfigured: The app has no result backend, or one that a bridge can't use, or a ``job_store_url``
                that can't be used.
        """
        backend = await asyncio.to_thread(self._prepare_app)
        self._parts = self._make_parts(backend)
        tracing.follow_publishing()
        self._parts.listener.start()
        for lane in self._parts.lanes:
            lane.start()
        refuses = self.config.refuse_blocking_calls
        if asyncio.get_running_loop().get_debug() if refuses is None else refuses:
            self._guard = Guard.of(self.app)
            self._guard.begin()
        self._open = True
        return self

    async def close(self) -> None:
        """
        Close the bridge: dispatches under way get ``close_timeout`` to finish, waits and streams under way raise
        `ResultBackendUnavailable`.
        """
        if not self._open:
            return
        self._open = False
        if self._guard is not None:
            self._guard.end()
            self._guard = None
        await asyncio.gather(*(lane.close(self.config.close_timeout) for lane in self._parts.lanes))
        await self._parts.awaiting.close()
        if self._ledger is not None:
            await self._ledger.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _prepare_app(self) -> Any:
        """Do what Celery does at its first use, outside the loop: import the tasks, find the backend."""
        self.app.finalize()
        self.app.loader.import_default_modules()
        self.store = Store.of_app(self.app)
        with contextlib.suppress(ImproperlyConfigured):  # it connects at first use
            self._ledger = Ledger(self.app, ttl=self.config.job_ttl)
        backend: Any = self.app.backend
        self._installed = is_installed(self.app)
        _ = self.app.control  # made here: it imports
        if isinstance(backend, DisabledBackend):
            raise ImproperlyConfigured("the app has no result_backend: set one, because a bridge awaits results")
        if backend.thread_safe:
            raise ImproperlyConfigured(
                "the result backend must not be shared by threads (thread_safe): the publisher thread needs its own"
            )
        return backend

    def _make_listener(self, backend: Any) -> Listener:
        if isinstance(backend, RedisBackend):
            return RedisListener(backend, sweep_interval=self.config.sweep_interval)
        if isinstance(backend, RPCBackend):
            return RpcListener(self.app, backend)
        if isinstance(backend, MemoryBackend):
            return MemoryListener(self.app)
        return PollingListener(self.app, interval=self.config.poll_interval)

    def _make_parts(self, backend: Any) -> _Parts:
        app, config = self.app, self.config
        listener = self._make_listener(backend)
        keep_reply_queue = listener.consume if isinstance(listener, RpcListener) else None
        lane = functools.partial(Lane, stuck_after=config.stuck_after, reset=config.breaker_reset)
        publishing = functools.partial(
            lane, make_runner=lambda: Publisher(app, keep_reply_queue), max_pending=config.max_pending_dispatches
        )
        calling = functools.partial(lane, make_runner=Caller, max_pending=MAX_CALLS, max_batch=1)
        lanes = PublishingLanes(
            plain=publishing("tornado_celery_bridge publisher"),
            canvases=publishing("tornado_celery_bridge canvases", max_batch=1, lazy=True),
            large=tuple(
                publishing(f"tornado_celery_bridge large canvases {number}", max_batch=1, lazy=True)
                for number in range(1, LARGE_AT_ONCE + 1)
            ),
            caller=calling("tornado_celery_bridge control"),
        )
        operator = calling("tornado_celery_bridge operator")
        return _Parts(
            Sending(self, config, lanes, lambda: self.ledger, installed=self._installed),
            Awaiting(config, listener, backend, self.store),
            Operating(app, config, lanes.caller, operator),
            listener,
            lanes.plain,
            (lanes.plain, lanes.canvases, *lanes.large, lanes.caller, operator),
        )

    @property
    def _opened(self) -> _Parts:
        if not self._open:
            raise BridgeClosed("the bridge is not open: use `async with Bridge(app)`, or await bridge.start()")
        return self._parts

    @property
    def ledger(self) -> Ledger:
        """
        The app's job ledger.

        Raises:
            ImproperlyConfigured: Neither the app's ``job_ledger_url`` nor its result backend is a Redis.

        .. versionadded:: 0.1.0
        """
        _ = self._opened
        if self._ledger is None:
            raise ImproperlyConfigured("the job ledger lives in Redis: set job_ledger_url, or a Redis result_backend")
        return self._ledger

    @property
    def schedules(self) -> Schedules:
        """
        The schedule entries in the app's ledger: make, change, run and read them while beat runs. Raises as
        :attr:`ledger` does.

        .. versionadded:: 0.1.0
        """
        return Schedules(self.ledger, self.app)

    # Dispatching.

    @overload
    async def dispatch(
        self,
        target: group | chunks,
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> GroupResult: ...
    @overload
    async def dispatch(
        self,
        target: chain,
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> Any: ...
    @overload
    async def dispatch(  # a task of ``async def``
        self,
        target: "Task[P, Coroutine[Any, Any, R]] | Signature[Coroutine[Any, Any, R]]",
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> AsyncResult[R]: ...
    @overload
    async def dispatch(
        self,
        target: "Task[P, R] | Signature[R]",
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> AsyncResult[R]: ...
    @overload
    async def dispatch(
        self,
        target: str,
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> AsyncResult[Any]: ...

    async def dispatch(
        self,
        target: Target,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        dispatch_timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """
        Publish a task, chain, group or chord, and return its result, which can be awaited.

        Returns when the broker has the message. If the call is cancelled, the message may still be sent.

        Args:
            target: A signature or canvas, a task, or a task's name.
            args: Positional arguments; for a signature, put before its own, as Celery does.
            kwargs: Named arguments.
            dispatch_timeout: Seconds from now, instead of the config's.
            options: As ``Task.apply_async`` takes them: ``countdown``, ``queue``, ``task_id``…
                https://docs.celeryq.dev/en/stable/reference/celery.app.task.html#celery.app.task.Task.apply_async

        Returns:
            An :class:`AsyncResult`, of the type that the task's hints say; for a group, and a chain that ends in one, a
            :class:`GroupResult`.

        Raises:
            BrokerUnavailable: Not sent.
            DispatchSaturated: Not sent; too many dispatches are under way.
            DispatchUncertain: The message may have been sent.
            TypeError, kombu.exceptions.EncodeError, celery.exceptions.QueueNotFound: Not sent; Celery raises these.
            TypeError, ValueError: Not sent, as it could never end: a ``task_id`` that is no text or is empty, an empty
                chain, a chord of tasks that ignore their results (with a result backend other than Redis).

        .. versionadded:: 0.1.0
        """
        return await self._opened.sending.dispatch(target, args, kwargs, options, dispatch_timeout)

    @overload
    async def submit(
        self,
        target: "Task[P, Coroutine[Any, Any, R]] | Signature[Coroutine[Any, Any, R]]",
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        owner: str = ...,
        tags: Sequence[str] = ...,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> AsyncResult[R]: ...
    @overload
    async def submit(
        self,
        target: "Task[P, R] | Signature[R]",
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        owner: str = ...,
        tags: Sequence[str] = ...,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> AsyncResult[R]: ...
    @overload
    async def submit(
        self,
        target: str,
        args: Sequence[Any] = ...,
        kwargs: Mapping[str, Any] | None = ...,
        *,
        owner: str = ...,
        tags: Sequence[str] = ...,
        dispatch_timeout: float | None = ...,
        **options: Any,
    ) -> AsyncResult[Any]: ...

    async def submit(
        self,
        target: Target,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        owner: str = "",
        tags: Sequence[str] = (),
        retry_of: str | None = None,
        dispatch_timeout: float | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """
        Have a task run, whatever crashes after this has returned: write it into the app's ledger, then publish it.

        While the broker is away the job waits in the ledger, and a worker publishes it later. A worker also publishes
        again what was lost (docs/states.md). For that the app's workers keep the ledger: :func:`install`.

        Whatever this raises, you may call it again with the same ``task_id``: one id is one job.

        Args:
            target: A signature (but not a chain, group or chord), a task, or a task's name.
            args: Positional arguments; for a signature, put before its own, as Celery does.
            kwargs: Named arguments.
            owner: Whose job it is; empty if jobs have no owners.
            tags: Words by which the job is found.
            retry_of: The id of the job that this one tries again.
            dispatch_timeout: Seconds from now for the broker to take it, instead of the config's.
            options: As ``Task.apply_async`` takes them: ``countdown``, ``queue``, ``task_id``…

        Raises:
            LedgerUnavailable, DispatchUncertain: Perhaps accepted.
            BrokerUnavailable, DispatchSaturated: Not accepted; the broker is away, and too many jobs wait for it.
            TypeError, kombu.exceptions.EncodeError, celery.exceptions.QueueNotFound: Not accepted; as Celery raises
                them, and TypeError for a canvas, or arguments of which only some have names.
            ImproperlyConfigured: There is no ledger (see :attr:`ledger`), no worker keeps it (:func:`install` was not
                called for this app), or tasks run eagerly.

        .. versionadded:: 0.1.0
        """
        return await self._opened.sending.submit(
            target, args, kwargs, options, owner=owner, tags=tags, retry_of=retry_of, timeout=dispatch_timeout
        )

    def time_left(self, begun: float, timeout: float | None = None) -> float:
        """
        Return how many seconds the broker may take, if the ledger and the broker share one deadline.

        Args:
            begun: ``time.monotonic()`` at the beginning.
            timeout: Seconds from then; None for the config's ``dispatch_timeout``.

        .. versionadded:: 0.1.0
        """
        return time_left(self.config, begun, timeout)

    async def publish(
        self,
        target: Target,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        job_id: str | None = None,
        dispatch_timeout: float | None = None,
        **options: Any,
    ) -> BridgeError | None:
        """
        Publish what the ledger has accepted, or leave that to a worker, which does it when the broker is back.

        Arguments and errors are those of :meth:`dispatch`, except for these.

        Args:
            job_id: The job that begins a canvas; without it, the ``task_id`` is the job's id.

        Returns:
            None if the broker has it; else why a worker will publish it.

        Raises:
            DispatchUncertain: The broker and the ledger are both away: it may be published.
            BrokerUnavailable, DispatchSaturated: It will not be published: too many jobs wait for the broker.

        .. versionadded:: 0.1.0
        """
        return await self._opened.sending.publish(target, args, kwargs, options, dispatch_timeout, job_id)

    # Awaiting.

    @overload
    async def get(self, result: AsyncResult[T], *, timeout: float | None = None) -> T: ...
    @overload
    async def get(self, result: GroupResult, *, timeout: float | None = None) -> list[Any]: ...
    @overload
    async def get(self, result: str, *, timeout: float | None = None) -> Any: ...

    async def get(self, result: Result | str, *, timeout: float | None = None) -> Any:
        """
        Return the task's return value when it is ready; for a group, the list of its values.

        Cancelling the wait leaves the task running. A task that ignores its result returns None at once.

        Args:
            result: What :meth:`dispatch` returned, or a task's id.
            timeout: Seconds from now (not a Tornado deadline); 0 reads once. None: the config's ``result_timeout``.

        Raises:
            TaskFailed: The task, or one before it in a chain or chord, raised; see ``__cause__``.
            TaskRevoked: The task was revoked, or expired.
            ResultTimeout: Not ready in time; the task may still finish.
            ResultBackendUnavailable: Not known in time: the backend does not answer.
            WaitersSaturated: Too many waits are under way.
            BlobLost, StoreUnavailable: The task succeeded, but its large result can't be read from the store.
            ResultError: What is stored of the task can't be read.

        .. versionadded:: 0.1.0
        """
        return await self._opened.awaiting.get(self._result(result), timeout)

    async def wait(self, result: AsyncResult[Any] | str, *, timeout: float | None = None) -> TaskState:
        """
        Return the state in which the task ended, whether it succeeded or not.

        Arguments and errors are those of :meth:`get`, without ``TaskFailed`` and ``TaskRevoked``.

        .. versionadded:: 0.1.0
        """
        return await self._opened.awaiting.wait(self._result(result), timeout)

    def _result(self, result: Result | str) -> Result:
        if result is None or isinstance(result, str):
            return AsyncResult(checked_id(result), self)
        return adopt(result, self)

    async def state(self, result: AsyncResult[Any] | str) -> TaskState:
        """
        Return what the result backend says of the task now; an unknown id is PENDING.

        Raises:
            ResultBackendUnavailable: The backend did not answer.

        .. versionadded:: 0.1.0
        """
        return await self._opened.awaiting.state(_id_of(result))

    def stream(self, result: AsyncResult[Any] | str, *, timeout: float | None = None) -> AsyncIterator[TaskState]:
        """
        Yield the task's states and progress as they come; it ends after the last one.

        The first state is what the backend has now. A consumer that is slower than the task misses progress that newer
        progress has replaced, and nothing else. (With a result backend that is polled, what another state replaces
        between two looks is not seen either, be it the last progress before the end.) The stream is closed with its
        generator.

        Args:
            result: What :meth:`dispatch` returned, or a task's id.
            timeout: Seconds from now for the whole stream. None: the config's ``result_timeout``.

        Raises:
            ResultTimeout, ResultBackendUnavailable, WaitersSaturated: As in :meth:`get`.

        .. versionadded:: 0.1.0
        """
        return streams.stream(self._opened.awaiting, _id_of(result), timeout)

    def as_completed(
        self, results: Iterable[AsyncResult[T]], *, timeout: float | None = None
    ) -> AsyncIterator[AsyncResult[T]]:
        """
        Yield each of *results* when its task ends; awaiting it then does not wait.

        Args:
            results: What :meth:`dispatch` returned.
            timeout: Seconds from now for all of them. None: the config's ``result_timeout``.

        Raises:
            ResultTimeout: Some results were not ready in time.

        .. versionadded:: 0.1.0
        """
        return streams.as_completed(lambda result: self.get(result, timeout=timeout), results)

    # Operating.

    async def revoke(self, result: Result | str, *, terminate: bool = False, signal: str = "SIGTERM") -> None:
        """
        Tell all workers not to run the task, or with *terminate* to end the process that runs it.

        This is a broadcast: workers that are not connected now do not get it.
        https://docs.celeryq.dev/en/stable/userguide/workers.html#revoke-revoking-tasks

        Raises:
            BrokerUnavailable: No worker was told, or it is not known whether one was.

        .. versionadded:: 0.1.0
        """
        await self._opened.operating.revoke(self._ids_of(result), terminate, signal)

    async def purge(self, queue: str, reason: str = "its queue was purged") -> Purged:
        """
        Empty a queue: end its jobs that have not begun as REVOKED, then remove all messages from the broker's queue
        (also those of tasks that are not jobs), then tell whoever waits for results. That takes longest: 2 ms a job.

        A message that a worker has taken is not in the queue any more: its job ends now, and it is dropped later.

        Args:
            queue: Its name.
            reason: The text of each job's error.

        Raises:
            LedgerUnavailable: Some jobs have ended; no message was removed.
            BrokerUnavailable: The jobs have ended; their messages may still be there, and workers drop them.
            ResultBackendUnavailable: The queue is empty, but not everybody who waits for a result was told.

        .. versionadded:: 0.1.0
        """
        return await self._opened.operating.purge(self.ledger, queue, reason)

    async def shut_down_worker(self, name: str) -> None:
        """
        Tell a worker to end when its running tasks have ended. Workers do not answer that.

        Args:
            name: The worker's node name.

        Raises:
            BrokerUnavailable: The worker was not told, or it is not known whether it was.

        .. versionadded:: 0.1.0
        """
        await self._opened.operating.shut_down_worker(name)

    async def resize_pool(self, name: str, by: int) -> dict[str, str] | None:
        """
        Have a worker run more or fewer tasks at once, until it is started again.

        Args:
            name: The worker's node name.
            by: How many more; a negative number for fewer.

        Returns:
            Its answer: ``{"ok": …}`` or ``{"error": …}``; None if there was none within 3 s.

        Raises:
            BrokerUnavailable: The worker was not told, or it is not known whether it was.

        .. versionadded:: 0.1.0
        """
        return await self._opened.operating.resize_pool(name, by)

    async def forget(self, result: Result | str) -> None:
        """
        Remove the task's result from the result backend.

        Raises:
            ResultBackendUnavailable: It is not known whether it was removed.

        .. versionadded:: 0.1.0
        """
        await self._opened.operating.forget(self._ids_of(result))

    def _ids_of(self, result: Result | str) -> list[str]:
        return [leaf.id for leaf in leaves(self._result(result))]

    async def ping_broker(self) -> None:
        """
        Check that messages can be published to the broker now.

        Raises:
            BrokerUnavailable: They cannot.

        .. versionadded:: 0.1.0
        """
        self._opened.sending.check_broker()

    async def ping_backend(self) -> None:
        """
        Check that the result backend answers now.

        Raises:
            ResultBackendUnavailable: It does not.

        .. versionadded:: 0.1.0
        """
        await self._opened.listener.read(["ping"])


def _id_of(result: AsyncResult[Any] | str) -> str:
    return checked_id(getattr(result, "id", result))
