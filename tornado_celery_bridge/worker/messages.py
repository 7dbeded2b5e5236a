"""A job's message, whenever a worker publishes one: where it goes, and how the ledger keeps it."""

import re
import sys
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.app.task import Context

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.worker.attempt import AFTER, current_attempt, ledger_of
from tornado_celery_bridge.worker.errors import error_of
from tornado_celery_bridge.worker.keeper import is_keeper

#: What Celery puts before a routing key for RabbitMQ to hold a message back: its delay in seconds, bit by bit.
_DELAY = re.compile(r"^(?:[01]\.)+")


def keep_message(
    app: Celery,
    *,
    headers: dict[str, Any],
    body: Any,
    properties: dict[str, Any],
    exchange: Any,
    routing_key: Any,
    **_: Any,
) -> None:
    """
    Have the ledger keep a message that is about to be published, as the signature that it comes from.

    Connected to Celery's signal ``before_task_publish``. A message of no job is not kept.
    """
    if is_keeper() or not isinstance(body, tuple):
        return
    args, kwargs, embed = body
    options = Context(headers, **embed).as_execution_options() | destination(app, exchange, routing_key)
    options["priority"] = properties.get("priority")
    eta = headers.get("eta")
    due = None if eta is None else datetime.fromisoformat(eta)
    given = {name: value for name, value in options.items() if value is not None} | ({"eta": due} if due else {})
    message = {"task": headers["task"], "args": args, "kwargs": kwargs, "options": given}
    seconds = None if due is None else (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp()
    attempt, why, token = current_attempt(), None, ""
    if attempt is not None and attempt.id == headers["id"]:
        token = attempt.token
        if not attempt.is_replaced:
            attempt.checkpoints.flush()  # the next attempt may begin before this one's code ends
            attempt.asks_again = True
            why = error_of(sys.exc_info()[1])  # what the code handles; nearly always what it asks for the retry by
    ledger_of(app).keep(headers["id"], encoding.dumps(message), seconds, token=token, why=why)
    if token:
        headers[AFTER] = token


def name_queue(app: Celery, request: Any) -> None:
    """Tell a task from which queue it came: else Celery, on RabbitMQ, delays its retry into the default queue."""
    info = request.delivery_info or {}
    if info.get("exchange"):
        info.update(destination(app, info["exchange"], info.get("routing_key") or ""))


def destination(app: Celery, exchange: Any, routing_key: str) -> dict[str, str]:
    """
    Return where a message goes, as options of a signature: a queue, or exchange and routing key.

    Args:
        app: Which may know the queue.
        exchange: An exchange or its name; '' for the broker's default.
        routing_key: The message's.
    """
    name = str(getattr(exchange, "name", exchange) or "")
    if not name:
        return {"queue": routing_key}
    if name.startswith("celery_delayed"):  # RabbitMQ holds it back, until the eta that it has
        routing_key = _DELAY.sub("", routing_key)
    for queue in app.amqp.queues.values():
        if queue.routing_key == routing_key and (name == queue.exchange.name or name.startswith("celery_delayed")):
            return {"queue": queue.name}
    return {"exchange": name, "routing_key": routing_key}
