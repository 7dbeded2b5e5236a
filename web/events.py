"""A job's states and progress as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
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
    """Return the id of a job's last event. It is the only event with one: after it there is nothing to come back for."""
    return f"{job_id}-end"


async def frames(record: JobRecord, states: AsyncIterator[TaskState], closing: asyncio.Event) -> AsyncIterator[bytes]:
    """
    Yield a job's events up to its end, or up to one that says why there are no more.

    Args:
        record: The job.
        states: What :meth:`web.jobs.Jobs.follow` yields.
        closing: Set when the process is about to end.
    """
    shutdown = asyncio.ensure_future(closing.wait())
    upcoming: asyncio.Future[TaskState] | None = None
    try:
        async with aclosing(states):  # type: ignore[type-var]
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(states))
                await asyncio.wait((upcoming, shutdown), timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                if upcoming.done():
                    yield _event_of(record, state := upcoming.result())
                    upcoming = None
                    if state.ready:
                        return
                elif shutdown.done():
                    yield _frame("close", {"reason": "shutting-down"}, retry=1000)
                    return
                else:
                    yield b": still here\n\n"
    except ResultTimeout:
        yield _frame("close", {"reason": "timeout"})
    except BridgeError as exc:
        yield _frame("close", {"reason": problem_of(exc).code}, retry=1000)
    finally:
        shutdown.cancel()
        if upcoming is not None:
            upcoming.cancel()
        await asyncio.gather(shutdown, *filter(None, [upcoming]), return_exceptions=True)


def _event_of(record: JobRecord, state: TaskState) -> bytes:
    job = representation.job(record, state)
    if state.ready:
        return _frame("end", job, event_id=end_id(record.id))
    if state.progress is not None:
        return _frame("progress", job["progress"])
    return _frame("state", job)


def _frame(event: str, data: dict[str, Any], *, event_id: str | None = None, retry: int | None = None) -> bytes:
    lines = [b"event: " + event.encode(), b"data: " + representation.encode(data)]
    if event_id is not None:
        lines.append(b"id: " + event_id.encode())
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    return b"\n".join(lines) + b"\n\n"
