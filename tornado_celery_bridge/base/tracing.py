"""
OpenTelemetry spans: a request and everything that follows from it is one trace. Without ``opentelemetry-api`` there are
no spans.

These begin spans:

- the service: one for each request (server), and one for each attempt to call back (client);
- ``Bridge.dispatch``: one for each task, chain, group or chord (producer), until the broker has the message;
- a worker: one for each attempt at a task (consumer), as a child of the span that published the message. What a worker
  publishes while a task runs (a retry, the next step of a chain, what the task's own code sends) is a child of that.

The header ``traceparent`` of requests and messages (W3C Trace Context) carries the span from one process to the next. A
message that is published again has the ``traceparent`` of the request that asked for the job.

The names of attributes are those of OpenTelemetry's semantic conventions for HTTP and messaging, and
``celery.task_name``, ``celery.state`` and ``celery.retries``. No span has arguments, a result, the text of an error, a
query, or more of a callback's URL than its host, because any of these may be a secret.
"""

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Literal, Self

from celery import signals, states
from celery.exceptions import ImproperlyConfigured

from tornado_celery_bridge._version import __version__

try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    is_available = False
else:
    is_available = True
    _W3C = TraceContextTextMapPropagator()
    _tracer = trace.get_tracer("tornado_celery_bridge", __version__)  # the provider may be set later

#: Milliseconds in which a process that ends may export its spans.
FLUSH = 5_000


class Span:
    """
    A piece of work that takes time, as a part of a trace. It can be a ``with`` block, whose exception marks it as
    failed.

    Args:
        kind: The side of a message or a request that does the work.
        name: What is done. There should be few different names.
        attributes: Attributes that are known at the beginning.
        parent: The headers of the message or request that the work is for; None: this context's span is the parent.
    """

    def __init__(
        self,
        kind: Literal["server", "client", "producer", "consumer"],
        name: str,
        attributes: Mapping[str, Any],
        *,
        parent: Mapping[str, Any] | None = None,
    ) -> None:
        self._token: Any = None
        self._span: Any = None
        if is_available:
            of = None if parent is None else _W3C.extract(_strings(parent), context.Context())
            self._span = _tracer.start_span(name, of, trace.SpanKind[kind.upper()], attributes)

    def enter(self) -> Self:
        """Make this the span of the context, until :meth:`leave`."""
        if self._span is not None:
            self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def leave(self) -> None:
        """Make the previous span the span of the context again."""
        if self._token is not None:
            context.detach(self._token)

    def headers(self) -> dict[str, str]:
        """Return the headers that make spans elsewhere children of this one; empty if there are no spans."""
        return {} if self._span is None else _headers(trace.set_span_in_context(self._span))

    def note(self, attributes: Mapping[str, Any], *, error: str | None = None) -> None:
        """Add attributes. With *error*, an exception's class or an HTTP status, mark the span as failed."""
        if self._span is not None:
            self._span.set_attributes(attributes if error is None else {**attributes, "error.type": error})
            if error is not None:
                self._span.set_status(trace.StatusCode.ERROR)

    def end(self) -> None:
        """End the span."""
        if self._span is not None:
            self._span.end()

    def __enter__(self) -> Self:
        return self.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.note({}, error=_name(kind))
        self.leave()
        self.end()


def current_headers() -> dict[str, str]:
    """Return the headers that make spans elsewhere children of this context's span; empty if it has none."""
    return _headers(None) if is_available else {}


def _headers(of: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    _W3C.inject(headers, of)
    return headers


def _strings(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the trace's headers if they are texts: anybody may have written them."""
    return {name: given[name] for name in ("traceparent", "tracestate") if isinstance(given.get(name), str)}


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# Messages, whatever code publishes them.


def follow_publishing() -> None:
    """Put the current span into each message that this process publishes."""
    if is_available:
        signals.before_task_publish.connect(mark_message, weak=False, dispatch_uid=__name__)


def mark_message(*, headers: dict[str, Any], **_: Any) -> None:
    """Put the span of this context into a message's headers. It replaces a span from an earlier process."""
    if marks := _headers(None):
        headers.pop("tracestate", None)
        headers.update(marks)


# Tasks that a worker runs.


def follow_tasks() -> None:
    """Make a span of each attempt at a task in this process."""
    if is_available:
        signals.task_prerun.connect(_begin_attempt, weak=False, dispatch_uid=__name__)
        signals.task_postrun.connect(_end_attempt, weak=False, dispatch_uid=__name__)


def _begin_attempt(*, task: Any, task_id: str, **_: Any) -> None:
    request = task.request
    attributes = {
        "messaging.system": "celery",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": task_id,
        "celery.task_name": task.name,
        "celery.retries": request.retries or 0,
    }
    if queue := (request.delivery_info or {}).get("routing_key"):
        attributes["messaging.destination.name"] = queue
    parent = _strings(request.headers or {})
    # An eager task has no message: its parent is the span of the caller.
    span = Span("consumer", f"process {task.name}", attributes, parent=None if request.is_eager else parent)
    request.span = span.enter()


def _end_attempt(*, task: Any, state: str | None = None, retval: Any = None, **_: Any) -> None:
    span: Span | None = vars(task.request).pop("span", None)
    if span is None:
        return
    cause = getattr(retval, "exc", None) if state == states.RETRY else retval  # a retry for no exception is no failure
    failed = state in (states.FAILURE, states.RETRY) and isinstance(cause, BaseException)
    span.note({"celery.state": state or "UNKNOWN"}, error=_name(type(cause)) if failed else None)
    span.leave()
    span.end()


# The SDK, if the environment asks for it.


def set_up(service: str) -> None:
    """
    Export spans as ``OTEL_TRACES_EXPORTER`` and OpenTelemetry's other variables say. An app that has set a tracer
    provider itself keeps it.

    Args:
        service: The name of the process, if ``OTEL_SERVICE_NAME`` is not set.

    Raises:
        ImproperlyConfigured: A package that the exporter needs is not installed.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "none"
    if exporter == "none" or (is_available and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)):
        return
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        (found,) = entry_points(group="opentelemetry_traces_exporter", name=_entry_point(exporter))
        made = BatchSpanProcessor(found.load()())
    except (ImportError, ValueError) as exc:
        needed = "opentelemetry-sdk and its package for that exporter"
        raise ImproperlyConfigured(f"OTEL_TRACES_EXPORTER={exporter} needs {needed}") from exc
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(made)
    trace.set_tracer_provider(provider)
    # A pool process ends without Python's exit handlers, so the spans are exported here.
    signals.worker_process_shutdown.connect(lambda **_: provider.force_flush(FLUSH), weak=False, dispatch_uid=__name__)


def _entry_point(exporter: str) -> str:
    """Return the name of the exporter's entry point. OTLP's contains the protocol."""
    if exporter != "otlp":
        return exporter
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, names)), "http/protobuf")
    return f"otlp_proto_{protocol.partition('/')[0]}"
