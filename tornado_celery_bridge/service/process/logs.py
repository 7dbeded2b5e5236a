"""Log lines, as text or as JSON: one event is one line, whatever a client puts into it."""

import logging

from tornado_celery_bridge.base.logs import JsonFormatter, quoted, safe
from tornado_celery_bridge.base.settings import Format
from tornado_celery_bridge.service.http.trace import Trace, current, current_job


def ids_of(record: logging.LogRecord) -> dict[str, str]:
    """Return which request and which job an event belongs to; the access log says it, wherever it is written."""
    trace: Trace | None = getattr(record, "trace", None) or current.get()
    found = {} if trace is None else {"request": trace.request_id, "trace": trace.trace_id}
    job = current_job.get()
    return found if job is None else {**found, "job": job}


class OneLineFormatter(logging.Formatter):
    """Writes an event, its traceback included, as one safe line, with its ids."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        ids = (f" {name}={quoted(value)}" for name, value in ids_of(record).items())
        return super().formatMessage(record) + "".join(ids)

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))


def set_up_logs(form: Format = "text", level: int = logging.INFO) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler()
    text = OneLineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter(ids_of) if form == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
