"""
Sends tasks: from an event loop to the broker, with or without a job in the ledger.

Each step is one method, and each method calls the next: `submit` lets the ledger accept a job, `publish` sends what the
ledger has accepted, `dispatch` returns a result to await, and `_send` uses the lane and translates errors.
"""

import contextvars
import functools
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from celery.canvas import Signature, chunks
from celery.exceptions import ImproperlyConfigured
from kombu.utils.uuid import uuid

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.app import check_arguments, moment
from tornado_celery_bridge.base.lane import InDoubt, Lane, LaneDown, LaneFull, NotBegun
from tornado_celery_bridge.bridge.arguments import check_call, check_seconds, check_texts, check_words
from tornado_celery_bridge.bridge.config import RETRY_AFTER, BridgeConfig
from tornado_celery_bridge.bridge.results import AnyBridge, AsyncResult, GroupResult, Result, adopt, checked_id
from tornado_celery_bridge.exceptions import BridgeError, BrokerUnavailable, DispatchSaturated, DispatchUncertain
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable, new_job
from tornado_celery_bridge.transports.core import NotSent, SentInDoubt, SetupRefused
from tornado_celery_bridge.transports.publisher import (
    Message,
    Target,
    ignores_result,
    is_canvas,
    is_large,
    kind_of,
)

log = logging.getLogger(__name__)

#: The most jobs that may wait in the ledger while the broker is away.
MAX_OUTBOX = 10_000
#: The least seconds for the broker: if the loop was busy while the ledger answered, the broker must not pay for it.
LEAST_LEFT = 0.25


class PublishingLanes(NamedTuple):
    """
    The lanes of messages. What takes longer has lanes of its own, so that nothing else waits for it.

    A plain message takes some 0.1 ms, and many share a round trip. A canvas takes milliseconds, and is published alone,
    so that its outcome is known at once. A large canvas takes seconds.
    """

    plain: Lane
    canvases: Lane
    large: tuple[Lane, ...]
    #: Runs eager tasks.
    caller: Lane

    def for_target(self, target: Target) -> Lane:
        """Return the lane to publish *target*."""
        if not is_canvas(target):
            return self.plain
        return min(self.large, key=lambda lane: lane.pending) if is_large(target) else self.canvases


