"""The handlers: each takes a request apart, asks :class:`web.jobs.Jobs`, and writes what it says."""

import asyncio
import secrets
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar, cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from tornado_celery_bridge import BridgeError, ResultBackendUnavailable, WaitersSaturated
from tornado_celery_bridge.ledger import JobRecord
from web import docs, representation
from web.door import parse_body
from web.events import end_id, frames
from web.jobs import Job, Jobs, as_accepted
from web.lifecycle import Lifecycle
from web.prefer import wait_preference
from web.problems import CONTENT_TYPE, Fault, Problem, problem_of

__all__ = ("ROUTES", "NotFoundHandler")

T = TypeVar("T")

#: Bytes of a body that are kept and looked at.
MAX_BODY = 1024 * 1024
#: Bytes beyond it that are read and thrown away, so that the client has sent all and reads the answer.
MAX_DISCARDED = 8 * MAX_BODY
#: Seconds for a client whose body is larger than even that to read that it was refused.
LINGER = 2.0
#: Seconds that a client may ask to wait for.
MAX_WAIT = 60
#: Seconds for a client of a stream to take what was written.
WRITE_TIMEOUT = 30.0
#: Seconds after which to ask again for a job that is not done.
POLL_AFTER = "1"

# `curl -d` says that its body is a form; it is JSON all the same, or it is refused as not JSON.
_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")


class ClientLeft(Exception):
    """The client hung up before it was answered."""


