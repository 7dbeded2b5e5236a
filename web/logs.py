"""Log lines: one event is one line, whatever a client puts into it."""

import logging

import tornado.web

from web.trace import current

__all__ = ("log_request", "set_up")

_access = logging.getLogger("web.access")

# Control characters, and what else some viewer takes for the end of a line, as escapes.
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


class OneLineFormatter(logging.Formatter):
    """Writes an event, its traceback included, as one line without control characters, with the request's ids."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        line = super().formatMessage(record)
        trace = None if record.name == _access.name else current.get()  # the access log knows, wherever it is written
        return line if trace is None else f"{line} {trace}"

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(_ESCAPES)


def set_up(level: int = logging.INFO) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def log_request(handler: tornado.web.RequestHandler) -> None:
    """Log an answered request. Neither the query nor the body is logged: they may hold anything."""
    status = handler.get_status()
    request = handler.request
    _access.log(
        logging.INFO if status < 500 else logging.WARNING,
        "method=%s path=%s status=%d ms=%.1f ip=%s key=%s %s",
        request.method,
        request.path,
        status,
        1000 * request.request_time(),
        request.remote_ip,
        getattr(getattr(handler, "principal", None), "key_id", "") or "-",
        getattr(handler, "trace", "request=-"),
    )
