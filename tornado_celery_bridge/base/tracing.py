"""
Spans of OpenTelemetry's: what a request leads to, as one trace. Without ``opentelemetry-api`` there are none.

Who begins which span:

- the service, one for each request (server), and for each attempt to call back (client);
- ``Bridge.dispatch``, one for each task, chain, group or chord (producer), until the broker has it;
- a worker, one for each attempt at a task (consumer): a child of what published its message. What a worker publishes
  while a task runs, be it a retry, the next step of a chain or what the task's own code sends, is a child of that.

They go from one process to the next as W3C Trace Context, in the header ``traceparent`` of requests and messages. A
message that is published again has the one of whoever asked for the job.

Names of attributes are those of OpenTelemetry's semantic conventions for HTTP and messaging, and beside them
``celery.task_name``, ``celery.state`` and ``celery.retries``. No span has arguments, a result, the text of an error, a
query, or more of a callback's URL than its host: any of them may be a secret.
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
    _tracer = trace.get_tracer("tornado_celery_bridge", __version__)  # of whatever provider there will be

__all__ = ("Span", "current_headers", "follow_publishing", "follow_tasks", "mark_message", "set_up")

#: Milliseconds for a process that ends to hand over the spans that it has.
FLUSH = 5_000


class Span:
    """
    Something that takes time, and is part of what it was begun for; a ``with`` block may be one, and fail.

    Args:
        kind: Which side of a message or a request it is.
        name: What is done, of which there are few.
        attributes: What is known of it.
        parent: What came with the message or request that it is about; None for the span of this context.

    .. versionadded:: 0.1.0
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
        """Make it the span of this context, up to :meth:`leave`."""
        if self._span is not None:
            self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def leave(self) -> None:
        """Make the span of before the context's again."""
        if self._token is not None:
            context.detach(self._token)

    def headers(self) -> dict[str, str]:
        """Return what makes spans elsewhere its children; empty where there are no spans."""
        return {} if self._span is None else _headers(trace.set_span_in_context(self._span))

    def note(self, attributes: Mapping[str, Any], *, error: str | None = None) -> None:
        """Add what has become known of it; that it failed, by an *error* of this class or status."""
        if self._span is not None:
            self._span.set_attributes(attributes if error is None else {**attributes, "error.type": error})
            if error is not None:
                self._span.set_status(trace.StatusCode.ERROR)

    def end(self) -> None:
        """End it."""
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
    """Return what makes spans elsewhere children of this context's; empty where it has none."""
    return _headers(None) if is_available else {}


def _headers(of: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    _W3C.inject(headers, of)
    return headers


def _strings(given: Mapping[str, Any]) -> dict[str, str]:
    """Return what there is of a trace in headers, which anybody may have written."""
    return {name: given[name] for name in ("traceparent", "tracestate") if isinstance(given.get(name), str)}


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# Messages, whoever publishes them.


def follow_publishing() -> None:
    """Have each message that this process publishes in a span's context say so."""
    if is_available:
        signals.before_task_publish.connect(mark_message, weak=False, dispatch_uid=__name__)


def mark_message(*, headers: dict[str, Any], **_: Any) -> None:
    """Put this context's span into a message's headers, in the place of one that came from further away."""
    if marks := _headers(None):
        headers.pop("tracestate", None)
        headers.update(marks)


# Tasks, as a worker runs them.


def follow_tasks() -> None:
    """Have each attempt at a task that this process makes be a span."""
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
    # An eager task has no message, and is part of what calls it.
    span = Span("consumer", f"process {task.name}", attributes, parent=None if request.is_eager else parent)
    request.span = span.enter()


def _end_attempt(*, task: Any, state: str | None = None, retval: Any = None, **_: Any) -> None:
    span: Span | None = vars(task.request).pop("span", None)
    if span is None:
        return
    cause = getattr(retval, "exc", None) if state == states.RETRY else retval  # without one, the task has not failed
    failed = state in (states.FAILURE, states.RETRY) and isinstance(cause, BaseException)
    span.note({"celery.state": state or "UNKNOWN"}, error=_name(type(cause)) if failed else None)
    span.leave()
    span.end()


# The SDK, where the environment asks for it.


def set_up(service: str) -> None:
    """
    Export spans as ``OTEL_TRACES_EXPORTER`` and OpenTelemetry's other variables say, unless the app has seen to that.

    Args:
        service: What the process is called, unless ``OTEL_SERVICE_NAME`` says it.

    Raises:
        ImproperlyConfigured: What that takes is not installed.

    .. versionadded:: 0.1.0
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
    # A pool's process ends without what Python does at exit.
    signals.worker_process_shutdown.connect(lambda **_: provider.force_flush(FLUSH), weak=False, dispatch_uid=__name__)


def _entry_point(exporter: str) -> str:
    """Return by which name a package has an exporter: OTLP's has the protocol in it."""
    if exporter != "otlp":
        return exporter
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, names)), "http/protobuf")
    return f"otlp_proto_{protocol.partition('/')[0]}"
