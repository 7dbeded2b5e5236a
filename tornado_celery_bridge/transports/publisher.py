"""
Publishes signatures: what the publisher thread does, with Celery's own, unmodified publishing code.

A plain task, which is nearly all the traffic, takes a short way. ``Task.apply_async`` and ``Celery.send_task`` work out
options, route and defaults for every call, in nine tenths of their time. Here that is done once per task and queue;
then Celery's own ``amqp.as_task_v2`` and ``amqp.send_task_message`` build and send the message. Where the broker is
Redis, they build one message of each kind, and the others are made from its text (:mod:`.templates`). Everything else
takes ``apply_async``. tests/bridge/test_publish.py checks that all ways make equal messages, field by field.
"""

import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeAlias

from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.backends.redis import RedisBackend
from celery.canvas import Signature
from celery.signals import after_task_publish, before_task_publish, task_sent
from celery.utils.nodenames import anon_nodename
from celery.utils.saferepr import saferepr
from kombu import Producer
from kombu.transport import pyamqp

from tornado_celery_bridge.base import versions
from tornado_celery_bridge.base.lane import Call
from tornado_celery_bridge.base.repeating import Trouble
from tornado_celery_bridge.base.tracing import mark_message
from tornado_celery_bridge.transports import rabbitmq, servers, transport_of
from tornado_celery_bridge.transports.core import (
    Blocked,
    NotSent,
    SentInDoubt,
    SetupRefused,
    drop,
    errors_of,
    outcome_of,
)
from tornado_celery_bridge.transports.templates import ARGS, HEADER, ID, KWARGS, Captured, Template

#: What can be dispatched: a signature or canvas, a task, or a task's name.
Target: TypeAlias = "Signature[Any] | Task[Any, Any] | str"

log = logging.getLogger(__name__)

#: Seconds for one answer of the broker, unless the app's own settings are shorter.
SOCKET_TIMEOUT = 2.0

#: More tasks than these in one canvas, and it has a lane of its own: this many take some 100 ms.
LARGE = 200
#: The most messages of a canvas in one round trip. redis-py keeps the loop waiting while it packs them: 0.1 s for 500.
CANVAS_BATCH = 128

#: Options that the short way handles as `apply_async` does. A link, a group, an exchange… takes the long way.
PLAIN_OPTIONS = frozenset(
    "task_id queue countdown eta priority headers serializer compression time_limit soft_time_limit"
    " ignore_result shadow".split()
)

#: Options in which messages of one template do not differ; of an eta, a serializer… each message is built anew.
SAME_OPTIONS = ("priority", "time_limit", "soft_time_limit", "ignore_result", "shadow")
DIFFERENT_OPTIONS = frozenset(("task_id", "queue", "headers"))
#: The most templates that are kept.
MAX_TEMPLATES = 1_000

#: A message takes the long way if these have receivers, which may see and change all of it.
PUBLISH_SIGNALS = (before_task_publish, after_task_publish, task_sent)


@dataclass(slots=True)
class Message:
    """One signature to publish, as its caller gave it."""

    target: Target
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: As `apply_async` takes them; `task_id` is always there.
    options: dict[str, Any]
    #: The caller's, so that hooks such as `before_task_publish` see its trace.
    context: Context
    #: Makes of Celery's result what the caller gets, in the publisher's thread: a canvas may have thousands.
    finish: Callable[[Any], Any] | None = None


@dataclass(slots=True)
class _Plan:
    """What is the same for every plain message of one task to one queue."""

    defaults: dict[str, Any]
    route: dict[str, Any]
    check: Callable[..., Any] | None
    dump: Callable[..., Any] | None
    ignore_result: bool
    name: str
    queue: str | None


