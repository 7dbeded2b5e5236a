"""
Sends tasks: from an event loop to the broker, with or without a job in the ledger.

Each step is one method, and each method calls the next: `submit` lets the ledger accept a job, `publish` sends what the
ledger has accepted, `dispatch` returns a result to await, and `_send` uses the lane and translates errors.
"""

import contextvars
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery.canvas import Signature
from celery.exceptions import ImproperlyConfigured
from kombu.utils.uuid import uuid

from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.app import check_arguments
from tornado_celery_bridge.base.lane import InDoubt, Lane, LaneDown, LaneFull, NotBegun
from tornado_celery_bridge.bridge.config import RETRY_AFTER, BridgeConfig
from tornado_celery_bridge.bridge.results import AnyBridge, AsyncResult, adopt
from tornado_celery_bridge.exceptions import BridgeError, BrokerUnavailable, DispatchSaturated, DispatchUncertain
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable, new_job
from tornado_celery_bridge.transports.core import NotSent, SentInDoubt
from tornado_celery_bridge.transports.publisher import Message, Target

log = logging.getLogger(__name__)

#: The most jobs that may wait in the ledger while the broker is away.
MAX_OUTBOX = 10_000
#: The least seconds for the broker: if the loop was busy while the ledger answered, the broker must not pay for it.
LEAST_LEFT = 0.25


class Sending:
    """
    Sends tasks for a bridge. Methods and errors are those of :class:`.Bridge`.

    Args:
        bridge: Results get their values from it; what is published goes through its `dispatch`.
        publisher: The lane that publishes.
        caller: The lane that runs eager tasks.
        ledger: Returns the app's ledger, or raises ImproperlyConfigured.
    """

    def __init__(
        self, bridge: AnyBridge, config: BridgeConfig, publisher: Lane, caller: Lane, ledger: Callable[[], Ledger]
    ) -> None:
        self._bridge = bridge
        self._app = bridge.app
        self._config = config
        self._publisher = publisher
        self._caller = caller
        self._ledger = ledger
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
        timeout: float | None,
    ) -> AsyncResult[Any]:
        ledger, now, begun = self._ledger(), time.time(), time.monotonic()
        signature: Any = target
        if not isinstance(target, Signature):
            signature = self._app.signature(target if isinstance(target, str) else target.name)
        if signature.subtask_type:
            raise TypeError("a chain, group or chord is not a single job: dispatch it")
        signature = signature.clone(args, kwargs, **options)
        args, kwargs, options = signature.args, signature.kwargs, {"task_id": uuid()} | signature.options
        if marks := tracing.current_headers():  # for the case that a worker publishes the message
            options["headers"] = {**(options.get("headers") or {}), **marks}
        task: Any = self._app.tasks.get(signature.task)
        given = _input(task, args, kwargs)
        record, message = new_job(
            *(self._app, signature.task, args, kwargs, options), now=round(now * 1000), owner=owner, tags=list(tags)
        )
        delay = 0.0 if record.eta is None else max(0.0, record.eta / 1000 - now)
        accepted = await ledger.jobs.accept(record, given, message=message, delay=delay)
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
        task_id = options.get("task_id")
        if task_id is None and isinstance(target, Signature):
            task_id = target.options.get("task_id")
        task_id = options["task_id"] = task_id or uuid()
        with tracing.Span("producer", *_described(target, options)):
            message = Message(target, tuple(args), dict(kwargs or {}), options, contextvars.copy_context())
            made = await self._send(message, timeout or self._config.dispatch_timeout)
        if made is not None:
            return adopt(made, self._bridge)
        result: AsyncResult[Any] = AsyncResult(task_id, self._bridge)
        result._ignored = self._ignores(target, options)
        return result

    async def _send(self, message: Message, timeout: float) -> Any:
        """Return what sending *message* returned."""
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

    def check_broker(self) -> None:
        """
        Check that messages can be published to the broker now.

        Raises:
            BrokerUnavailable: They cannot.
        """
        if self._publisher.down:
            raise self._unavailable("the broker is not reachable", None)

    def _unavailable(self, why: str, task_id: str | None) -> BrokerUnavailable:
        return BrokerUnavailable(why, task_id=task_id, retry_after=max(RETRY_AFTER, self._config.breaker_reset))

    def _ignores(self, target: Target, options: Mapping[str, Any]) -> bool:
        told = options.get("ignore_result")
        task: Any = target
        if isinstance(target, Signature):
            told = target.options.get("ignore_result") if told is None else told
            task = target.task
        if isinstance(task, str):
            task = self._app.tasks.get(task)
        return bool(getattr(task, "ignore_result", False) if told is None else told)


def time_left(config: BridgeConfig, begun: float, timeout: float | None) -> float:
    """Return how many seconds are left for the broker; see :meth:`.Bridge.time_left`."""
    timeout = config.dispatch_timeout if timeout is None else timeout
    return max(LEAST_LEFT, timeout - (time.monotonic() - begun))


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
    if isinstance(queue := options.get("queue") or set_before.get("queue"), str):  # otherwise a route decides later
        attributes["messaging.destination.name"] = queue
    return f"publish {task}", attributes


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
