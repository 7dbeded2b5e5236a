"""Where a message goes: decided in one place, by the arguments and options that Celery itself uses."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from celery import Celery
from celery.app.routes import MapRoute
from celery.utils.functional import maybe_evaluate

from tornado_celery_bridge.base.app import own_tasks
from tornado_celery_bridge.base.versions import dump_arguments
from tornado_celery_bridge.transports import Priorities

#: What Celery puts before a routing key for RabbitMQ to hold a message back: its delay in seconds, bit by bit.
_DELAY = re.compile(r"^(?:[01]\.)+")


class Destination(NamedTuple):
    """Where a message goes."""

    #: The queue's name. Of an exchange that leads to no queue that the app knows: the exchange's and the routing key.
    queue: str
    #: The options of ``apply_async`` that bring a message there, whatever the app's routes say at that time.
    options: dict[str, Any]
    #: From 0 to 9, where 9 is the most urgent; None: it has none, and so comes last.
    priority: int | None = None


def destination(
    app: Celery, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> Destination:
    """
    Return where Celery sends a task's message.

    The options are completed and the routes are asked as ``Task.apply_async``, ``Celery.send_task`` and
    ``AMQP.send_task_message`` do it.

    Args:
        app: The app, which need not have the task.
        name: The task's name.
        args: Positional arguments.
        kwargs: Named arguments.
        options: As ``Task.apply_async`` takes them.

    Raises:
        QueueNotFound: The app has no such queue. (A router of the app's own may raise anything.)
    """
    task: Any = app.tasks.get(name)
    asked = dict(options)
    if task is not None:
        asked = task._get_exec_options() | asked
        if (dump := dump_arguments(task)) is not None and asked.get("serializer") != "pickle":
            args, kwargs = dump(tuple(args), dict(kwargs))
    route: dict[str, Any] = app.amqp.router.route(asked, name, tuple(args), dict(kwargs), task)
    queue, exchange, routing_key = route.get("queue"), route.get("exchange"), route.get("routing_key")
    if queue is None and exchange is None:
        queue = app.amqp.default_queue
    kind = route.get("exchange_type") or (queue.exchange.type if queue else "direct")
    if kind == "direct" and not (exchange and routing_key):
        exchange, routing_key = "", queue.name if queue else ""
    elif queue is not None and exchange is None:
        exchange, routing_key = queue.exchange, routing_key or queue.routing_key
    found = destination_of(app, exchange, routing_key or app.conf.task_default_routing_key)
    priority, priorities = route.get("priority"), priorities_of(app)
    if priority is not None:
        return found._replace(priority=priorities.to_broker(priority))
    if priorities.default is not None:
        return found._replace(options={**found.options, "priority": priorities.default})
    return found


def destination_of(app: Celery, exchange: Any, routing_key: str) -> Destination:
    """
    Return where a message goes that is published to an exchange.

    Args:
        app: Which may know the queue.
        exchange: An exchange or its name; '' for the broker's default.
        routing_key: The message's.
    """
    name = str(getattr(exchange, "name", exchange) or "")
    if not name:
        return Destination(routing_key, {"queue": routing_key})
    is_held_back = name.startswith("celery_delayed")  # RabbitMQ holds it back, until the eta that it has
    if is_held_back:
        routing_key = _DELAY.sub("", routing_key)
    for queue in app.amqp.queues.values():
        if not is_held_back and name != queue.exchange.name:
            continue
        if queue.routing_key == routing_key:
            return Destination(queue.name, {"queue": queue.name})
        if _matches(queue, routing_key):
            return Destination(queue.name, {"queue": queue.name, "routing_key": routing_key})
    return Destination(f"{name}/{routing_key}", {"exchange": name, "routing_key": routing_key})


@functools.cache
def priorities_of(app: Celery) -> Priorities:
    """Return what *app*'s broker makes of priorities, which is found out once in each process."""
    return Priorities(app)


def _matches(queue: Any, routing_key: str) -> bool:
    """Return whether a queue's exchange brings a message with this routing key to the queue."""
    if queue.exchange.type == "fanout":
        return True
    if queue.exchange.type != "topic":
        return False
    words = re.escape(queue.routing_key or "").replace(r"\*", r"[^.]+").replace(r"\#\.", r"(?:.+\.)?")
    return re.fullmatch(words.replace(r"\.\#", r"(?:\..+)?").replace(r"\#", r".*"), routing_key) is not None


# Where messages may go.


def queues_named(app: Celery) -> set[str]:
    """Return the queues that an app's settings, routes, tasks and schedule name, and that it can have."""
    named = {app.conf.task_default_queue, *app.amqp.queues}
    for router in _routes(app):
        if isinstance(router, MapRoute):
            routes: Any = router
            named |= {_queue_of(route) for route in (*routes.map.values(), *routes.patterns.values())}
    named |= {_queue_of(getattr(task, "queue", None)) for _, task in own_tasks(app)}
    for entry in (app.conf.beat_schedule or {}).values():
        if isinstance(entry, Mapping):
            named.add(_queue_of(entry.get("options")))
    queues: Any = app.amqp.queues
    return {name for name in named if name and (name in queues or queues.create_missing)}


def routers(app: Celery) -> Iterator[str]:
    """Yield the names of functions that route tasks: what queues they name is known when a task is sent."""
    for router in _routes(app):
        router = maybe_evaluate(router)  # it may be named by a string
        if not isinstance(router, MapRoute):
            yield getattr(router, "__qualname__", None) or type(router).__qualname__


def _routes(app: Celery) -> list[Any]:
    router: Any = app.amqp.router
    return list(router.routes)


def _queue_of(route: Any) -> str:
    """Return the queue that a route, a task's option or a schedule entry's options name; empty if none."""
    if isinstance(route, Mapping):
        route = route.get("queue")
    return str(getattr(route, "name", route) or "")
