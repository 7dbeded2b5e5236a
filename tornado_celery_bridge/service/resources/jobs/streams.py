"""``/v1/jobs/{id}/events``, ``/v1/jobs/{id}/ws`` and ``/v1/events``: follow jobs while they run."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.service.access.limits import TOO_MANY_FOLLOWED
from tornado_celery_bridge.service.http.endpoint import Answer, get
from tornado_celery_bridge.service.http.headers import HeaderFields
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.http.origins import is_foreign
from tornado_celery_bridge.service.http.problems import FORBIDDEN, INVALID_QUERY, WAITERS_SATURATED, Kind, Problem
from tornado_celery_bridge.service.http.query import Query, Tag
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.jobs.endpoint import WRITE_TIMEOUT, JobId, ResourceEndpoint
from tornado_celery_bridge.service.resources.jobs.frames import (
    INVALID_EVENT_ID,
    Frame,
    frames,
    frames_of_many,
    no_event_of_this_stream,
    position_of,
    positions_of,
)
from tornado_celery_bridge.service.resources.jobs.problems import EXPIRED_JOB, JOB

NOT_A_WEBSOCKET = Kind("not-a-websocket", 400, "The request is no WebSocket's handshake.")
UPGRADE_REQUIRED = Kind("upgrade-required", 426, "This path speaks WebSocket, version 13.")

#: Jobs in one stream of events, by their ids and by a tag.
MAX_FOLLOWED = 100
MAX_TAGGED = 1_000

# OpenAPI 3.1 has no word for what a stream consists of: it is text, or, to a tool that takes it apart, events.
_STREAM = Answer("The events.", str | documents.Event, media_types=("text/event-stream",))


@dataclass(frozen=True)
class LastEventId(HeaderFields):
    """What the client says that it had last."""

    PARAMETERS: ClassVar = {
        "Last-Event-ID": {"description": "The id of the last event that was seen; an `EventSource` sends it by itself."}
    }

    text: str | None = None


class After(Query):
    """Where in a stream a client is."""

    model_config = ConfigDict(extra="ignore")

    after: Annotated[str, Field(description="`Last-Event-ID`, for those that can't set the header.")] | None = None


class Followed(After):
    """Which jobs to follow."""

    job: Annotated[
        list[str],
        Field(description="A job's id, up to 100 times.", json_schema_extra={"minItems": 1, "maxItems": MAX_FOLLOWED}),
    ] = []
    tag: Annotated[list[Tag], Field(max_length=20, description="Only those with all of these.")] = []


class StreamEndpoint(ResourceEndpoint):
    """A stream of server-sent events."""

    async def relay(self, upcoming: AsyncGenerator[Frame], count: int = 1) -> None:
        """Write the events of so many jobs."""
        async with aclosing(upcoming):
            with self.jobs.follows(self.caller, count), self.jobs.metrics.streams.track_inprogress():
                self.set_header("Content-Type", "text/event-stream")
                self.set_header("X-Accel-Buffering", "no")
                await self.send(frame.for_sse() async for frame in upcoming)


class FollowJob(StreamEndpoint):
    """
    Follow a job's state, progress, items and log.

    Server-sent events, up to the job's end. Whoever connects gets them from the beginning, or those that come after
    the one that it names.

    | event | data |
    | --- | --- |
    | `state` | the job, at its acceptance and when its state changed |
    | `progress` | `{"current", "total", "message"}` |
    | `item` | `{"attempt", "number", "value"}`: the task, a generator, has yielded it |
    | `log` | `{"level", "message", "at"}`: a line that the task logged |
    | `checkpoint` | `{"saved_at", "attempt", "size"}`: the task has saved where it is; the job has what it saved |
    | `end` | the job, done: the last event |
    | `snapshot` | the job as it is, in the place of events that are no longer kept |
    | `gone` | of several jobs, one that is forgotten: there is no more of it |
    | `close` | `{"reason"}`: the server ends the stream before the job's end; connect again |

    A comment comes after every 15 silent seconds.
    """

    route = get("/v1/jobs/{id}/events", scope="read", tag="jobs")
    answers: ClassVar = {200: _STREAM, 204: Answer("The job is done, and the client has had all its events.", None)}
    problems: ClassVar = (*JOB, INVALID_EVENT_ID, WAITERS_SATURATED, TOO_MANY_FOLLOWED)

    async def answer(self, id: JobId, query: After, last: LastEventId) -> None:
        after = position_of(last.text or query.after)
        job = await self.jobs.get(self.caller, id)
        if job.done and after is not None and after >= job.number:
            self.write_nothing()  # an EventSource does not come back after that
        else:
            await self.relay(frames(self.jobs, self.caller, job, after, self.service.lifecycle.closing))


class FollowJobs(StreamEndpoint):
    """
    Follow several jobs at once.

    The events of each job as under `/v1/jobs/{id}/events`, with `{"job", "data"}` as data. Name jobs, or a tag: then
    those that have it and have not ended when the stream begins, at most 1,000.
    """

    route = get("/v1/events", scope="read", tag="jobs")
    answers: ClassVar = {200: _STREAM, 204: Answer("The jobs are done, and the client has had all their events.", None)}
    problems: ClassVar = (*JOB, INVALID_EVENT_ID, WAITERS_SATURATED, TOO_MANY_FOLLOWED)

    async def answer(self, query: Followed, last: LastEventId) -> None:
        if bool(query.job) == bool(query.tag) or len(query.job) > MAX_FOLLOWED:
            raise INVALID_QUERY(f"Name 1 to {MAX_FOLLOWED} jobs, as in ?job=ID&job=ID, or a tag, as in ?tag=TAG.")
        name, ids, position = "", query.job, last.text or query.after
        if query.tag:
            name, ids, position = await self._tagged(query.tag, position)
        after = positions_of(position, len(ids))
        jobs = await asyncio.gather(*map(self._kept, ids))
        if not position and ids and not any(jobs):
            await self.jobs.get(self.caller, ids[0])  # says so
        if all(
            job is None or (job.done and had is not None and had >= job.number)
            for job, had in zip(jobs, after, strict=True)
        ):
            self.write_nothing()  # an EventSource does not come back after that
        else:
            closing = self.service.lifecycle.closing
            await self.relay(frames_of_many(self.jobs, self.caller, ids, jobs, after, closing, name), len(jobs))

    async def _kept(self, job_id: str) -> Job | None:
        """Return a job; None if it is forgotten."""
        try:
            return await self.jobs.get(self.caller, job_id)
        except Problem as exc:
            if exc.code == EXPIRED_JOB.code:
                return None
            raise

    async def _tagged(self, tags: list[str], last_event_id: str | None) -> tuple[str, list[str], str | None]:
        """Return what begins the ids of the stream's events, its jobs, and where in each of them the client is."""
        if not last_event_id:
            ids = await self.jobs.unfinished(self.caller, tags, MAX_TAGGED)
            return f"{await self.jobs.ledger.jobs.note_list(self.caller.owner, ids)}:" if ids else "", ids, None
        name, _, position = last_event_id.partition(":")
        noted = await self.jobs.ledger.jobs.noted_list(self.caller.owner, name)
        if noted is None:
            raise no_event_of_this_stream()
        return f"{name}:", noted, position