class Sending:
    """
    Sends tasks for a bridge. Methods and errors are those of :class:`.Bridge`.

    Args:
        bridge: Results get their values from it; what is published goes through its `dispatch`.
        lanes: Who publishes what, and runs eager tasks.
        ledger: Returns the app's ledger, or raises ImproperlyConfigured.
        installed: Whether the app's workers keep the ledger.
    """

    def __init__(
        self,
        bridge: AnyBridge,
        config: BridgeConfig,
        lanes: PublishingLanes,
        ledger: Callable[[], Ledger],
        *,
        installed: bool,
    ) -> None:
        self._bridge = bridge
        self._app = bridge.app
        self._config = config
        self._lanes = lanes
        self._ledger = ledger
        self._installed = installed
        self._eager = bool(self._app.conf.task_always_eager)

    async def submit(
        self,
        target: Target,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
        *,
        owner: str,
        tags: Sequence[str],
        retry_of: str | None,
        timeout: float | None,
    ) -> AsyncResult[Any]:
        ledger, now, begun = self._ledger(), time.time(), time.monotonic()
        if not self._installed:
            raise ImproperlyConfigured(
                "submit needs workers that keep the ledger, or the job would never end: call"
                " tornado_celery_bridge.worker.install(app) beside the app, or use dispatch"
            )
        self._refuse_eager()
        check_call(target, args, kwargs, options)
        check_seconds(dispatch_timeout=timeout)
        check_texts(owner=owner)
        check_words(tags=tags)
        signature: Any = target
        if not isinstance(target, Signature):
            signature = self._app.signature(target if isinstance(target, str) else target.name)
        if kind := signature.subtask_type or (isinstance(signature, chunks) and "chunks"):
            raise TypeError(f"a {kind} is not a single job: dispatch it")
        signature = signature.clone(args, kwargs, **options)
        args, kwargs, options = signature.args, signature.kwargs, {**signature.options}
        options["task_id"] = uuid() if options.get("task_id") is None else checked_id(options["task_id"])
        if marks := tracing.current_headers():  # for the case that a worker publishes the message
            options["headers"] = {**(options.get("headers") or {}), **marks}
        task: Any = self._app.tasks.get(signature.task)
        given = _input(task, args, kwargs)
        record, message = new_job(
            *(self._app, signature.task, args, kwargs, options),
            now=round(now * 1000),
            owner=owner,
            tags=list(tags),
            retry_of=retry_of,
        )
        delay = 0.0 if record.eta is None else max(0.0, record.eta / 1000 - now)
        try:
            accepted = await ledger.jobs.accept(record, given, message=message, delay=delay)
        except LedgerUnavailable as exc:
            told = f"{exc}; job {record.id} may have been accepted all the same"
            raise LedgerUnavailable(told, task_id=record.id, retry_after=exc.retry_after) from exc
        if accepted.kind == "accepted":
            left = time_left(self._config, begun, timeout)
            try:
                await self.publish(signature.task if task is None else task, args, kwargs, message["options"], left)
            except DispatchUncertain:
                raise
            except Exception:
                await ledger.jobs.withdraw(record.id)
                raise
        return AsyncResult(record.id, self._bridge)

    async def publish(
        self,
        target: Target,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        timeout: float | None,
        job_id: str | None = None,
    ) -> BridgeError | None:
        self._refuse_eager()
        job_id = job_id or options["task_id"]
        try:
            await self._bridge.dispatch(target, args, kwargs, dispatch_timeout=timeout, **options)
        except DispatchUncertain as exc:
            log.warning("the broker did not confirm job %s; if its message is lost, it is published again", job_id)
            return exc
        except BridgeError as exc:
            try:
                kept = await self._ledger().jobs.defer(job_id, MAX_OUTBOX)
            except LedgerUnavailable as gone:
                raise DispatchUncertain(
                    f"job {job_id} may run: {gone}", task_id=job_id, retry_after=RETRY_AFTER
                ) from exc
            if not kept:
                raise
            log.warning("job %s waits for the broker: %s", job_id, exc)
            return exc
        return None

    async def dispatch(
        self,
        target: Target,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
        timeout: float | None,
    ) -> Any:
        check_call(target, args, kwargs, options)
        check_seconds(dispatch_timeout=timeout)
        task_id = options.get("task_id")
        if task_id is None and isinstance(target, Signature):
            task_id = target["options"].get("task_id")
        task_id = options["task_id"] = uuid() if task_id is None else checked_id(task_id)
        set_before = target["options"] if isinstance(target, Signature) else {}
        for name in ("eta", "expires"):
            if isinstance(time := options.get(name) or set_before.get(name), datetime):
                options[name] = moment(self._app, time)  # Celery would take a naive one for UTC
        with tracing.Span("producer", *_described(target, options)):
            finish = functools.partial(self._finish, target) if is_canvas(target) else None
            message = Message(target, tuple(args), dict(kwargs or {}), options, contextvars.copy_context(), finish)
            made = await self._send(message, timeout or self._config.dispatch_timeout)
        if made is not None:
            return adopt(made, self._bridge)
        result: AsyncResult[Any] = AsyncResult(task_id, self._bridge)
        result._ignored = ignores_result(self._app, target, options)
        return result

    def _finish(self, target: Target, made: Any) -> Result:
        """Make of Celery's result of a canvas ours, in the publisher's thread."""
        result = adopt(made, self._bridge)
        self._mark_ignored(target, result)
        return result

    def _mark_ignored(self, target: Any, result: Result) -> None:
        """Note which tasks of a canvas store no result: nobody must wait for it."""
        match kind_of(target), result:
            case None, AsyncResult():
                result._ignored = ignores_result(self._app, target, {})
            case "chain", _ if target.tasks:
                self._mark_ignored(target.tasks[-1], result)
            case "chord", _:
                self._mark_ignored(target.kwargs["body"], result)
            case "group", GroupResult() if len(target.tasks) == len(result.results):
                for task, each in zip(target.tasks, result.results, strict=True):
                    self._mark_ignored(task, each)

    def _refuse_eager(self) -> None:
        if self._eager:
            raise ImproperlyConfigured(
                "task_always_eager: a job runs in a worker, and this app's tasks run in the process that calls them."
                " Use dispatch, or tornado_celery_bridge.testing.bridge in tests"
            )

    async def _send(self, message: Message, timeout: float) -> Any:
        """Return what sending *message* returned."""
        task_id = message.options["task_id"]
        try:
            if self._eager:
                return await self._lanes.caller.submit(_eagerly(message), timeout)
            return await self._lanes.for_target(message.target).submit(message, timeout)
        except LaneFull:
            raise DispatchSaturated(
                "too many dispatches are under way", task_id=task_id, retry_after=RETRY_AFTER
            ) from None
        except LaneDown as exc:
            raise self._unavailable(_unreachable(str(exc)), task_id) from None
        except NotBegun:
            lane = self._lanes.for_target(message.target)
            why = _unreachable(lane.why) if lane.down else "the broker did not answer in time"
            raise self._unavailable(why, task_id) from None
        except NotSent as exc:
            is_there = isinstance(exc.__cause__, SetupRefused)
            why = f"the broker {'does not take it' if is_there else 'is not reachable'}: {exc}"
            raise self._unavailable(why, task_id) from exc.__cause__
        except (InDoubt, SentInDoubt) as exc:
            raise DispatchUncertain(
                f"the broker did not confirm task {task_id}, which may run: {str(exc) or 'no answer in time'}",
                task_id=task_id,
                retry_after=RETRY_AFTER,
            ) from exc.__cause__

    def check_broker(self) -> None:
        """
        Check that messages can be published to the broker now.

        Raises:
            BrokerUnavailable: They cannot.
        """
        if self._lanes.plain.down:
            raise self._unavailable(_unreachable(self._lanes.plain.why), None)

    def _unavailable(self, why: str, task_id: str | None) -> BrokerUnavailable:
        return BrokerUnavailable(why, task_id=task_id, retry_after=max(RETRY_AFTER, self._config.breaker_reset))


