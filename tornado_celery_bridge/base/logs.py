"""
Log lines: what is in none of them, and what they look like as JSON, in web processes, workers and beat.

All lines pass :func:`safe` on their way out, whoever wrote them: a client's, a task's or a server's words are in many.
It hides secrets, and escapes what would end a line, so that nobody can write a line that looks like one of ours.

With ``LOG_FORMAT=json`` in the environment, the workers and the beat of an app that calls ``install(app)`` write JSON,
one line for each event. The lines name the running task, and never have its arguments or its return value.
"""

import contextlib
import copy
import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from celery import Celery, current_task, signals

from tornado_celery_bridge.base.settings import log_format

# What a secret looks like, wherever it stands: one of our keys, of which the id may be known; any other credential in
# an `Authorization` header; a session's cookie; a callbacks' secret; the password in a URL.
_SECRET = re.compile(
    r"(?P<key>tcb_[a-z0-9]{1,32}_)[A-Za-z0-9_-]{8,}"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)(?!tcb_)[^\s\"',;\\]{4,}"
    r"|(?P<cookie>\bsession=\"?)2\|[^\s\";,]+"
    r"|(?P<callbacks>\bwhsec_)[A-Za-z0-9+/=]{8,}"
    r"|(?P<url>://[^\s/:@\"']*:)[^\s/@\"']+(?=@)",
    re.IGNORECASE,
)
# One of these is in every one of them. Most lines have none, and need not be searched: that takes 20 times as long.
_MARKS = ("tcb_", "bearer", "basic", "session=", "whsec_", "://")
_known: set[str] = set()
#: Characters of a secret that is looked for by its value; a shorter one would hide parts of ordinary words.
LEAST = 8

# Control characters, and what else some viewer takes for the end of a line, as escapes.
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_PLAIN = re.compile(r"[^\s\"=\\]+")


def hide(*secrets: str | None) -> None:
    """Have these values be in no line that this process writes from now on, whoever says them."""
    _known.update(secret for secret in secrets if secret and len(secret) >= LEAST)


def hide_passwords(app: Celery) -> None:
    """Hide the passwords in the URLs of an app's servers. A URL that is malformed has none that is known."""
    for name in ("broker_url", "broker_read_url", "broker_write_url", "result_backend", "job_ledger_url"):
        urls = app.conf.get(name) or ()
        for url in [urls] if isinstance(urls, str) else urls:
            with contextlib.suppress(ValueError):
                if password := urlsplit(str(url)).password:
                    hide(password, unquote(password))


def hidden(text: str) -> str:
    """Return *text* without secrets: each has an ellipsis in its place."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, "…")
    lowered = text.lower()
    if not any(mark in lowered for mark in _MARKS):
        return text
    return _SECRET.sub(lambda found: f"{found[found.lastgroup or 0]}…", text)


def safe(text: str) -> str:
    """Return *text* as a part of one line: without secrets, and with escapes for what would end the line."""
    text = hidden(text)
    return text if text.isprintable() else text.translate(_ESCAPES)


def quoted(value: object) -> str:
    """Return a value of a ``name=value`` pair, in quotes if it could be taken for more than a value."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class Lines(logging.Formatter):
    """
    Writes what another formatter makes of an event, as lines that are :func:`safe`.

    An event is one line. The lines of a traceback follow it, each after a bar: none looks like an event.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines."""
        record = copy.copy(record)
        record.msg, record.args = safe(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._inner.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = "\n".join(f"  | {safe(line)}" for line in record.exc_text.splitlines())
        record.stack_info = None
        return self._inner.format(record)


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
        return json.dumps(_hidden(line), default=str)


def _hidden(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: hidden(value) if isinstance(value, str) else value for name, value in line.items()}


def _message(record: logging.LogRecord) -> str:
    """Return the message of an event, without the return value of a task, which Celery puts into it."""
    if isinstance(record.args, Mapping) and "return_value" in record.args:
        return str(record.msg) % {**record.args, "return_value": "…"}
    return record.getMessage()


def follow_environment() -> None:
    """
    Let this process log as ``LOG_FORMAT`` says, if it is a worker or a beat: as JSON, or as Celery does, in safe lines.

    Raises:
        SettingsError: ``LOG_FORMAT`` is wrong.
    """
    is_json = log_format() == "json"
    write = _write_json if is_json else _write_safe_lines
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(write, dispatch_uid="tornado_celery_bridge.base.logs")
    if not is_json:
        return
    # For what Celery warns about before it sets up its log.
    logging.captureWarnings(True)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(JsonFormatter(_ids_of_task))


def _write_safe_lines(*, logger: logging.Logger, **_: Any) -> None:
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler.formatter, Lines):
            handler.setFormatter(Lines(handler.formatter or logging.Formatter()))


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