@stream_request_body
class ApiHandler(RequestHandler):
    """
    What all handlers share: limits, JSON, problems, and the end of a request whose client left.

    Bodies are streamed so that Tornado parses none of them as a form and none is kept beyond ``MAX_BODY``.
    """

    request_id: str

    @property
    def jobs(self) -> Jobs:
        """The application's jobs."""
        jobs: Jobs = self.settings["jobs"]
        return jobs

    @property
    def lifecycle(self) -> Lifecycle:
        """How far the process is from its end."""
        lifecycle: Lifecycle = self.settings["lifecycle"]
        return lifecycle

    def initialize(self) -> None:
        self.request_id = secrets.token_hex(8)
        self._received = bytearray()
        self._size = 0
        self._counted = True
        self._left = False
        self._work: asyncio.Future[Any] | None = None
        self.lifecycle.request_began()
        self.set_header("X-Request-Id", self.request_id)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        if self.lifecycle.closing.is_set():
            self.set_header("Connection", "close")

    def compute_etag(self) -> None:
        """Make none: nothing here is to be stored."""

    # Reading.

    @property
    def connection(self) -> HTTP1Connection:
        """The connection, which is HTTP/1 as Tornado knows no other."""
        return cast(HTTP1Connection, self.request.connection)

    def prepare(self) -> None:
        self.connection.set_max_body_size(sys.maxsize)  # our own limit answers properly; Tornado's hangs up
        announced = _content_length(self.request.headers)
        has_not_begun = self.request.headers.get("Expect", "").lower() == "100-continue"
        if announced > (MAX_BODY if has_not_begun else sys.maxsize):
            raise _too_large()
        if announced > MAX_BODY + MAX_DISCARDED:
            self._refuse_early(_too_large())

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= MAX_BODY:
            self._received += chunk
            return
        self._received.clear()
        if self._size > MAX_BODY + MAX_DISCARDED and not self._headers_written:
            self._refuse_early(_too_large())

    def _refuse_early(self, problem: Problem) -> None:
        """
        Answer while the client still sends, then hang up.

        Not at once: closing a socket with unread data resets it, and the answer would be lost on its way.
        """
        body = self._compose(problem)
        self.set_header("Content-Length", len(body))
        self.set_header("Connection", "close")
        self.write(body)
        self.flush()
        asyncio.get_running_loop().call_later(LINGER, self._give_up)

    def read_json(self, *, optional: bool = False) -> dict[str, Any]:
        """
        Return the body, a JSON object.

        Args:
            optional: Whether no body at all stands for an empty object.

        Raises:
            Problem: 400, 413, 415.
        """
        if self._size > MAX_BODY:
            raise _too_large()
        if optional and not self._received:
            return {}
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type not in _JSON_TYPES and not media_type.endswith("+json"):
            raise Problem(415, "unsupported-media-type", "The body must be application/json.")
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Problem(415, "unsupported-media-type", "The body must not be compressed.")
        return parse_body(bytes(self._received))

    def read_wait(self) -> int | None:
        """Return for how many seconds the client would wait, and tell it so; None for not at all."""
        self.add_header("Vary", "Prefer")
        seconds = wait_preference(self.request.headers.get_list("Prefer"), MAX_WAIT)
        if seconds is not None:
            self.set_header("Preference-Applied", f"wait={seconds}")
        return seconds

    # Writing.

    def write_json(self, document: Mapping[str, Any], status: int = 200) -> None:
        """Answer with *document*."""
        if self._headers_written:  # it was refused early
            self._give_up()
            return
        self.set_status(status)
        self.finish(representation.encode(document))

    def write_job(self, job: Job, status: int = 200) -> None:
        """Answer with a job, and when to ask again if it is not done."""
        if not job.state.ready:
            self.set_header("Retry-After", POLL_AFTER)
        self.write_json(representation.job(job.record, job.state), status)

    def write_file(self, file: docs.File) -> None:
        """Answer with content that a client may keep as long as it asks whether it is still the same."""
        self.set_header("Content-Type", file.media_type)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Etag", file.etag)
        if self.check_etag_header():
            self.set_status(304)
            self.finish()
        else:
            self.finish(file.content)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with a problem document. Tornado's own errors come through here too."""
        if self._left or self._headers_written:
            self._give_up()
            return
        self.finish(self._compose(problem_of(kwargs["exc_info"][1] if kwargs.get("exc_info") else None, status_code)))

    def _compose(self, problem: Problem) -> bytes:
        """Set status and headers for a problem, and return its document."""
        self.clear()
        self.set_header("X-Request-Id", self.request_id)
        self.set_header("Content-Type", CONTENT_TYPE)
        for name, value in problem.headers.items():
            self.set_header(name, value)
        if problem.status_code == 405:
            self.set_header("Allow", ", ".join(self._allowed()))
        self.set_status(problem.status_code)
        return representation.encode(problem.document(self.request.path, self.request_id))

    def _give_up(self) -> None:
        """End a request whose client is gone, or is in the middle of an answer that cannot be ended well."""
        if not self._headers_written:
            self.set_status(499, "Client Closed Request")  # nginx's word, for the log; nobody reads the answer
        if not self._finished:
            self.connection.close()
            self.finish()

    def _allowed(self) -> list[str]:
        return [name for name in self.SUPPORTED_METHODS if getattr(type(self), name.lower()) is not _UNIMPLEMENTED]

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log what nobody expected, with the request's id; the rest is in the access log."""
        if not isinstance(value, HTTPError | BridgeError | ClientLeft | StreamClosedError):
            self.settings["logger"].error("request=%s", self.request_id, exc_info=(typ, value, tb))

    # Clients that leave.

    async def unless_client_leaves(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what *work* returns; it is cancelled when the client hangs up, and :class:`ClientLeft` raised."""
        self._work = asyncio.ensure_future(work)
        if self._left:
            self._work.cancel()
        try:
            return cast(T, await self._work)
        except asyncio.CancelledError:
            if self._left:
                raise ClientLeft from None
            raise
        finally:
            self._work = None

    def on_connection_close(self) -> None:
        was_sending = not self.request._body_future.done()
        super().on_connection_close()
        self._left = True
        if self._work is not None:
            self._work.cancel()
        if was_sending:  # Tornado drops the request here, and never finishes it
            self.on_finish()

    def on_finish(self) -> None:
        if self._counted:
            self._counted = False
            self.lifecycle.request_ended()


def _content_length(headers: HTTPHeaders) -> int:
    """Return how long the body is said to be; 0 for what Tornado will refuse as no number."""
    declared = headers.get("Content-Length", "")
    if not (declared.isascii() and declared.isdigit()):
        return 0
    return int(declared[:20])


def _too_large() -> Problem:
    return Problem(413, "body-too-large", f"The body is larger than {MAX_BODY:,} bytes.")


_UNIMPLEMENTED: Callable[..., Any] = RequestHandler.get


class SubmitHandler(ApiHandler):
    """``/v1/tasks/{task}/jobs``"""

    async def post(self, task: str) -> None:
        if self.lifecycle.closing.is_set():
            raise Problem(503, "shutting-down", "This process is about to end.", headers={"Retry-After": "1"})
        self.jobs.catalogue.get(task)
        body = self.read_json()
        seconds = self.read_wait()
        submission = await self.jobs.submit(task, body)
        record = submission.record
        self.set_header("Location", f"/v1/jobs/{record.id}")
        job = as_accepted(record)
        if seconds:
            try:
                job = await self.unless_client_leaves(self._outcome(record, seconds))
            except ClientLeft:
                if submission.on_disconnect == "cancel":
                    await self.jobs.abandon(record)
                raise
        self.write_job(job, 200 if job.state.ready else 202)

    async def _outcome(self, record: JobRecord, seconds: int) -> Job:
        """Return the job once it is done, or as it is: it is accepted, so no error may come of waiting for it."""
        try:
            return await self.lifecycle.unless_expired(self.jobs.wait(record, seconds)) or as_accepted(record)
        except (ResultBackendUnavailable, WaitersSaturated):
            return as_accepted(record)


class JobHandler(ApiHandler):
    """``/v1/jobs/{id}``"""

    async def get(self, job_id: str) -> None:
        job = await self.jobs.get(job_id)
        seconds = self.read_wait()
        if seconds and not job.state.ready:
            outcome = await self.unless_client_leaves(
                self.lifecycle.unless_expired(self.jobs.wait(job.record, seconds))
            )
            job = outcome or job
        self.write_job(job)


class EventsHandler(ApiHandler):
    """``/v1/jobs/{id}/events``"""

    async def get(self, job_id: str) -> None:
        job = await self.jobs.get(job_id)
        if job.state.ready and self.request.headers.get("Last-Event-ID") == end_id(job_id):
            self.clear_header("Content-Type")
            self.set_status(204)
            return
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        try:
            await self.unless_client_leaves(self._relay(job.record))
        except TimeoutError:  # a slow reader
            self._left = True
            raise ClientLeft from None

    async def _relay(self, record: JobRecord) -> None:
        """Write the job's events; each one is with the client before the next is looked for."""
        async with (
            aclosing(self.jobs.follow(record)) as states,
            aclosing(frames(record, states, self.lifecycle.closing)) as written,
        ):
            async for frame in written:
                self.write(frame)
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await self.flush()


class CancelHandler(ApiHandler):
    """``/v1/jobs/{id}/cancel``"""

    async def post(self, job_id: str) -> None:
        body = self.read_json(optional=True)
        terminate = body.pop("terminate", False)
        faults = [Fault(f"/{key}", "Only terminate is known here.") for key in body]
        if not isinstance(terminate, bool):
            faults.append(Fault("/terminate", "This should be true or false."))
        if faults:
            raise Problem(422, "invalid-body", "The body does not fit.", faults=faults)
        job = await self.jobs.cancel(job_id, terminate=terminate)
        self.write_job(job, 200 if job.state.ready else 202)


class TasksHandler(ApiHandler):
    """``/v1/tasks``"""

    def get(self) -> None:
        tasks = [representation.task_summary(task) for task in self.jobs.catalogue]
        self.write_json({"tasks": tasks, "next_cursor": None})


class TaskHandler(ApiHandler):
    """``/v1/tasks/{task}``"""

    def get(self, task: str) -> None:
        self.write_json(representation.task(self.jobs.catalogue.get(task)))


class HealthHandler(ApiHandler):
    """``/healthz``: the process is alive and its loop turns."""

    def get(self) -> None:
        self.write_json({"status": "alive"})


class ReadyHandler(ApiHandler):
    """``/readyz``: jobs can be accepted and read now."""

    async def get(self) -> None:
        if self.lifecycle.closing.is_set():
            raise Problem(503, "shutting-down", "This process is about to end.")
        checks = await self.jobs.check()
        if any(checks.values()):
            down = ", ".join(name for name, reason in checks.items() if reason)
            told = {"checks": {name: reason or "ok" for name, reason in checks.items()}}
            raise Problem(503, "not-ready", f"Not reachable: {down}.", headers={"Retry-After": "1"}, members=told)
        self.write_json({"status": "ready", "checks": dict.fromkeys(checks, "ok")})


class OpenApiHandler(ApiHandler):
    """``/openapi.json``"""

    def get(self) -> None:
        self.write_file(self.settings["openapi"])


class DocsHandler(ApiHandler):
    """``/docs`` and ``/docs/{file}``: the page that shows the OpenAPI document, and what it loads."""

    async def get(self, name: str = "") -> None:
        if name and name not in docs.FILES:
            raise Problem(404, "not-found", "There is nothing at this path.")
        self.set_header("Content-Security-Policy", docs.POLICY)
        self.write_file(await asyncio.to_thread(docs.file, name))


class NotFoundHandler(ApiHandler):
    """Every other path."""

    def get(self, *args: str) -> None:
        raise Problem(404, "not-found", "There is nothing at this path.")

    head = post = put = patch = delete = options = get


ROUTES = [
    (r"/v1/tasks", TasksHandler),
    (r"/v1/tasks/([^/]+)", TaskHandler),
    (r"/v1/tasks/([^/]+)/jobs", SubmitHandler),
    (r"/v1/jobs/([^/]+)", JobHandler),
    (r"/v1/jobs/([^/]+)/events", EventsHandler),
    (r"/v1/jobs/([^/]+)/cancel", CancelHandler),
    (r"/healthz", HealthHandler),
    (r"/readyz", ReadyHandler),
    (r"/openapi\.json", OpenApiHandler),
    (r"/docs", DocsHandler),
    (r"/docs/([^/]+)", DocsHandler),
]
