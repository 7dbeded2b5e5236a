"""
Log lines as JSON: one event is one line, and the same in web processes, workers and beat.

:func:`install` has the workers and the beat of an app write so where the
environment has ``LOG_FORMAT=json``. Of a task they say which it is, and never what it was given or what it returned.
"""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from celery import current_task, signals

from tornado_celery_bridge.base.settings import log_format

__all__ = ("JsonFormatter", "follow_environment")


class JsonFormatter(logging.Formatter):
    """
    Writes an event as one line of JSON, in ASCII: when, how grave, by whom, what, and its *fields*.

    Args:
        ids: Returns what an event is about, by name: a request, a task, a job.

    .. versionadded:: 0.1.0
    """

    def __init__(self, ids: Callable[[logging.LogRecord], Mapping[str, str]]) -> None:
        super().__init__()
        self._ids = ids

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Of its own an event may have ``fields``, a mapping; its traceback is ``exception``."""
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
    """Return what an event says, without what a task returned, which Celery would have in it."""
    if isinstance(record.args, Mapping) and "return_value" in record.args:
        return str(record.msg) % {**record.args, "return_value": "…"}
    return record.getMessage()


def follow_environment() -> None:
    """
    Let this process, if it is a worker or beat, log as ``LOG_FORMAT`` says: as JSON, or as Celery does.

    Raises:
        SettingsError: ``LOG_FORMAT`` is wrong.
    """
    if log_format() != "json":
        return
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(_write_json, dispatch_uid="tornado_celery_bridge.base.logs")
    # Until then, what Celery warns of before it sets up its log.
    logging.captureWarnings(True)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(JsonFormatter(_ids_of_task))


def _write_json(*, logger: logging.Logger, **_: Any) -> None:
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setFormatter(JsonFormatter(_ids_of_task))


def _ids_of_task(record: logging.LogRecord) -> dict[str, str]:
    """Return which task runs, which job it is if it is one, and which request asked for it if that is known."""
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
