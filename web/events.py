"""A job's events as frames, which server-sent events and a WebSocket carry alike."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.ledger import Event, Job
from web import representation
from web.jobs import Jobs
from web.keys import Principal
from web.problems import Fault, Problem, problem_of

__all__ = ("KEEP_ALIVE", "Frame", "frames", "position_of")

#: Seconds of silence after which a comment is sent, so that nobody in between takes the connection for dead.
KEEP_ALIVE = 15.0


class Frame(NamedTuple):
    """One event as a client gets it. Without a name it is a sign of life."""

    event: str | None
    data: Any = None
    #: The event's number; the client says it when it comes back.
    id: int | None = None

    def for_sse(self) -> bytes:
        """Return the frame as a server-sent event."""
        if self.event is None:
            return b": still here\n\n"
        lines = [b"event: " + self.event.encode(), b"data: " + representation.encode(self.data)]
        if self.id is not None:
            lines.append(b"id: %d" % self.id)
        if self.event == "close":
            lines.append(b"retry: 1000")
        return b"\n".join(lines) + b"\n\n"


def position_of(text: str | None) -> int | None:
    """
    Return the number of the last event that a client has, as it says; None for none.

    Raises:
        Problem: 400, it is no number.
    """
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        detail = "Last-Event-ID, or after, should be the id of an event."
        raise Problem(400, "invalid-event-id", detail, faults=[Fault("", detail)])
    return int(text)


async def frames(
    jobs: Jobs, principal: Principal, job: Job, after: int | None, closing: asyncio.Event
) -> AsyncGenerator[Frame]:
    """
    Yield a job's events up to its end, or up to one that says why there are no more.

    Args:
        jobs: Where the job is.
        principal: Who follows it.
        job: The job as it is now.
        after: The number of the last event that the client has; None for a client that begins.
        closing: Set when the process is about to end.
    """
    shown = Job(record=job.record) if not after else replace(job, progress=None, error=None)
    if after is None:
        yield Frame("state", representation.job(shown), 0)
    try:
        with jobs.ledger.follow(job.record.id, after or 0) as events:
            async with aclosing(_upcoming(events, closing)) as upcoming:
                async for event in upcoming:
                    if event is None:
                        yield Frame(None)
                        continue
                    if event.kind in ("snapshot", "end"):
                        shown = await jobs.get(principal, job.record.id)
                    elif event.kind == "state":
                        shown = replace(shown, error=None, **json.loads(event.data))
                    yield _frame_of(event, shown)
                    if event.kind == "end":
                        return
        yield Frame("close", {"reason": "shutting-down"})
    except (BridgeError, Problem) as exc:
        yield Frame("close", {"reason": problem_of(exc).code})


def _frame_of(event: Event, shown: Job) -> Frame:
    if event.kind in ("progress", "log"):
        return Frame(event.kind, json.loads(event.data), event.number)
    return Frame(event.kind, representation.job(shown), event.number)


async def _upcoming(events: AsyncIterator[Event], closing: asyncio.Event) -> AsyncGenerator[Event | None]:
    """Yield what *events* yields, None after each long silence, until *closing* is set."""
    shutdown = asyncio.ensure_future(closing.wait())
    pending: asyncio.Future[Event] = asyncio.ensure_future(anext(events))
    try:
        while not closing.is_set():
            await asyncio.wait((pending, shutdown), timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
            if pending.done():
                yield pending.result()
                pending = asyncio.ensure_future(anext(events))
            elif not shutdown.done():
                yield None
    finally:
        shutdown.cancel()
        pending.cancel()
        await asyncio.gather(shutdown, pending, return_exceptions=True)
