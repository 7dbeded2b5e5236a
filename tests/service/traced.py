"""The sample app in a process that has OpenTelemetry's SDK write each span as a line of JSON to ``SPANS_FILE``."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from tests.service.sample import make_app

__all__ = ("app", "export_to")


class FileExporter(SpanExporter):
    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a") as file:
            file.write("".join(f"{json.dumps(told(span))}\n" for span in spans))
        return SpanExportResult.SUCCESS


def told(span: ReadableSpan) -> dict[str, Any]:
    assert span.context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": span.parent and f"{span.parent.span_id:016x}",
        "status": span.status.status_code.name,
        "said": [span.status.description, *(event.name for event in span.events)],
        "pid": os.getpid(),
        **(span.attributes or {}),
    }


def export_to(path: Path) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(path)))
    trace.set_tracer_provider(provider)


export_to(Path(os.environ["SPANS_FILE"]))
app = make_app(os.environ["SAMPLE_URL"])