class Publisher:
    """
    The publisher thread's worker: one broker connection, many messages to a round trip where kombu can batch.

    Args:
        app: The Celery app.
        keep_reply_queue: Called with this thread's reply queue, where results come as messages (``rpc://``).
    """

    def __init__(self, app: Celery, keep_reply_queue: Callable[[str], None] | None = None) -> None:
        self._app = app
        self._connection: Any = None
        self._producer: Any = None
        #: Why the broker can't be used; empty if it can.
        self.trouble = ""
        self._outage = Trouble("the broker", 0.0)
        #: time.monotonic() when a message, or a task of a canvas, was last dealt with.
        self.progress = 0.0
        #: How many messages of a canvas were given to the broker.
        self._produced = 0
        self._plans: dict[tuple[str, Any], _Plan | None] = {}
        self._templates: dict[tuple[Any, ...], Template | None] = {}
        self._backend = app.backend  # this thread's own
        # Looked up once: each look-up in Celery's settings takes some microseconds.
        self._maxlevels = versions.repr_maxlevels(app)
        self._sent_event = app.conf.task_send_sent_event
        self._driver = transport_of(app).driver_type
        self._delays_by_server = versions.delays_by_server(app, self._driver)
        self._reply_to = app.thread_oid
        self._origin = anon_nodename()
        #: Queues that this connection has declared: asking kombu each time costs a fifth of a publish.
        self._declared: set[str | None] = set()
        if keep_reply_queue is not None:
            keep_reply_queue(app.thread_oid)
        else:
            _publish_only(self._backend)

    def ready(self) -> bool:
        """Connect, or see whether the connection still answers."""
        try:
            if self._producer is None:
                self._connect()
            else:
                self._check_connection()
        except Exception as exc:
            self.trouble = str(exc) or repr(exc)
            self._outage.add(exc)
            if not isinstance(exc, Blocked):
                self.close()
            return False
        self.trouble = ""
        self._outage.end()
        return True

    def run(self, calls: Sequence[Call]) -> None:
        """Publish each call's message; the broker has confirmed it when the call has its value."""
        calls = [call for call in calls if not is_canvas(call.work.target) or self._expand(call)]
        begun: list[Call] = []
        done = 0
        try:
            with versions.publish_batch(self._producer, self._batch_size(calls)):
                for call in calls:
                    if call.begin():
                        begun.append(call)
                        self._publish(call)
                    done += 1
        except Exception as exc:
            outcome = outcome_of(exc)
            before = outcome if done == len(calls) else self._outcome_before(exc)
            for call in begun:
                if call.error is None:
                    call.error = before
            for call in calls[done:]:  # the connection broke before their turn
                if call.begin():
                    call.error = NotSent(str(exc))
                    call.error.__cause__ = exc
            if not rabbitmq.is_blocked(self._connection):  # else what is on its way arrives later
                self.close()

    def _batch_size(self, calls: Sequence[Call]) -> int:
        if any(is_canvas(call.work.target) for call in calls):  # of tens of thousands of messages, perhaps
            return CANVAS_BATCH
        # One command for each message, and more for events and declarations: never flushed half-way.
        return len(calls) * 64 + 1

    def _expand(self, call: Call) -> bool:
        """
        Go through a canvas before it begins: run the caller's generators, and find what could never end.

        Returns:
            Whether it can be published: not if it was given up meanwhile, or has an error.
        """
        try:
            call.work.context.run(self._go_through, call)
        except Exception as exc:
            if call.begin():
                call.error = exc
        return not call.is_decided

    def _go_through(self, call: Call) -> None:
        ignored_is_lost = not isinstance(self._backend, RedisBackend)
        for task in tasks_of(call.work.target):
            if call.is_decided:
                return
            self.progress = time.monotonic()
            if ignored_is_lost and kind_of(task) == "chord":
                self._check_header(task)

    def _check_header(self, canvas: Any) -> None:
        """Raise ValueError for a chord whose body would wait for ever for a result that its task does not store."""
        for task in _header(canvas):
            while kind_of(task) == "chain" and task.tasks:
                task = task.tasks[-1]
            if kind_of(task) is None and ignores_result(self._app, task, {}):
                raise ValueError(
                    f"the body of a chord needs the results of its header, and {task.task!r} ignores its own:"
                    " give it ignore_result=False"
                )

    def _outcome_before(self, exc: Exception) -> Exception | None:
        """Return what became of the first messages of a batch when a later one raised *exc*."""
        if not versions.is_batched(self._producer):
            return None  # each was sent, and confirmed, before the next
        # On Redis they were only buffered, and will never be sent; elsewhere they are on their way.
        outcome: Exception = (NotSent if self._driver == "redis" else SentInDoubt)(str(exc))
        outcome.__cause__ = exc
        return outcome

    def close(self) -> None:
        """Drop the connection; the next `ready` makes another."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            try:
                drop(connection)
            except Exception as exc:
                log.debug("while closing the connection to the broker: %s", exc)

    def _connect(self) -> None:
        self._connection = connect(self._app)
        self._errors = errors_of(self._connection)
        self._declared.clear()
        rabbitmq.declare(self._app, self._connection)
        producer: Any = self._app.amqp.Producer(self._connection.channel())
        producer.publish = functools.partial(self._produce, producer)
        self._producer = producer
        self._has_templates = self._driver == "redis" and versions.is_batched(producer)
        self._templates.clear()

    def _check_connection(self) -> None:
        if ping := getattr(self._producer.channel, "conn_or_acquire", None):
            with ping() as client:
                client.ping()
        elif check := getattr(self._connection.transport, "check_connection", None):
            check(self._connection.connection)

    def _publish(self, call: Call) -> None:
        self._produced = 0
        try:
            call.value = call.work.context.run(self._send, call.work)
        except SetupRefused as exc:  # of this one's queue
            call.error = outcome_of(exc)
        except self._errors as exc:
            call.error = outcome_of(exc)
            if self._produced and is_canvas(call.work.target):  # a part of it may be on its way
                call.error = SentInDoubt(str(exc))
                call.error.__cause__ = exc
            # The rest of the batch would meet the same. What is buffered, if anything is, is never sent.
            raise NotSent(str(exc)) from exc
        except Exception as exc:  # the caller's mistake: bad arguments, an unknown queue, what JSON can't hold
            call.error = exc

    def _send(self, message: Message) -> Any:
        plan = self._plan(message)
        if plan is None:
            return self._apply_async(message)
        self._send_plain(message, plan)
        return None

    # The long way: whatever Celery does.

    def _apply_async(self, message: Message) -> Any:
        target, options = message.target, {"retry": False, **message.options}
        if isinstance(target, str):
            return self._app.send_task(target, message.args, message.kwargs, producer=self._producer, **options)
        made = target.apply_async(message.args, message.kwargs, producer=self._producer, **options)
        if made is None:
            raise ValueError("an empty chain has nothing to run")
        return made if message.finish is None else message.finish(made)

    def _produce(self, producer: Any, *args: Any, **kwargs: Any) -> None:
        """Publish one message, of a canvas perhaps."""
        Producer.publish(producer, *args, **kwargs)
        self.progress = time.monotonic()
        self._produced += 1

    # The short way.

    def _plan(self, message: Message) -> _Plan | None:
        if any(_has_receivers(signal) for signal in PUBLISH_SIGNALS):
            return None
        target = message.target
        if type(target) is Signature:  # by its items: each of its properties takes a call
            set_before = target["options"]
            if target["subtask_type"] is not None or not PLAIN_OPTIONS.issuperset(set_before):
                return None
            name, options = str(target["task"]), {**set_before, **message.options}
        elif isinstance(target, Task):
            name, options = str(target.name), message.options
        else:
            return None  # a canvas; or a name, of which this app may have no task
        queue = options.get("queue")
        if not PLAIN_OPTIONS.issuperset(options) or not (queue is None or isinstance(queue, str)):
            return None
        if self._delays_by_server and (options.get("eta") or options.get("countdown")):
            return None  # it goes to another exchange
        try:
            return self._plans[name, queue]
        except KeyError:
            plan = self._plans[name, queue] = self._make_plan(name, queue)
            return plan

    def _make_plan(self, name: str, queue: str | None) -> _Plan | None:
        app = self._app
        task: Any = app.tasks.get(name)
        if task is None or not _is_stock(app, task):
            return None
        defaults = {key: value for key, value in task._get_exec_options().items() if key != "expires"}
        if queue is not None:
            defaults["queue"] = queue
        route = app.amqp.router.route(dict(defaults), name, (), {}, task)
        if route.get("immediate") or route.get("mandatory") or "exchange_type" in route:
            return None
        return _Plan(
            defaults=defaults,
            route=route,
            check=getattr(task, "__header__", None) if task.typing else None,  # a class-based task has none
            dump=versions.dump_arguments(task),
            ignore_result=bool(task.ignore_result),
            name=name,
            queue=queue,
        )

    def _send_plain(self, message: Message, plan: _Plan) -> None:
        args, kwargs, options = _merged(message)
        if plan.check is not None:
            plan.check(*args, **kwargs)
        if plan.dump is not None and options.get("serializer", plan.route.get("serializer")) != "pickle":
            args, kwargs = plan.dump(args, kwargs)
        amqp = self._app.amqp
        shown = self._repr(args, amqp.argsrepr_maxsize), self._repr(kwargs, amqp.kwargsrepr_maxsize)
        if self._send_from_template(plan, args, kwargs, options, shown):
            return
        built, options = self._build(plan, args, kwargs, options, shown)
        if not built.headers["ignore_result"]:
            self._backend.on_task_call(self._producer, built.headers["id"])
        amqp.send_task_message(self._producer, plan.name, built, retry=False, **options)
        self._declared.add(plan.queue)

    def _build(
        self, plan: _Plan, args: Any, kwargs: Any, options: Mapping[str, Any], shown: tuple[str, str]
    ) -> tuple[Any, dict[str, Any]]:
        """Return Celery's message, and the options to send it by."""
        options = {**plan.route, **{key: value for key, value in options.items() if key != "queue"}}
        task_id = options.pop("task_id")
        ignore_result = options.pop("ignore_result", plan.ignore_result)
        time_limit, soft_time_limit = options.pop("time_limit", None), options.pop("soft_time_limit", None)
        eta, countdown = options.pop("eta", None), options.pop("countdown", None)
        if plan.queue in self._declared:
            options["declare"] = ()
        built = self._app.amqp.as_task_v2(
            task_id,
            plan.name,
            args,
            kwargs,
            countdown=countdown,
            eta=eta,
            reply_to=self._reply_to,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            create_sent_event=self._sent_event,
            shadow=options.pop("shadow", None),
            ignore_result=ignore_result,
            origin=self._origin,
            argsrepr=shown[0],
            kwargsrepr=shown[1],
        )
        return built, options

    # Messages from templates.

    def _send_from_template(
        self, plan: _Plan, args: Any, kwargs: Any, options: Mapping[str, Any], shown: tuple[str, str]
    ) -> bool:
        """Return whether the message was sent: not if there is no template for it."""
        template = self._template(plan, options)
        if template is None:
            return False
        headers = options.get("headers") or {}
        if before_task_publish.receivers:  # the span's, and no others'
            headers = {**headers}
            mark_message(headers=headers)
        if not template.headers.isdisjoint(headers):
            return False
        if headers:  # which our channel writes in a way of its own, as parts of a message
            headers = self._producer.channel.prepare_message(None, headers={**headers, HEADER: 0})["headers"]
            del headers[HEADER]
        task_id = options["task_id"]
        text = template.text(task_id, (args, kwargs), *shown, headers, self._producer.channel._next_delivery_tag())
        if not options.get("ignore_result", plan.ignore_result):
            self._backend.on_task_call(self._producer, task_id)
        versions.push(self._producer, template.key, text)
        self.progress = time.monotonic()
        if template.event is not None:
            event = template.sent_event(task_id, *shown)
            amqp: Any = self._app.amqp
            amqp._event_dispatcher.publish("task-sent", event, self._producer, retry=False)
        return True

    def _template(self, plan: _Plan, options: Mapping[str, Any]) -> Template | None:
        if not self._has_templates or plan.queue not in self._declared:
            return None
        kind: tuple[Any, ...] = (plan.name, plan.queue)
        if not DIFFERENT_OPTIONS.issuperset(options):
            for name, value in options.items():
                if name not in DIFFERENT_OPTIONS and name not in SAME_OPTIONS and value is not None:
                    return None
            kind += tuple((name, type(options[name]), options[name]) for name in SAME_OPTIONS if name in options)
        try:
            return self._templates[kind]
        except KeyError:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            made = self._templates[kind] = Context().run(self._make_template, plan, options)
            return made
        except TypeError:  # an option that can't be hashed, which the broker will refuse
            return None

    def _make_template(self, plan: _Plan, options: Mapping[str, Any]) -> Template | None:
        amqp: Any = self._app.amqp
        if (plan.route.get("serializer") or self._app.conf.task_serializer) != "json":
            return None
        captured = Captured(self._producer.channel)
        producer = amqp.Producer(self._producer.channel)
        producer._batch_local.current = captured
        options = {**options, "task_id": ID, "headers": {HEADER: 0}}
        try:
            built, options = self._build(plan, (), {}, options, (ARGS, KWARGS))
            amqp.send_task_message(producer, plan.name, built, retry=False, event_dispatcher=captured, **options)
        except Exception as exc:  # the caller hears of it from the message that is built instead
            log.debug("no template for %s: %r", plan.name, exc)
            return None
        return Template.of(captured, built.body[2])

    def _repr(self, value: Any, maxlen: int) -> str:
        """Return what `saferepr` returns, without it where that is plain to see: it takes 15 µs."""
        if not value or (type(value) is tuple and all(type(item) is int for item in value)):
            text = repr(value)
            if len(text) < maxlen:
                return text
        return saferepr(value, maxlen, maxlevels=self._maxlevels)


