"""A job's events as frames, which server-sent events and a WebSocket carry alike."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.base.json import loads_safely
from tornado_celery_bridge.ledger import Event, Job
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.documents import rfc3339
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.http.problems import Kind, Problem, problem_of
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.jobs.problems import EXPIRED_JOB
from tornado_celery_bridge.service.resources.jobs.service import Jobs
from tornado_celery_bridge.service.resources.links import Links

INVALID_EVENT_ID = Kind("invalid-event-id", 400, "That is the id of no event.")

#: Seconds of silence after which a comment is sent, so that nobody in between takes the connection for dead.
KEEP_ALIVE = 15.0


class Frame(NamedTuple):
    """One event as a client gets it. Without a name it is a sign of life."""

    event: str | None
    data: Any = None
    #: Which event it is; the client says it when it comes back.
    id: Any = None

    def for_sse(self) -> bytes:
        """Return the frame as a server-sent event."""
        if self.event is None:
            return b": still here\n\n"
        lines = [b"event: " + self.event.encode(), b"data: " + encode(self.data)]
        if self.id is not None:
            lines.append(f"id: {self.id}".encode())
        if self.event == "close":
            lines.append(b"retry: 1000")
        return b"\n".join(lines) + b"\n\n"


#: What a job does not have any more in its next state, unless that says so.
UNTOLD: dict[str, Any] = {"error": None, "progress": None, "checkpoint": None}


def position_of(text: str | None) -> int | None:
    """Return the number of the last event that a client has, by what it sent; None for none. 400 for no number."""
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        detail = "Last-Event-ID, or after, should be the id of an event."
        raise INVALID_EVENT_ID.at("", detail)
    return int(text)


async def frames(
    jobs: Jobs, caller: Principal, job: Job, after: int | None, closing: asyncio.Event
) -> AsyncGenerator[Frame]:
    """
    Yield a job's events up to its end, or up to one that says why there are no more.

    Args:
        jobs: Where the job is.
        caller: Who follows it.
        job: The job as it is now.
        after: The number of the last event that the client has; None for a client that begins.
        closing: Set when the process is about to end.
    """
    if after is not None and after > job.number:  # no event has this number: the ledger lost some, or it was made up
        yield _frame_of(Event(job.number, "snapshot", "{}"), job, jobs.links, caller)
        after = job.number
    shown = Job(record=job.record) if not after else replace(job, progress=None, error=None, checkpoint=None)
    if after is None:
        yield Frame("state", documents.job(shown, jobs.links), 0)
    try:
        with jobs.ledger.events.follow(job.record.id, after or 0) as events:
            async with aclosing(_upcoming(events, closing)) as upcoming:
                async for event in upcoming:
                    if event is None:
                        yield Frame(None)
                        continue
                    if event.kind in ("snapshot", "changed", "end"):
                        shown = await jobs.get(caller, job.record.id)
                    elif event.kind == "state":
                        shown = replace(shown, **UNTOLD | _changes(loads_safely(event.data)))
                    yield _frame_of(event, shown, jobs.links, caller)
                    if event.kind == "end":
                        return
        yield Frame("close", {"reason": "shutting-down"})
    except (BridgeError, Problem) as exc:
        yield Frame("close", {"reason": problem_of(exc).code})


def _changes(told: Any) -> dict[str, Any]:
    """Return what has changed of a job; of an event that can't be read, only that it has told something."""
    return told if isinstance(told, dict) else {"progress": told}


def _frame_of(event: Event, shown: Job, links: Links, caller: Principal) -> Frame:
    if event.kind == "checkpoint":
        told = loads_safely(event.data)
        return Frame(event.kind, told | {"saved_at": rfc3339(told["saved_at"])}, event.number)
    if event.kind in ("progress", "item", "log"):
        return Frame(event.kind, loads_safely(event.data), event.number)
    document = documents.job(replace(shown, queue_depth=None), links, traceback=caller.sees_tracebacks)
    return Frame(event.kind, document, event.number)


def positions_of(text: str | None, count: int) -> list[int | None]:
    """Return the same for each of *count* jobs. 400 if it is no such list."""
    if not text:
        return [None] * count
    positions = [position_of(part) for part in text.split(".")]
    if len(positions) != count:
        raise no_event_of_this_stream()
    return positions


def no_event_of_this_stream() -> Problem:
    """Return what to say of an event's id from another stream, or from one that is forgotten."""
    detail = "Last-Event-ID, or after, is not of a stream of these jobs."
    return INVALID_EVENT_ID.at("", detail)


async def frames_of_many(
    jobs: Jobs,
    caller: Principal,
    ids: Sequence[str],
    followed: Sequence[Job | None],
    after: Sequence[int | None],
    closing: asyncio.Event,
    name: str = "",
) -> AsyncGenerator[Frame]:
    """
    Yield the events of several jobs, as they come, up to the end of all.

    The arguments are those of :func:`frames`, and the ids of all jobs; None stands for one that is forgotten, of which
    there is only a frame ``gone``. A frame's id is *name*, followed by the client's place in each job. Its data is
    ``{"job", "data"}``. All of them together send one sign of life in a silence.
    """
    positions = [-1 if number is None else number for number in after]
    # Of one frame: a slow reader slows all of them down.
    ready: asyncio.Queue[tuple[int, Frame | Exception | None]] = asyncio.Queue(maxsize=1)

    def told(place: int, frame: Frame) -> Frame:
        if frame.id is not None:
            positions[place] = frame.id
        places = ".".join("" if number < 0 else str(number) for number in positions)
        return Frame(frame.event, {"job": ids[place], "data": frame.data}, name + places)

    async def relay(place: int, job: Job) -> None:
        try:
            async with aclosing(frames(jobs, caller, job, after[place], closing)) as upcoming:
                async for frame in upcoming:
                    if frame.event is not None:
                        await ready.put((place, frame))
            await ready.put((place, None))
        except Exception as exc:  # the reader's to know
            await ready.put((place, exc))

    for place, job in enumerate(followed):
        if job is None:
            yield told(place, Frame("gone"))
    relays = [
        asyncio.ensure_future(relay(place, job))
        for place, job in enumerate(followed)
        if job is not None and not (job.done and positions[place] >= job.number)
    ]
    left = len(relays)
    try:
        while left:
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    place, frame = await ready.get()
            except TimeoutError:
                yield Frame(None)
                continue
            if isinstance(frame, Exception):
                raise frame
            if frame is None:
                left -= 1
            elif frame.event == "close" and frame.data["reason"] == EXPIRED_JOB.code:
                yield told(place, Frame("gone"))  # it was forgotten meanwhile; the others go on
            elif frame.event == "close":
                yield frame
                return
            else:
                yield told(place, frame)
    finally:
        for each in relays:
            each.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


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
