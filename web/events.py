"""A job's states and progress as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from tornado_celery_bridge import BridgeError, ResultTimeout, TaskState
from tornado_celery_bridge.ledger import JobRecord
from web import representation
from web.problems import problem_of

__all__ = ("KEEP_ALIVE", "end_id", "frames")

#: Seconds of silence after which a comment is sent, so that nobody in between takes the connection for dead.
KEEP_ALIVE = 15.0


def end_id(job_id: str) -> str:
    """Return the id of a job's last event, the only one that has an id: after it there is nothing to come back for."""
    return f"{job_id}-end"


async def frames(record: JobRecord, states: AsyncIterator[TaskState], closing: asyncio.Event) -> AsyncGenerator[bytes]:
    """
    Yield a job's events up to its end, or up to one that says why there are no more.

    Args:
        record: The job.
        states: What :meth:`web.jobs.Jobs.follow` yields.
        closing: Set when the process is about to end.
    """
    try:
        async with aclosing(_upcoming(states, closing)) as events:
            async for state in events:
                yield b": still here\n\n" if state is None else _event_of(record, state)
                if state is not None and state.ready:
                    return
        yield _frame("close", {"reason": "shutting-down"}, retry=1000)
    except ResultTimeout:
        yield _frame("close", {"reason": "timeout"})
    except BridgeError as exc:
        yield _frame("close", {"reason": problem_of(exc).code}, retry=1000)


async def _upcoming(states: AsyncIterator[TaskState], closing: asyncio.Event) -> AsyncGenerator[TaskState | None]:
    """Yield what *states* yields, None after each long silence, until *closing* is set."""
    shutdown = asyncio.ensure_future(closing.wait())
    pending = asyncio.ensure_future(anext(states))
    try:
        while not closing.is_set():
            await asyncio.wait((pending, shutdown), timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
            if pending.done():
                yield pending.result()
                pending = asyncio.ensure_future(anext(states))
            elif not shutdown.done():
                yield None
    finally:
        shutdown.cancel()
        pending.cancel()
        await asyncio.gather(shutdown, pending, return_exceptions=True)


def _event_of(record: JobRecord, state: TaskState) -> bytes:
    job = representation.job(record, state)
    if state.ready:
        return _frame("end", job, event_id=end_id(record.id))
    if job["progress"] is not None:
        return _frame("progress", job["progress"])
    return _frame("state", job)


def _frame(event: str, data: Mapping[str, Any], *, event_id: str | None = None, retry: int | None = None) -> bytes:
    lines = [b"event: " + event.encode(), b"data: " + representation.encode(data)]
    if event_id is not None:
        lines.append(b"id: " + event_id.encode())
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    return b"\n".join(lines) + b"\n\n"
