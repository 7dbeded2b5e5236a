"""
Which request something belongs to: the id of the request, and of its trace.

`W3C Trace Context <https://www.w3.org/TR/trace-context/>`_, level 1. With OpenTelemetry, each request is a span (see
``base.tracing``): a child of the caller's, and the parent of the worker's. Without it, the caller's header is passed on
unchanged, so that the worker's spans are children of the caller's.
"""

import re
import secrets
from contextvars import ContextVar
from typing import NamedTuple, Self

# Version, trace id, parent id, flags; a later version may have more after a dash.
_TRACEPARENT = re.compile("([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^,]*)?")


class Trace(NamedTuple):
    """A request, as logs, problems and messages name it."""

    request_id: str
    traceparent: str

    @classmethod
    def begun(cls, traceparent: str | None) -> Self:
        """Return a new request's; without a valid *traceparent* from the client, with a new one."""
        request_id = secrets.token_hex(8)
        return cls(request_id, valid(traceparent) or f"00-{secrets.token_hex(16)}-{request_id}-00")

    @property
    def trace_id(self) -> str:
        """The trace's id."""
        return self.traceparent[3:35]


#: The request that is being answered; None elsewhere.
current: ContextVar[Trace | None] = ContextVar("current", default=None)
#: The id of the job that it is about, once that is known.
current_job: ContextVar[str | None] = ContextVar("current_job", default=None)


def message_headers() -> dict[str, str]:
    """Return the headers that a job's message gets from its request. A task has them in ``self.request.headers``."""
    trace = current.get()
    return {} if trace is None else {"traceparent": trace.traceparent, "request_id": trace.request_id}


def valid(traceparent: str | None) -> str | None:
    """Return the header to pass on, or None if it is malformed. Of a later version it is the part that we know."""
    match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if match is None or traceparent is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or trace_id == "0" * 32 or parent_id == "0" * 16 or (version == "00" and more is not None):
        return None
    return traceparent if version == "00" else f"00-{trace_id}-{parent_id}-{int(flags, 16) & 1:02x}"
