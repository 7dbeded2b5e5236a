"""Log lines, as text or as JSON: one event is one line, whatever a client puts into it."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

import tornado.web

from web.trace import Trace, current, current_job

__all__ = ("FORMATS", "Format", "log_request", "set_up")

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")

_access = logging.getLogger("web.access")

# Control characters, and what else some viewer takes for the end of a line, as escapes.
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def _ids(record: logging.LogRecord) -> dict[str, str]:
    """Return which request and which job an event belongs to; the access log says it, wherever it is written."""
    trace: Trace | None = getattr(record, "trace", None) or current.get()
    found = {} if trace is None else {"request": trace.request_id, "trace": trace.trace_id}
    job = current_job.get()
    return found if job is None else {**found, "job": job}


class OneLineFormatter(logging.Formatter):
    """Writes an event, its traceback included, as one line without control characters, with its ids."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        ids = (f" {name}={value}" for name, value in _ids(record).items())
        return super().formatMessage(record) + "".join(ids)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(_ESCAPES)


class JsonFormatter(logging.Formatter):
    """Writes an event as one line of JSON, in ASCII: with its ids, and of a request what it was."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(record),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(form: Format = "text", level: int = logging.INFO) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler()
    text = OneLineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def log_request(handler: tornado.web.RequestHandler) -> None:
    """Log an answered request. Neither the query nor the body is logged: they may hold anything."""
    status = handler.get_status()
    request = handler.request
    fields = {
        "method": request.method,
        "path": request.path,
        "status": status,
        "ms": round(1000 * request.request_time(), 1),
        "ip": request.remote_ip,
        "key": getattr(getattr(handler, "principal", None), "key_id", "") or "-",
    }
    _access.log(
        logging.INFO if status < 500 else logging.WARNING,
        " ".join(f"{name}=%s" for name in fields),
        *fields.values(),
        extra={"trace": getattr(handler, "trace", None), "fields": fields},
    )