def _unreachable(why: str) -> str:
    return f"the broker is not reachable: {why}" if why else "the broker is stuck"


def time_left(config: BridgeConfig, begun: float, timeout: float | None) -> float:
    """Return how many seconds are left for the broker; see :meth:`.Bridge.time_left`."""
    timeout = config.dispatch_timeout if timeout is None else timeout
    return max(LEAST_LEFT, timeout - (time.monotonic() - begun))


def _described(target: Target, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the attributes of the span in which *target* is published."""
    task = target if isinstance(target, str) else target["task"] if isinstance(target, Signature) else target.name
    set_before = target["options"] if isinstance(target, Signature) else {}
    attributes = {
        "messaging.system": "celery",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.message.id": options["task_id"],
        "celery.task_name": str(task),
    }
    if isinstance(queue := options.get("queue") or set_before.get("queue"), str):  # otherwise a route decides later
        attributes["messaging.destination.name"] = queue
    return f"publish {task}", attributes


def _eagerly(message: Message) -> Callable[[], Any]:
    """Return a call that runs *message*'s task, as ``task_always_eager`` asks."""

    def run() -> Any:
        target: Any = message.target
        if isinstance(target, str):
            raise ImproperlyConfigured(f"task_always_eager: dispatch a signature, not the name {target!r}")
        made = target.apply_async(message.args, message.kwargs, **message.options)
        if made is None:
            raise ValueError("an empty chain has nothing to run")
        return made if message.finish is None else message.finish(made)

    return lambda: message.context.run(run)


def _input(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
    """
    Return a job's input: a list of positional arguments, or named ones.

    Raises:
        TypeError: The arguments do not fit *task* (None if the app does not know it), or some are named while
            positional ones have no names.
    """
    if task is not None:
        check_arguments(task, args, kwargs)
    if not kwargs:
        return list(args)
    if not args:
        return dict(kwargs)
    parameters = [] if task is None else list(inspect.signature(task.run).parameters.values())[: len(args)]
    if len(parameters) < len(args) or any(each.kind != each.POSITIONAL_OR_KEYWORD for each in parameters):
        raise TypeError("some arguments are positional, others named, and the first can't be named")
    return {each.name: value for each, value in zip(parameters, args, strict=True)} | dict(kwargs)
