"""The bridge: dispatches signatures and awaits their results, for one event loop."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from celery import Celery, states
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from celery.canvas import Signature
from celery.exceptions import ImproperlyConfigured
from kombu.utils.uuid import uuid

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.lane import InDoubt, Lane, LaneDown, LaneFull, NotBegun
from tornado_celery_bridge.base.store import Store, Stored
from tornado_celery_bridge.bridge.config import BridgeConfig
from tornado_celery_bridge.bridge.control import Caller
from tornado_celery_bridge.bridge.listener import Listener
from tornado_celery_bridge.bridge.polling import PollingListener, RpcListener
from tornado_celery_bridge.bridge.pubsub import RedisListener
from tornado_celery_bridge.bridge.results import AsyncResult, GroupResult, Result, adopt, leaves, value
from tornado_celery_bridge.bridge.states import TaskState
from tornado_celery_bridge.bridge.waits import Follower, Wait
from tornado_celery_bridge.exceptions import (
    BridgeClosed,
    BridgeError,
    BrokerUnavailable,
    DispatchSaturated,
    DispatchUncertain,
    ResultBackendUnavailable,
    ResultTimeout,
    StoreUnavailable,
    WaitersSaturated,
)
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable, Purged, new_job
from tornado_celery_bridge.schedules import Schedules
from tornado_celery_bridge.transports.publisher import Message, NotSent, Publisher, SentInDoubt, Target

__all__ = ("Bridge",)

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Calls of Celery's remote control under way at once; each may take its whole timeout.
MAX_CALLS = 1_000
#: Seconds to wait before trying again, when the broker was too slow to say.
RETRY_AFTER = 1.0
#: Seconds for a worker to answer; for whatever an operator asks for, behind what others do.
REPLY_TIMEOUT, OPERATION_TIMEOUT = 3.0, 15.0
#: Results that are written in one go: each takes Celery some 2 ms.
MARKED = 100
#: Jobs that wait in the ledger for a broker that is away, at most.
MAX_OUTBOX = 10_000
#: Seconds that the broker has at least: a loop that was busy while the ledger answered is no fault of the broker's.
LEAST_LEFT = 0.25


class Bridge:
    """
    Dispatches tasks of a Celery app from an event loop, and awaits their results. Nothing in it blocks the loop.

    Open it with the application and close it with it, in the loop that uses it::

        async with Bridge(app) as bridge:
            result = await bridge.dispatch(add.s(2, 2))
            value = await result

    Args:
        app: Any Celery app; its settings say where broker and result backend are.
        config: The bridge's own settings.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: Celery, config: BridgeConfig | None = None) -> None:
        self.app = app
        self.config = config or BridgeConfig()
        #: Where large inputs and results are, once the bridge is open; None if the app has no ``job_store_url``.
        self.store: Store | None = None
        self._ledger: Ledger | None = None
        self._waits = 0
        self._open = False
        self._listener: Listener
        self._publisher: Lane
        self._caller: Lane
        self._operator: Lane

    # Opening and closing.

    async def start(self) -> Self:
        """
        Open the bridge for the running loop; broker and backend are connected to, and again, by itself.

        Raises:
            ImproperlyConfigured: The app has no result backend, or one that this can't work with; or a
                ``job_store_url`` that can't be used.
        """
        backend = await asyncio.to_thread(self._prepare_app)
        config = self.config
        self._listener = self._make_listener(backend)
        keep_reply_queue = self._listener.consume if isinstance(self._listener, RpcListener) else None
        self._publisher = self._lane(
            "publisher", lambda: Publisher(self.app, keep_reply_queue), config.max_pending_dispatches
        )
        self._caller = self._lane("control", Caller, MAX_CALLS)
        self._operator = self._lane("operator", Caller, MAX_CALLS)  # whom no revoke has to wait for
        self._eager = bool(self.app.conf.task_always_eager)
        self._backend = backend
        tracing.follow_publishing()
        self._listener.start()
        self._publisher.start()
        self._caller.start()
        self._operator.start()
        self._open = True
        return self

    async def close(self) -> None:
        """Close the bridge: dispatches under way get ``close_timeout`` to finish, waits under way are cancelled."""
        if not self._open:
            return
        self._open = False
        lanes = (self._publisher, self._caller, self._operator)
        await asyncio.gather(*(lane.close(self.config.close_timeout) for lane in lanes))
        await self._listener.close()
        if self._ledger is not None:
            await self._ledger.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _prepare_app(self) -> Any:
        """Do, off the loop, what Celery does at first use: import tasks, find the backend."""
        self.app.finalize()
        self.app.loader.import_default_modules()
        self.store = Store.of_app(self.app)
        with contextlib.suppress(ImproperlyConfigured):  # one connects when it is first asked
            self._ledger = Ledger(self.app, ttl=self.config.job_ttl)
        backend: Any = self.app.backend
        if isinstance(backend, DisabledBackend):
            raise ImproperlyConfigured("the app has no result_backend: set one, as results are what a bridge awaits")
        if backend.thread_safe:
            raise ImproperlyConfigured(
                "the result backend must not be shared by threads (thread_safe): the publisher thread needs its own"
            )
        return backend

    def _make_listener(self, backend: Any) -> Listener:
        if isinstance(backend, RedisBackend):
            return RedisListener(backend, sweep_interval=self.config.sweep_interval)
        if isinstance(backend, RPCBackend):
            return RpcListener(self.app)
        return PollingListener(self.app, interval=self.config.poll_interval)

    def _lane(self, name: str, make_worker: Callable[[], Any], max_pending: int) -> Lane:
        return Lane(
            f"tornado_celery_bridge {name}",
            make_worker,
            max_pending=max_pending,
            stuck_after=self.config.stuck_after,
            reset=self.config.breaker_reset,
        )

    def _check_open(self) -> None:
        if not self._open:
            raise BridgeClosed("the bridge is not open: use `async with Bridge(app)`, or await bridge.start()")

    @property
    def ledger(self) -> Ledger:
        """
        The app's job ledger.

        Raises:
            ImproperlyConfigured: Neither the app's ``job_ledger_url`` nor its result backend is a Redis.

        .. versionadded:: 0.1.0
        """
        self._check_open()
        if self._ledger is None:
            raise ImproperlyConfigured("the job ledger lives in Redis: set job_ledger_url, or a Redis result_backend")
        return self._ledger

    @property
    def schedules(self) -> Schedules:
        """
        The schedule entries in the app's ledger: make, change, run and read them while beat runs. Errors as
        :attr:`ledger`.

        .. versionadded:: 0.1.0
        """
        return Schedules(self.ledger, self.app)

    # Dispatching.

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
        Publish a task, chain, group or chord, and return its result, to be awaited.

        Returns when the broker has the message. Cancelled, the message may be sent all the same.

        Args:
            target: A signature or canvas, a task, or a task's name.
            args: Positional arguments; for a signature, put before its own, as Celery does.
            kwargs: Named arguments.
            dispatch_timeout: Seconds from now, instead of the config's.
            options: As ``Task.apply_async`` takes them: ``countdown``, ``queue``, ``task_id``…
                https://docs.celeryq.dev/en/stable/reference/celery.app.task.html#celery.app.task.Task.apply_async

        Returns:
            An :class:`AsyncResult`; for a group, a :class:`GroupResult`.

        Raises:
            BrokerUnavailable: Not sent.
            DispatchSaturated: Not sent; too many dispatches are under way.
            DispatchUncertain: Perhaps sent.
            TypeError, kombu.exceptions.EncodeError, celery.exceptions.QueueNotFound: Not sent; as Celery raises them.

        .. versionadded:: 0.1.0
        """
        self._check_open()
        task_id = options.get("task_id")
        if task_id is None and isinstance(target, Signature):
            task_id = target.options.get("task_id")
        task_id = options["task_id"] = task_id or uuid()
        with tracing.Span("producer", *_described(target, options)):
            message = Message(target, tuple(args), dict(kwargs or {}), options, contextvars.copy_context())
            made = await self._send(message, dispatch_timeout or self.config.dispatch_timeout)
        if made is not None:
            return adopt(made, self)
        result: AsyncResult[Any] = AsyncResult(task_id, self)
        result._ignored = self._ignores(target, options)
        return result

    async def _send(self, message: Message, timeout: float) -> Any:
        """Return what sending *message* returned; errors as :meth:`dispatch`."""
        task_id = message.options["task_id"]
        lane, work = (self._caller, _eagerly(message)) if self._eager else (self._publisher, message)
        try:
            return await lane.submit(work, timeout)
        except LaneFull:
            raise DispatchSaturated(
                "too many dispatches are under way", task_id=task_id, retry_after=RETRY_AFTER
            ) from None
        except LaneDown:
            raise self._unavailable("the broker is not reachable", task_id) from None
        except NotBegun:
            raise self._unavailable("the broker did not answer in time", task_id) from None
        except NotSent as exc:
            raise self._unavailable(f"the broker is not reachable: {exc}", task_id) from exc.__cause__
        except (InDoubt, SentInDoubt) as exc:
            raise DispatchUncertain(
                f"the broker did not confirm task {task_id}, which may run: {exc or 'no answer in time'}",
                task_id=task_id,
                retry_after=RETRY_AFTER,
            ) from exc.__cause__

    def _unavailable(self, why: str, task_id: str | None) -> BrokerUnavailable:
        return BrokerUnavailable(why, task_id=task_id, retry_after=max(RETRY_AFTER, self.config.breaker_reset))

    def _ignores(self, target: Target, options: Mapping[str, Any]) -> bool:
        told = options.get("ignore_result")
        task: Any = target
        if isinstance(target, Signature):
            told = target.options.get("ignore_result") if told is None else told
            task = target.task
        if isinstance(task, str):
            task = self.app.tasks.get(task)
        return bool(getattr(task, "ignore_result", False) if told is None else told)

    async def submit(
        self,
        target: Target,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        owner: str = "",
        tags: Sequence[str] = (),
        dispatch_timeout: float | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """
        Have a task run, whatever crashes once this has returned: note it in the app's ledger, then publish it.

        While the broker is away it waits in the ledger, and a worker publishes it later, as one does again with a
        message that was lost (docs/states.md). For that the app's workers keep the ledger:
        :func:`install`.

        Whatever this raises, it may be called again with the same ``task_id``: of one id there is one job.

        Args:
            target: A signature, but no chain, group or chord; a task, or a task's name.
            args: Positional arguments; for a signature, put before its own, as Celery does.
            kwargs: Named arguments.
            owner: Whose job it is; empty where there are no owners.
            tags: What the job is found by.
            dispatch_timeout: Seconds from now in which the broker has to take it, instead of the config's.
            options: As ``Task.apply_async`` takes them: ``countdown``, ``queue``, ``task_id``…

        Raises:
            LedgerUnavailable, DispatchUncertain: Perhaps accepted.
            BrokerUnavailable, DispatchSaturated: Not accepted; the broker is away, and as many jobs wait as may.
            TypeError, kombu.exceptions.EncodeError, celery.exceptions.QueueNotFound: Not accepted; as Celery raises
                them, and TypeError for what is no single task, or has arguments of which only some can be named.
            ImproperlyConfigured: There is no ledger; see :attr:`ledger`.

        .. versionadded:: 0.1.0
        """
        ledger, now, begun = self.ledger, time.time(), time.monotonic()
        signature: Any = target
        if not isinstance(target, Signature):
            signature = self.app.signature(target if isinstance(target, str) else target.name)
        if signature.subtask_type:
            raise TypeError("a chain, group or chord is no single job: dispatch it")
        signature = signature.clone(args, kwargs, **options)
        args, kwargs, options = signature.args, signature.kwargs, {"task_id": uuid()} | signature.options
        if marks := tracing.current_headers():  # for when it is published by a worker
            options["headers"] = {**(options.get("headers") or {}), **marks}
        task: Any = self.app.tasks.get(signature.task)
        given = _input(task, args, kwargs)
        record, message = new_job(
            *(self.app, signature.task, args, kwargs, options), now=round(now * 1000), owner=owner, tags=list(tags)
        )
        delay = 0.0 if record.eta is None else max(0.0, record.eta / 1000 - now)
        accepted = await ledger.jobs.accept(record, given, message=message, delay=delay)
        if accepted.kind == "accepted":
            left = self.time_left(begun, dispatch_timeout)
            try:
                known = signature.task if task is None else task
                await self.publish(known, args, kwargs, dispatch_timeout=left, **message["options"])
            except DispatchUncertain:
                raise
            except Exception:
                await ledger.jobs.withdraw(record.id)
                raise
        return AsyncResult(record.id, self)

    def time_left(self, begun: float, timeout: float | None = None) -> float:
        """
        Return for how many seconds the broker may take, where the ledger and it have one deadline.

        Args:
            begun: ``time.monotonic()`` of the beginning.
            timeout: Seconds from then; None for the config's ``dispatch_timeout``.

        .. versionadded:: 0.1.0
        """
        timeout = self.config.dispatch_timeout if timeout is None else timeout
        return max(LEAST_LEFT, timeout - (time.monotonic() - begun))

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
        Publish what the ledger has accepted, or leave that to a worker, which does it once the broker is back.

        Args and errors as :meth:`dispatch`, but for these.

        Args:
            job_id: Of a canvas, the job that begins it; else its ``task_id`` is the job's.

        Returns:
            None if the broker has it; else why a worker will see to it.

        Raises:
            DispatchUncertain: The broker is away, and so is the ledger: it may be published.
            BrokerUnavailable, DispatchSaturated: It will not be: as many jobs wait for the broker as may.

        .. versionadded:: 0.1.0
        """
        job_id = job_id or options["task_id"]
        try:
            await self.dispatch(target, args, kwargs, dispatch_timeout=dispatch_timeout, **options)
        except DispatchUncertain as exc:
            log.warning("the broker did not confirm job %s: should it be lost, it is published again", job_id)
            return exc
        except BridgeError as exc:
            try:
                kept = await self.ledger.jobs.defer(job_id, MAX_OUTBOX)
            except LedgerUnavailable as gone:
                raise DispatchUncertain(
                    f"job {job_id} may run: {gone}", task_id=job_id, retry_after=RETRY_AFTER
                ) from exc
            if not kept:
                raise
            log.warning("job %s waits for the broker: %s", job_id, exc)
            return exc
        return None

    # Awaiting.

    @overload
    async def get(self, result: AsyncResult[T], *, timeout: float | None = None) -> T: ...
    @overload
    async def get(self, result: GroupResult, *, timeout: float | None = None) -> list[Any]: ...
    @overload
    async def get(self, result: str, *, timeout: float | None = None) -> Any: ...

    async def get(self, result: Result | str, *, timeout: float | None = None) -> Any:
        """
        Return the task's return value once it is ready; of a group, the list of them.

        Cancelling the wait leaves the task running. A task that ignores its result returns None at once.

        Args:
            result: What :meth:`dispatch` returned, or a task's id.
            timeout: Seconds from now (not a Tornado deadline); 0 looks once. None: the config's ``result_timeout``.

        Raises:
            TaskFailed: The task, or one that it comes after, raised; see ``__cause__``.
            TaskRevoked: The task was revoked, or expired.
            ResultTimeout: Not ready in time; the task may still finish.
            ResultBackendUnavailable: Not known in time, as the backend does not answer.
            WaitersSaturated: Too many waits are under way.
            BlobLost, StoreUnavailable: The task succeeded, but its large result can't be had from the store.

        .. versionadded:: 0.1.0
        """
        target = self._result(result)
        if isinstance(target, AsyncResult) and target._ignored and target._cache is None:
            return None
        await self._wait(Wait(target, self._rebuild), timeout)
        for leaf in leaves(target):
            if leaf._cache is not None and isinstance(stored := leaf._cache["result"], Stored):
                leaf._cache = {**leaf._cache, "result": await self._load(stored, leaf.id)}
        return value(target)

    async def _load(self, stored: Stored, task_id: str) -> Any:
        if self.store is None:
            raise StoreUnavailable("this app has no job_store_url, where the large result is", task_id=task_id)
        return await asyncio.to_thread(self.store.load, stored)

    async def wait(self, result: AsyncResult[Any] | str, *, timeout: float | None = None) -> TaskState:
        """
        Return the state in which the task ended, whether it succeeded or not.

        Args and errors as :meth:`get`, without ``TaskFailed`` and ``TaskRevoked``.

        .. versionadded:: 0.1.0
        """
        target = self._result(result)
        wait = Wait(target, None)
        await self._wait(wait, timeout)
        return TaskState.from_meta(str(target.id), wait.seen[str(target.id)])

    async def _wait(self, wait: Wait, timeout: float | None) -> Any:
        self._check_open()
        if wait.future.done():
            return wait.future.result()
        if self._waits >= self.config.max_waiters:
            raise WaitersSaturated("too many waits are under way", task_id=wait.task_id, retry_after=RETRY_AFTER)
        timeout = self.config.result_timeout if timeout is None else timeout
        if timeout == 0:
            found = await self._listener.read(wait.task_ids)
            for task_id, meta in found.items():
                wait.heard(task_id, meta)
            if not wait.future.done():
                wait.fail(self._timed_out(wait.task_id, timeout))
            return wait.future.result()
        self._waits += 1
        wait.watch(self._listener)
        timer = timeout and wait.future.get_loop().call_later(timeout, self._expire, wait, timeout)
        try:
            return await wait.future
        finally:
            self._waits -= 1
            wait.unwatch(self._listener)
            if timer:
                timer.cancel()

    def _expire(self, wait: Wait, timeout: float) -> None:
        wait.fail(self._timed_out(wait.task_id, timeout))

    def _timed_out(self, task_id: str, timeout: float) -> BridgeError:
        if timeout and not self._listener.connected:
            return ResultBackendUnavailable(
                f"the result backend is not reachable; nothing was heard of task {task_id} in {timeout} s",
                task_id=task_id,
                retry_after=RETRY_AFTER,
            )
        return ResultTimeout(f"task {task_id} is not ready after {timeout} s", task_id=task_id)

    def _result(self, result: Result | str) -> Result:
        return AsyncResult(result, self) if isinstance(result, str) else adopt(result, self)

    def _rebuild(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        rebuilt: Mapping[str, Any] = self._backend.meta_from_decoded(dict(meta))
        return rebuilt

    async def state(self, result: AsyncResult[Any] | str) -> TaskState:
        """
        Return what the result backend has of the task now; an id that it knows nothing of is PENDING.

        Raises:
            ResultBackendUnavailable: It did not answer.

        .. versionadded:: 0.1.0
        """
        self._check_open()
        task_id = result if isinstance(result, str) else str(result.id)
        found = await self._listener.read([task_id])
        return TaskState.from_meta(task_id, found.get(task_id) or {"status": states.PENDING, "result": None})

    async def stream(self, result: AsyncResult[Any] | str, *, timeout: float | None = None) -> AsyncIterator[TaskState]:
        """
        Yield the task's states and progress as they come; ends by itself after the last one.

        The first is what the backend has now. A consumer slower than the task misses progress that newer progress
        has replaced, and nothing else. Leave the loop, and the stream is closed with the generator.

        Args:
            result: What :meth:`dispatch` returned, or a task's id.
            timeout: Seconds from now for the whole stream. None: the config's ``result_timeout``.

        Raises:
            ResultTimeout, ResultBackendUnavailable, WaitersSaturated: As :meth:`get`.

        .. versionadded:: 0.1.0
        """
        yield (first := await self.state(result))
        if first.ready:
            return
        timeout = self.config.result_timeout if timeout is None else timeout
        if self._waits >= self.config.max_waiters:
            raise WaitersSaturated("too many waits are under way", task_id=first.task_id, retry_after=RETRY_AFTER)
        follower = Follower(first)
        self._waits += 1
        self._listener.watch([first.task_id], follower)
        try:
            async with asyncio.timeout(timeout) as deadline:
                async for state in follower:
                    yield state
        except TimeoutError:
            if not deadline.expired():
                raise
            raise self._timed_out(first.task_id, timeout or 0.0) from None
        finally:
            self._waits -= 1
            self._listener.unwatch([first.task_id], follower)

    async def as_completed(
        self, results: Iterable[AsyncResult[T]], *, timeout: float | None = None
    ) -> AsyncIterator[AsyncResult[T]]:
        """
        Yield each of *results* as its task ends; awaiting what was yielded does not wait.

        Args:
            results: What :meth:`dispatch` returned.
            timeout: Seconds from now for all of them. None: the config's ``result_timeout``.

        Raises:
            ResultTimeout: Some were not ready in time.

        .. versionadded:: 0.1.0
        """

        async def ended(result: AsyncResult[T]) -> AsyncResult[T]:
            try:
                await self.get(result, timeout=timeout)
            except BridgeError as exc:
                if isinstance(exc, ResultTimeout | ResultBackendUnavailable | WaitersSaturated):
                    raise
            return result

        tasks = [asyncio.ensure_future(ended(result)) for result in results]
        try:
            for future in asyncio.as_completed(tasks):
                yield await future
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # Control.

    async def revoke(self, result: Result | str, *, terminate: bool = False, signal: str = "SIGTERM") -> None:
        """
        Tell all workers not to run the task, or with *terminate* to end the process that runs it.

        A broadcast: workers that are not connected now do not hear it.
        https://docs.celeryq.dev/en/stable/userguide/workers.html#revoke-revoking-tasks

        Raises:
            BrokerUnavailable: No worker was told, or it is not known that one was.

        .. versionadded:: 0.1.0
        """
        task_ids = [result] if isinstance(result, str) else [leaf.id for leaf in leaves(self._result(result))]
        await self._call(
            lambda: self.app.control.revoke(task_ids, terminate=terminate, signal=signal), BrokerUnavailable
        )

    async def purge(self, queue: str, reason: str = "its queue was purged") -> Purged:
        """
        Empty a queue: end its jobs that have not begun as REVOKED, then remove all messages from the broker's queue,
        those of tasks that are no jobs too, then tell whoever waits for results, which takes longest: some 2 ms a job.

        What workers have taken already is not in the queue: such a job is ended, and its message is dropped later.

        Args:
            queue: Its name.
            reason: What is said of each job in its error.

        Raises:
            LedgerUnavailable: Some jobs have ended; no message was removed.
            BrokerUnavailable: The jobs have ended; their messages may be there, and workers drop them.
            ResultBackendUnavailable: The queue is empty; not everybody who waits for a result was told.

        .. versionadded:: 0.1.0
        """
        ids = [job_id async for step in self.ledger.queues.purge(queue, reason) for job_id in step]
        messages = await self._operate(lambda: _purge(self.app, queue), BrokerUnavailable)
        for place in range(0, len(ids), MARKED):
            mark = functools.partial(self._mark_revoked, ids[place : place + MARKED], reason)
            await self._operate(mark, ResultBackendUnavailable)
        return Purged(len(ids), messages)

    def _mark_revoked(self, task_ids: Iterable[str], reason: str) -> None:
        backend = self.app.backend
        if isinstance(backend, RPCBackend):  # it answers the message of a task, which nobody has
            return
        for task_id in task_ids:
            backend.mark_as_revoked(task_id, reason)

    async def shut_down_worker(self, name: str) -> None:
        """
        Tell a worker to end once the tasks that it runs have ended. There is no answer to that.

        Args:
            name: The worker's node name.

        Raises:
            BrokerUnavailable: It was not told, or it is not known that it was.

        .. versionadded:: 0.1.0
        """
        await self._operate(lambda: self.app.control.shutdown(destination=[name]), BrokerUnavailable)

    async def resize_pool(self, name: str, by: int) -> dict[str, str] | None:
        """
        Have a worker run more tasks at once, or fewer, until it is started again.

        Args:
            name: The worker's node name.
            by: How many more; negative for fewer.

        Returns:
            What it answered: ``{"ok": …}`` or ``{"error": …}``; None if it did not within 3 s.

        Raises:
            BrokerUnavailable: It was not told, or it is not known that it was.

        .. versionadded:: 0.1.0
        """
        control = self.app.control
        resize = functools.partial(control.pool_grow, by) if by > 0 else functools.partial(control.pool_shrink, -by)
        asked = functools.partial(resize, destination=[name], reply=True, timeout=REPLY_TIMEOUT)
        answers = await self._operate(asked, BrokerUnavailable)
        return answers[0][name] if answers else None

    async def forget(self, result: Result | str) -> None:
        """
        Remove what the result backend has of the task.

        Raises:
            ResultBackendUnavailable: It is not known whether it was removed.

        .. versionadded:: 0.1.0
        """
        target = self._result(result)

        def remove() -> None:
            backend = self.app.backend
            for leaf in leaves(target):
                backend.forget(leaf.id)

        await self._call(remove, ResultBackendUnavailable)

    async def ping_broker(self) -> None:
        """
        Return if the broker can be published to now.

        Raises:
            BrokerUnavailable: It can't.

        .. versionadded:: 0.1.0
        """
        self._check_open()
        if self._publisher.down:
            raise self._unavailable("the broker is not reachable", None)

    async def ping_backend(self) -> None:
        """
        Return if the result backend answers now.

        Raises:
            ResultBackendUnavailable: It does not.

        .. versionadded:: 0.1.0
        """
        self._check_open()
        await self._listener.read(["ping"])

    async def _call(self, call: Callable[[], Any], error: type[BridgeError]) -> None:
        await self._call_by(self._caller, call, error, self.config.dispatch_timeout)

    async def _operate(self, call: Callable[[], Any], error: type[BridgeError]) -> Any:
        return await self._call_by(self._operator, call, error, OPERATION_TIMEOUT)

    async def _call_by(self, lane: Lane, call: Callable[[], Any], error: type[BridgeError], timeout: float) -> Any:
        self._check_open()
        try:
            return await lane.submit(call, timeout)
        except (LaneFull, LaneDown, NotBegun, InDoubt) as exc:
            raise error("no answer in time", retry_after=RETRY_AFTER) from exc
        except Exception as exc:  # of any broker's or backend's own client
            raise error(str(exc), retry_after=RETRY_AFTER) from exc


def _described(target: Target, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the attributes of the span in which *target* is published."""
    task = target if isinstance(target, str) else target.task if isinstance(target, Signature) else target.name
    set_before = target.options if isinstance(target, Signature) else {}
    attributes = {
        "messaging.system": "celery",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.message.id": options["task_id"],
        "celery.task_name": str(task),
    }
    if isinstance(queue := options.get("queue") or set_before.get("queue"), str):  # else a route finds it, later
        attributes["messaging.destination.name"] = queue
    return f"publish {task}", attributes


def _purge(app: Celery, queue: str) -> int:
    """Return how many messages were in a queue of the broker, which has none now, or is not there."""
    with app.connection_for_write() as connection, connection.channel() as opened:
        channel: Any = opened
        try:
            return int(channel.queue_purge(queue) or 0)
        except connection.channel_errors:
            return 0


def _eagerly(message: Message) -> Callable[[], Any]:
    """Return a call that runs *message*'s task, as ``task_always_eager`` asks."""

    def run() -> Any:
        target: Any = message.target
        if isinstance(target, str):
            raise ImproperlyConfigured(f"task_always_eager: dispatch a signature, not the name {target!r}")
        return target.apply_async(message.args, message.kwargs, **message.options)

    return lambda: message.context.run(run)


def _input(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
    """
    Return a job's input: a list of positional arguments, or named ones.

    Raises:
        TypeError: They are no arguments of *task*, which is None if the app does not know it; or they can't be either.
    """
    if task is not None and task.typing:
        task.__header__(*args, **kwargs)
    if not kwargs:
        return list(args)
    if not args:
        return dict(kwargs)
    parameters = [] if task is None else list(inspect.signature(task.run).parameters.values())[: len(args)]
    if len(parameters) < len(args) or any(each.kind != each.POSITIONAL_OR_KEYWORD for each in parameters):
        raise TypeError("some arguments are positional, others named, and the first can't be named")
    return {each.name: value for each, value in zip(parameters, args, strict=True)} | dict(kwargs)
