"""
Log lines as JSON: one line for each event, in the same form in web processes, workers and beat.

With ``LOG_FORMAT=json`` in the environment, the workers and the beat of an app that calls ``install(app)`` write such
lines. The lines name the running task, and never have its arguments or its return value.
"""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from celery import current_task, signals

from tornado_celery_bridge.base.settings import log_format


class JsonFormatter(logging.Formatter):
    """
    Writes an event as one line of JSON, in ASCII: time, level, logger, message, and the event's own *fields*.

    Args:
        ids: Returns the ids that an event is about, by name: of a request, a task, a job.
    """

    def __init__(self, ids: Callable[[logging.LogRecord], Mapping[str, str]]) -> None:
        super().__init__()
        self._ids = ids

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. An event may have ``fields``, a mapping. Its traceback is in ``exception``."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **self._ids(record),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _message(record: logging.LogRecord) -> str:
    """Return the message of an event, without the return value of a task, which Celery puts into it."""
    if isinstance(record.args, Mapping) and "return_value" in record.args:
        return str(record.msg) % {**record.args, "return_value": "…"}
    return record.getMessage()


def follow_environment() -> None:
    """
    Let this process log as ``LOG_FORMAT`` says, if it is a worker or a beat: as JSON, or as Celery does.

    Raises:
        SettingsError: ``LOG_FORMAT`` is wrong.
    """
    if log_format() != "json":
        return
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(_write_json, dispatch_uid="tornado_celery_bridge.base.logs")
    # For what Celery warns about before it sets up its log.
    logging.captureWarnings(True)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(JsonFormatter(_ids_of_task))


def _write_json(*, logger: logging.Logger, **_: Any) -> None:
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setFormatter(JsonFormatter(_ids_of_task))


def _ids_of_task(record: logging.LogRecord) -> dict[str, str]:
    """Return the ids of the running task, of its job, and of the request that asked for it, as far as they exist."""
    request = current_task.request if current_task else None
    if request is None or not request.id:
        return {}
    headers = request.headers or {}
    known = {
        "request": headers.get("request_id"),
        "trace": str(headers.get("traceparent") or "")[3:35],
        "job": request.id if getattr(request.get("attempt"), "is_job", False) else None,
        "task": current_task.name,
        "task_id": request.id,
    }
    return {name: str(value) for name, value in known.items() if value}