def connect(app: Celery) -> Any:
    """Return a connection to the broker, made, and with a bound on how long any answer may take."""
    transport = transport_of(app)
    connection: Any = app.connection_for_write(
        connect_timeout=min(app.conf.broker_connection_timeout or SOCKET_TIMEOUT, SOCKET_TIMEOUT),
        heartbeat=app.conf.broker_heartbeat,
        transport=rabbitmq.Transport if transport is pyamqp.Transport else None,  # its waits have no bound
    )
    options = connection.transport_options
    if transport.driver_type == "redis":
        for option in ("socket_timeout", "socket_connect_timeout"):
            options[option] = min(options.get(option) or SOCKET_TIMEOUT, SOCKET_TIMEOUT)
        # A silent retry would turn a message in doubt into two; kombu refuses to batch with it, too.
        options["retry_on_timeout"] = False
    elif transport.driver_type == "amqp":
        options.setdefault("confirm_publish", True)
        options.setdefault("confirm_timeout", SOCKET_TIMEOUT)
    elif transport.driver_type == "kafka":
        options.setdefault("publish_timeout", SOCKET_TIMEOUT)
    # One attempt for each host: kombu's own connect() sleeps 2 s between two.
    connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1), interval_start=0)
    servers.meet(app, connection)
    return connection