def _close(close: Callable[..., None], code: int | None = None, reason: str | None = None) -> None:
    """Close a WebSocket. Tornado itself closes one whose pong is late with 1000, which says that all was sent."""
    close(1001 if code is None else code, reason)


class FollowJobByWebsocket(ResourceEndpoint, WebSocketHandler):
    """
    Follow a job on a WebSocket.

    The same events on a WebSocket, each a text message `{"event", "id", "data"}`. Closed with 1000 after `end`, 1001
    after `close`, or if no pong came in time, 1008 if the reader is too slow, 1013 if the key follows as many jobs as
    it may.
    """

    route = get("/v1/jobs/{id}/ws", scope="read", tag="jobs")
    answers: ClassVar = {101: Answer("The WebSocket is open.")}
    problems: ClassVar = (*JOB, INVALID_EVENT_ID, NOT_A_WEBSOCKET, FORBIDDEN, UPGRADE_REQUIRED, TOO_MANY_FOLLOWED)

    # Not the application's settings, which may be somebody else's.
    ping_interval: ClassVar = 15.0
    ping_timeout: ClassVar = 10.0
    max_message_size: ClassVar = 64 * 1024

    _relaying: asyncio.Task[None] | None = None

    async def answer(self, id: JobId, query: After) -> None:
        self._check_handshake()
        self._after = position_of(query.after)
        self._job = await self.jobs.get(self.caller, id)  # while a refusal can still be said
        with self.jobs.follows(self.caller):  # likewise
            await WebSocketHandler.get(self, id)

    def _check_handshake(self) -> None:
        """Refuse what Tornado would refuse, but with a problem."""
        headers = self.request.headers
        if self.request.method != "GET":
            raise NOT_A_WEBSOCKET("A handshake is a GET.")
        if headers.get("Upgrade", "").lower() != "websocket" or "upgrade" not in headers.get("Connection", "").lower():
            raise NOT_A_WEBSOCKET("This path speaks WebSocket: /events has the same as a stream.")
        if headers.get("Sec-WebSocket-Version") != "13":
            speaks = {"Sec-WebSocket-Version": "13"}
            raise UPGRADE_REQUIRED("This path speaks version 13.", headers=speaks)
        if is_foreign(self.request, self.check_origin):
            raise FORBIDDEN("Pages of other sites may not.")

    def open(self, *_: str) -> None:
        self.service.lifecycle.request_began()  # the handshake has ended as a request
        self._relaying = asyncio.ensure_future(self._relay())

    async def _relay(self) -> None:
        code, reason = 1000, "end"
        upcoming = frames(self.jobs, self.caller, self._job, self._after, self.service.lifecycle.closing)
        try:
            with self.jobs.follows(self.caller), self.jobs.metrics.streams.track_inprogress():
                async with aclosing(upcoming):
                    async for frame in upcoming:
                        if frame.event is None:
                            continue  # a WebSocket has pings
                        if frame.event == "close":
                            code, reason = 1001, frame.data["reason"]
                        async with asyncio.timeout(WRITE_TIMEOUT):
                            await self.write_message(encode(frame._asdict()))
        except TimeoutError:
            code, reason = 1008, "slow-reader"
        except Problem as exc:  # others were faster
            code, reason = 1013, exc.code
        except WebSocketClosedError:
            return
        self.close(code, reason)

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Return Tornado's, which says why it closes a connection whose client is silent."""
        made = super().get_websocket_protocol()
        if isinstance(made, WebSocketProtocol13):
            made.close = partial(_close, made.close)  # type: ignore[method-assign]
        return made

    def on_message(self, message: str | bytes) -> None:
        """Take no notice: there is nothing to say here."""

    def on_connection_close(self) -> None:
        WebSocketHandler.on_connection_close(self)

    def on_close(self) -> None:
        if self._relaying is not None:
            self._relaying.cancel()
            self.service.lifecycle.request_ended()
