"""A job's message, whenever a worker publishes one: where it goes, and how the ledger keeps it."""

from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.app.task import Context

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.ledger.blocking import KEPT
from tornado_celery_bridge.ledger.destinations import destination_of, priorities_of
from tornado_celery_bridge.worker.attempt import AFTER, current_attempt, ledger_of
from tornado_celery_bridge.worker.coroutines import handled
from tornado_celery_bridge.worker.errors import error_of
from tornado_celery_bridge.worker.keeper import is_keeper


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
    attempt, task = current_attempt(), app.current_worker_task
    is_its_own = attempt is not None and attempt.id == headers["id"]
    request: Any = task.request if is_its_own and task is not None else None
    if request is not None:
        _mark(headers, request)
    goes_to = destination_of(app, exchange, routing_key)
    options = Context(headers, **embed).as_execution_options() | goes_to.options
    options["priority"] = priority = properties.get("priority")
    eta = headers.get("eta")
    due = None if eta is None else datetime.fromisoformat(eta)
    given = {name: value for name, value in options.items() if value is not None} | ({"eta": due} if due else {})
    message = {"task": headers["task"], "args": args, "kwargs": kwargs, "options": given}
    why, token = None, ""
    urgency = None if priority is None else priorities_of(app).to_broker(priority)
    if request is not None and priority == (request.delivery_info or {}).get("priority"):
        urgency = KEPT  # the broker may have given it one, which nobody asked for
    if attempt is not None and is_its_own:
        token = attempt.token
        if not attempt.is_replaced:
            attempt.checkpoints.flush()  # the next attempt may begin before this one's code ends
            attempt.asks_again = True
            why = error_of(handled())  # what the code handles; nearly always what it asks for the retry by
    ledger_of(app).keep(
        headers["id"],
        encoding.dumps(message),
        _seconds_until(headers.get("eta")),
        expires_in=_seconds_until(headers.get("expires")),
        queue=goes_to.queue,
        priority=urgency,
        token=token,
        why=why,
    )
    if token:
        headers[AFTER] = token


def _seconds_until(written: str | None) -> float | None:
    """Return in how many seconds a message's time is, which may be past. One without a zone is in UTC, as to Celery."""
    if written is None:
        return None
    time = datetime.fromisoformat(written)
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()


#: Headers of a message that go on to whatever takes its place.
_MARKS = ("request_id", "traceparent", "tracestate")


def mark_signature(signature: Any, request: Any) -> None:
    """Have what takes a task's place know the request and the trace that the task belongs to."""
    # Of a chain the last task goes on as the job; a chord hands its options on to its body, which does.
    for each in (signature, *(signature.tasks if signature.subtask_type == "chain" else ())):
        headers = dict(each.options.get("headers") or {})
        _mark(headers, request)
        if headers:
            each.set(headers=headers)


def _mark(headers: dict[str, Any], request: Any) -> None:
    found = request.headers or {}
    headers.update({name: found[name] for name in _MARKS if name in found and name not in headers})


def name_queue(app: Celery, request: Any) -> None:
    """Tell a task from which queue it came: else Celery, on RabbitMQ, delays its retry into the default queue."""
    info = request.delivery_info or {}
    if info.get("exchange"):
        info.update(destination_of(app, info["exchange"], info.get("routing_key") or "").options)