def _merged(message: Message) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Return args, kwargs and options of a signature with what the call adds, as `Signature._merge` has it."""
    target = message.target
    if not isinstance(target, Signature):
        return tuple(message.args), dict(message.kwargs), message.options
    options = {
        **target["options"],
        **{key: value for key, value in message.options.items() if value is not None},
    }
    if target["immutable"]:
        return tuple(target["args"]), dict(target["kwargs"]), options
    return (*message.args, *target["args"]), {**target["kwargs"], **message.kwargs}, options


def _has_receivers(signal: Any) -> bool:
    """Return whether anybody but us, who put two headers in by it, gets *signal*."""
    return any(receiver is not mark_message for _, receiver in signal.receivers)


def is_canvas(target: Target) -> bool:
    """Return whether *target* is a chain, group, chord, or something else that is made of tasks."""
    return kind_of(target) is not None


def kind_of(target: Any) -> str | None:
    """Return what a canvas is: ``chain``, ``group``, ``chord``…; None for what is no canvas."""
    # Celery's property of the same name takes three calls, and each message is asked four times.
    return target.get("subtask_type") if isinstance(target, Signature) else None


def tasks_of(target: Any) -> Iterator[Any]:
    """Yield a canvas and all canvases and tasks in it. What is in a generator is made as it comes, and kept."""
    stack: list[Iterator[Any]] = [iter([target])]
    while stack:
        for task in stack[-1]:
            yield task
            if parts := _parts(task):
                stack.append(parts)
                break
        else:
            stack.pop()


def _parts(task: Any) -> Iterator[Any] | None:
    kind = kind_of(task)
    if kind == "chord":
        return itertools.chain(_header(task), [task.kwargs.get("body")])
    return iter(task.tasks) if kind in ("chain", "group") else None


def _header(task: Any) -> Any:
    header = task.kwargs["header"]
    return header.tasks if kind_of(header) == "group" else header


def is_large(target: Any) -> bool:
    """Return whether it may take long to publish a canvas: it has many tasks, or a generator makes them."""
    count, stack = 0, [target]
    while stack:
        task = stack.pop()
        kind = kind_of(task)
        if kind == "chunks":
            return True
        if kind in ("chain", "group", "chord"):
            tasks = _header(task) if kind == "chord" else task.tasks
            if type(tasks) not in (list, tuple):
                return True
            count += len(tasks)
            if count > LARGE:
                return True
            stack += tasks
        if kind == "chord":
            stack.append(task.kwargs.get("body"))
    return False


def ignores_result(app: Celery, target: Target, options: Mapping[str, Any]) -> bool:
    """Return whether nobody stores the result of a task, sent with these options."""
    told = options.get("ignore_result")
    task: Any = target
    if isinstance(target, Signature):
        told = target["options"].get("ignore_result") if told is None else told
        task = target["task"]
    if isinstance(task, str):
        task = app.tasks.get(task)
    return bool(getattr(task, "ignore_result", False) if told is None else told)


def _is_stock(app: Celery, task: Any) -> bool:
    """Return whether publishing *task* means what Celery's own code means by it."""
    cls = type(task)
    return (
        cls.apply_async is Task.apply_async
        and cls.shadow_name is Task.shadow_name
        and type(app).send_task is Celery.send_task
        and type(app.amqp).as_task_v2 is AMQP.as_task_v2
        and type(app.amqp).send_task_message is AMQP.send_task_message
        and app.conf.task_protocol == 2
        and all(isinstance(route, MapRoute) for route in app.amqp.routes)
        and task.expires is None  # becomes a header and a property of the message
        and not (task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit)
    )


def _publish_only(backend: Any) -> None:
    """
    Keep the publisher thread's own backend from subscribing to results, which another connection waits for.

    Without this, every chord leaves its subscriptions and results behind for ever (measured: 600 of each after 200
    chords of three). It is set on the instance, which no other thread has.
    """

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    for name in ("on_task_call", "add_pending_result", "add_pending_results", "remove_pending_result"):
        setattr(backend, name, nothing)
