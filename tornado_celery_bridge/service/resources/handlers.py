"""The handlers: each takes a request apart, asks :class:`Jobs`, and writes what it says."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from tornado.web import RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from tornado_celery_bridge import BridgeError, WaitersSaturated
from tornado_celery_bridge.ledger import Job, LedgerUnavailable, Reservation, Workflow
from tornado_celery_bridge.schedules import Scheduled
from tornado_celery_bridge.service.http.conditions import Conditions
from tornado_celery_bridge.service.http.handler import ApiHandler, ClientLeft
from tornado_celery_bridge.service.http.idempotency import Answer, reservation
from tornado_celery_bridge.service.http.problems import Fault, Problem, problem_of
from tornado_celery_bridge.service.http.query import parse_count, parse_filters, parse_page, parse_schedule_filters
from tornado_celery_bridge.service.pages import dashboard
from tornado_celery_bridge.service.pages import files as docs
from tornado_celery_bridge.service.resources import representation
from tornado_celery_bridge.service.resources.failures.service import Failures, RetryAll
from tornado_celery_bridge.service.resources.jobs.frames import (
    Frame,
    frames,
    frames_of_many,
    no_event_of_this_stream,
    position_of,
    positions_of,
)
from tornado_celery_bridge.service.resources.jobs.service import Submission
from tornado_celery_bridge.service.resources.monitoring.endpoints import (
    MetricsHandler,
    QueuesHandler,
    StatisticsHandler,
    WorkersHandler,
)
from tornado_celery_bridge.service.resources.monitoring.operations import (
    GrowHandler,
    PauseQueueHandler,
    PurgeHandler,
    ResumeQueueHandler,
    ShrinkHandler,
    ShutdownHandler,
)
from tornado_celery_bridge.service.resources.schedules.fields import Backfilling, Pause, parse
from tornado_celery_bridge.service.resources.schedules.service import Timetable, etag_of
from tornado_celery_bridge.service.resources.workflows.service import Workflows

__all__ = ("ROUTES", "NotFoundHandler")

#: Jobs in a batch, the values that its body may have, and how many of them are seen to side by side.
MAX_BATCH = 1_000
MAX_BATCH_NODES = 100_000
BATCH_STEP = 50
#: Jobs in one stream of events, by their ids and by a tag.
MAX_FOLLOWED = 100
MAX_TAGGED = 1_000
#: Bytes of a large result that are in memory at once.
PIECE = 256 * 1024
#: Seconds for a client of a stream to take what was written.
WRITE_TIMEOUT = 30.0


class AcceptingHandler(ApiHandler):
    """What submitting a job and submitting it again share: idempotency keys, and waiting for the end."""

    def read_reservation(self, part: str = "", body: bytes | None = None) -> Reservation | None:
        """Return what to hold the request's idempotency key with, if it has one; for a *part* of it, its own."""
        key = self.request.headers.get("Idempotency-Key")
        return reservation(
            key, self.principal.owner, self.request.path + part, bytes(self._received) if body is None else body
        )

    def check_accepting(self) -> None:
        """Raise a Problem if the process is about to end."""
        if self.lifecycle.closing.is_set():
            raise Problem(503, "shutting-down", "This process is about to end.", headers={"Retry-After": "1"})

    async def answer(self, submission: Submission, reserved: Reservation | None, seconds: int | None) -> None:
        """Answer with a job that was accepted: when it is done, or after so many *seconds*."""
        if submission.replay is not None:
            self._replay(submission.replay)
            return
        job = submission.job
        self.set_header("Location", f"/v1/jobs/{job.record.id}")
        await self._keep(reserved, job)
        if seconds and not job.done:
            try:
                job = await self.unless_client_leaves(self._outcome(job, seconds))
            except ClientLeft:
                await self.jobs.abandon(self.principal, job, submission.on_disconnect)
                raise
            if job.done:
                await self._keep(reserved, job)
        await self.write_job(job, 200 if job.done else 202)

    async def _outcome(self, job: Job, seconds: int) -> Job:
        """Return the job once it is done, or as it is: it is accepted, so no error may come of waiting for it."""
        try:
            return await self.lifecycle.unless_expired(self.jobs.wait(self.principal, job, seconds)) or job
        except (LedgerUnavailable, WaitersSaturated):
            return job

    async def _keep(self, reserved: Reservation | None, job: Job) -> None:
        """Keep the answer for the same request; one that can't be kept will be found by the job's id."""
        if reserved is None:
            return
        headers = {"Location": f"/v1/jobs/{job.record.id}"} | ({} if job.done else {"Retry-After": "1"})
        answer = Answer(200 if job.done else 202, headers, representation.encode(representation.job(job)))
        try:
            await self.jobs.ledger.idempotency_keys.respond(reserved, answer.encode())
        except LedgerUnavailable as exc:
            self.settings["logger"].warning("the answer is not kept: %s", exc)

    def _replay(self, answer: Answer) -> None:
        for name, value in answer.headers.items():
            self.set_header(name, value)
        self.set_status(answer.status)
        self.finish(answer.body)


class SubmitHandler(AcceptingHandler):
    """``/v1/tasks/{task}/jobs``"""

    scopes: ClassVar = {"POST": "submit"}

    async def post(self, task: str) -> None:
        self.check_accepting()
        self.jobs.task(self.principal, task)
        body = await self.read_json()
        seconds = self.read_wait()
        reserved = self.read_reservation()
        submission = await self.jobs.submit(self.principal, task, body, size=self._size, reservation=reserved)
        await self.answer(submission, reserved, seconds)


class RetryHandler(AcceptingHandler):
    """``/v1/jobs/{id}/retry``"""

    scopes: ClassVar = {"POST": "submit"}

    async def post(self, job_id: str) -> None:
        self.check_accepting()
        body = await self.read_json(optional=True)
        seconds = self.read_wait()
        reserved = self.read_reservation()
        submission = await self.jobs.retry(self.principal, job_id, body, size=self._size, reservation=reserved)
        await self.answer(submission, reserved, seconds)


class BatchesHandler(AcceptingHandler):
    """``/v1/batches``"""

    scopes: ClassVar = {"POST": "submit"}

    async def post(self) -> None:
        self.check_accepting()
        body = await self.read_json(max_nodes=MAX_BATCH_NODES)
        jobs = body.get("jobs")
        faults = [Fault(f"/{key}", "Only jobs is known here.") for key in body if key != "jobs"]
        if not isinstance(jobs, list) or not 1 <= len(jobs) <= MAX_BATCH:
            faults.append(Fault("/jobs", f"This should be a list of 1 to {MAX_BATCH:,} jobs."))
        if faults or not isinstance(jobs, list):
            raise Problem(422, "invalid-body", "The body does not fit.", faults=faults)
        self.read_reservation()  # a key that is none is no job's fault
        # Not all at once: what is done between two turns of the loop is a job's, and not a thousand's.
        turns = asyncio.Semaphore(BATCH_STEP)
        answers = await asyncio.gather(*(self._submit(number, job, turns) for number, job in enumerate(jobs)))
        self.write_json({"jobs": answers}, 207)

    async def _submit(self, number: int, job: Any, turns: asyncio.Semaphore) -> dict[str, Any]:
        """Submit one job of the batch, and return what it would have been answered alone."""
        async with turns:
            try:
                task, body = _task_of(job)
                reserved = self.read_reservation(f"#{number}", representation.encode(body))
                submission = await self.jobs.submit(self.principal, task, body, size=self._size, reservation=reserved)
                if submission.replay is not None:
                    return {"status": submission.replay.status, "job": json.loads(submission.replay.body)}
                await self._keep(reserved, submission.job)
            except (Problem, BridgeError) as exc:
                problem = problem_of(exc)
                document = problem.document(f"{self.request.path}#/jobs/{number}", self.trace)
                return {"status": problem.status_code, "problem": document}
        status = 200 if submission.job.done else 202
        return {"status": status, "job": representation.job(submission.job)}


def _task_of(job: Any) -> tuple[str, dict[str, Any]]:
    """Return the task that a job of a batch names, and the rest of it."""
    if not isinstance(job, dict) or not isinstance(job.get("task"), str):
        detail = "This should be an object with the name of a task."
        raise Problem(422, "invalid-body", "The body does not fit.", faults=[Fault("/task", detail)])
    return job["task"], {key: value for key, value in job.items() if key != "task"}


class WorkflowAnswers(ApiHandler):
    """What handlers of workflows share: waiting for one, and showing it."""

    async def outcome_of_workflow(self, workflow: Workflow, seconds: int) -> Workflow:
        """Return a workflow once it is done, or as it is after so many *seconds*."""
        waiting = self.lifecycle.unless_expired(Workflows(self.jobs).wait(self.principal, workflow, seconds))
        outcome: Workflow | None = await self.unless_client_leaves(waiting)
        return outcome or workflow

    async def write_workflow(self, workflow: Workflow, status: int = 200) -> None:
        """Answer with a workflow, and when to ask again if it is not done."""
        if not workflow.done:
            tasks = {job.record.task for job in workflow.jobs.values() if not job.done}
            self.set_header("Retry-After", str(max(await asyncio.gather(*map(self.jobs.retry_after, tasks)))))
        self.write_json(representation.workflow(workflow), status)


class WorkflowsHandler(AcceptingHandler, WorkflowAnswers):
    """``/v1/workflows``"""

    scopes: ClassVar = {"POST": "submit"}

    async def post(self) -> None:
        self.check_accepting()
        body = await self.read_json(max_nodes=MAX_BATCH_NODES)
        seconds = self.read_wait()
        workflow = await Workflows(self.jobs).submit(self.principal, body, reservation=self.read_reservation())
        self.set_header("Location", f"/v1/workflows/{workflow.record.id}")
        if seconds:
            with suppress(LedgerUnavailable, WaitersSaturated):  # it is accepted: no error may come of waiting for it
                workflow = await self.outcome_of_workflow(workflow, seconds)
        await self.write_workflow(workflow, 200 if workflow.done else 202)


class WorkflowHandler(WorkflowAnswers):
    """``/v1/workflows/{id}``"""

    scopes: ClassVar = {"GET": "read"}

    async def get(self, workflow_id: str) -> None:
        workflow = await Workflows(self.jobs).get(self.principal, workflow_id)
        if seconds := self.read_wait():
            workflow = await self.outcome_of_workflow(workflow, seconds)
        await self.write_workflow(workflow)


class WorkflowCancelHandler(WorkflowAnswers):
    """``/v1/workflows/{id}/cancel``"""

    scopes: ClassVar = {"POST": "cancel"}

    async def post(self, workflow_id: str) -> None:
        body = await self.read_json(optional=True)
        terminate, branch = body.pop("terminate", False), body.pop("branch", "")
        faults = [Fault(f"/{key}", "Only terminate and branch are known here.") for key in body]
        if not isinstance(terminate, bool):
            faults.append(Fault("/terminate", "This should be true or false."))
        if not isinstance(branch, str):
            faults.append(Fault("/branch", "This should be a JSON Pointer into the tree."))
        if faults:
            raise Problem(422, "invalid-body", "The body does not fit.", faults=faults)
        workflow = await Workflows(self.jobs).cancel(self.principal, workflow_id, branch, terminate=terminate)
        await self.write_workflow(workflow, 200 if workflow.done else 202)


class JobsHandler(ApiHandler):
    """``/v1/jobs``"""

    scopes: ClassVar = {"GET": "read"}

    async def get(self) -> None:
        page = await self.jobs.find(self.principal, **parse_filters(self.request.query_arguments))
        self.write_json({"jobs": [representation.job(job) for job in page.jobs], "next_cursor": page.cursor})


class JobHandler(ApiHandler):
    """``/v1/jobs/{id}``"""

    scopes: ClassVar = {"GET": "read"}

    async def get(self, job_id: str) -> None:
        job = await self.jobs.get(self.principal, job_id)
        seconds = self.read_wait()
        if seconds and not job.done:
            outcome = await self.unless_client_leaves(
                self.lifecycle.unless_expired(self.jobs.wait(self.principal, job, seconds))
            )
            job = outcome or job
        await self.write_job(job)


class ContentHandler(ApiHandler):
    """What handlers of a job's large parts share: they are sent as they are kept, in pieces."""

    scopes: ClassVar = {"GET": "read"}

    async def send(self, file: BinaryIO) -> None:
        """Answer with a file of JSON, and close it."""
        try:
            await self.unless_client_leaves(self._send(file))
        except TimeoutError:  # a slow reader
            self._left = True
            raise ClientLeft from None
        finally:
            await asyncio.to_thread(file.close)

    async def _send(self, file: BinaryIO) -> None:
        """Write a file in pieces; each is with the client before the next is read."""
        while piece := await asyncio.to_thread(file.read, PIECE):
            self.write(piece)
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self.flush()


class ResultHandler(ContentHandler):
    """``/v1/jobs/{id}/result``"""

    async def get(self, job_id: str) -> None:
        job = await self.jobs.get(self.principal, job_id)
        file = await self.jobs.open_result(job)
        if job.stored is not None:
            self.set_header("Content-Length", job.stored.size)
        await self.send(file)


class InputHandler(ContentHandler):
    """``/v1/jobs/{id}/input``"""

    async def get(self, job_id: str) -> None:
        await self.jobs.get(self.principal, job_id)
        await self.send(await self.jobs.open_input(job_id))


class StreamHandler(ApiHandler):
    """What streams of server-sent events share."""

    scopes: ClassVar = {"GET": "read"}

    @property
    def last_event_id(self) -> str | None:
        """What the client says that it had last: as an EventSource does, or in the query."""
        return self.request.headers.get("Last-Event-ID") or self.get_query_argument("after", None)

    async def relay(self, upcoming: AsyncGenerator[Frame]) -> None:
        """Write events; each one is with the client before the next is looked for."""
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        try:
            with self.jobs.metrics.streams.track_inprogress():
                await self.unless_client_leaves(self._write(upcoming))
        except TimeoutError:  # a slow reader
            self._left = True
            raise ClientLeft from None

    async def _write(self, upcoming: AsyncGenerator[Frame]) -> None:
        async with aclosing(upcoming):
            async for frame in upcoming:
                self.write(frame.for_sse())
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await self.flush()


class EventsHandler(StreamHandler):
    """``/v1/jobs/{id}/events``"""

    async def get(self, job_id: str) -> None:
        after = position_of(self.last_event_id)
        job = await self.jobs.get(self.principal, job_id)
        if job.done and after is not None and after >= job.number:
            self.write_nothing()  # an EventSource does not come back after that
        else:
            await self.relay(frames(self.jobs, self.principal, job, after, self.lifecycle.closing))


class ManyEventsHandler(StreamHandler):
    """``/v1/events?job=…&job=…`` and ``/v1/events?tag=…``"""

    async def get(self) -> None:
        ids, tags = self.get_query_arguments("job"), self.get_query_arguments("tag")
        if bool(ids) == bool(tags) or len(ids) > MAX_FOLLOWED:
            detail = f"Name 1 to {MAX_FOLLOWED} jobs, as in ?job=ID&job=ID, or a tag, as in ?tag=TAG."
            raise Problem(400, "invalid-query", detail)
        name, position = "", self.last_event_id
        if tags:
            name, ids, position = await self._tagged(tags, position)
        after = positions_of(position, len(ids))
        jobs = await asyncio.gather(*(self.jobs.get(self.principal, job_id) for job_id in ids))
        if all(job.done and had is not None and had >= job.number for job, had in zip(jobs, after, strict=True)):
            self.write_nothing()  # an EventSource does not come back after that
        else:
            await self.relay(frames_of_many(self.jobs, self.principal, jobs, after, self.lifecycle.closing, name))

    async def _tagged(self, tags: list[str], last_event_id: str | None) -> tuple[str, list[str], str | None]:
        """Return what begins the ids of the stream's events, its jobs, and where in each of them the client is."""
        parse_filters({"tag": [tag.encode() for tag in tags]})
        if not last_event_id:
            ids = await self.jobs.unfinished(self.principal, tags, MAX_TAGGED)
            return f"{await self.jobs.ledger.jobs.note_list(ids)}:" if ids else "", ids, None
        name, _, position = last_event_id.partition(":")
        noted = await self.jobs.ledger.jobs.noted_list(name)
        if noted is None:
            raise no_event_of_this_stream()
        return f"{name}:", noted, position


class EventsSocket(ApiHandler, WebSocketHandler):
    """``/v1/jobs/{id}/ws``: the same frames as ``/events``, each a JSON text message ``{"event", "id", "data"}``."""

    scopes: ClassVar = {"GET": "read"}

    _relaying: asyncio.Task[None] | None = None

    async def get(self, job_id: str) -> None:
        self._check_handshake()
        self._after = position_of(self.get_query_argument("after", None))
        self._job = await self.jobs.get(self.principal, job_id)  # while a refusal can still be said
        await super().get(job_id)

    def _check_handshake(self) -> None:
        """Refuse what Tornado would refuse, but with a problem."""
        headers = self.request.headers
        if headers.get("Upgrade", "").lower() != "websocket" or "upgrade" not in headers.get("Connection", "").lower():
            raise Problem(400, "not-a-websocket", "This path speaks WebSocket: /events has the same as a stream.")
        if headers.get("Sec-WebSocket-Version") != "13":
            speaks = {"Sec-WebSocket-Version": "13"}
            raise Problem(426, "upgrade-required", "This path speaks version 13.", headers=speaks)
        if self._check_cross_origin(self.check_origin):
            raise Problem(403, "forbidden", "Pages of other sites may not.")

    def open(self, job_id: str) -> None:
        self.lifecycle.request_began()  # the handshake has ended as a request
        self._relaying = asyncio.ensure_future(self._relay())

    async def _relay(self) -> None:
        code, reason = 1000, "end"
        upcoming = frames(self.jobs, self.principal, self._job, self._after, self.lifecycle.closing)
        try:
            with self.jobs.metrics.streams.track_inprogress():
                async with aclosing(upcoming):
                    async for frame in upcoming:
                        if frame.event is None:
                            continue  # a WebSocket has pings
                        if frame.event == "close":
                            code, reason = 1001, frame.data["reason"]
                        async with asyncio.timeout(WRITE_TIMEOUT):
                            await self.write_message(representation.encode(frame._asdict()))
        except TimeoutError:
            code, reason = 1008, "slow-reader"
        except WebSocketClosedError:
            return
        self.close(code, reason)

    def on_message(self, message: str | bytes) -> None:
        """Take no notice: there is nothing to say here."""

    def on_connection_close(self) -> None:
        WebSocketHandler.on_connection_close(self)

    def on_close(self) -> None:
        if self._relaying is not None:
            self._relaying.cancel()
            self.lifecycle.request_ended()


class CancelHandler(ApiHandler):
    """``/v1/jobs/{id}/cancel``"""

    scopes: ClassVar = {"POST": "cancel"}

    async def post(self, job_id: str) -> None:
        body = await self.read_json(optional=True)
        terminate = body.pop("terminate", False)
        faults = [Fault(f"/{key}", "Only terminate is known here.") for key in body]
        if not isinstance(terminate, bool):
            faults.append(Fault("/terminate", "This should be true or false."))
        if faults:
            raise Problem(422, "invalid-body", "The body does not fit.", faults=faults)
        job = await self.jobs.cancel(self.principal, job_id, terminate=terminate)
        await self.write_job(job, 200 if job.done else 202)


class DeliveriesHandler(ApiHandler):
    """``/v1/jobs/{id}/deliveries``"""

    scopes: ClassVar = {"GET": "read"}

    async def get(self, job_id: str) -> None:
        job, deliveries = await self.jobs.deliveries(self.principal, job_id)
        self.write_json({"deliveries": [representation.delivery(job, each) for each in deliveries]})


class ReplayHandler(ApiHandler):
    """``/v1/jobs/{id}/deliveries/{delivery}/replay``"""

    scopes: ClassVar = {"POST": "submit"}

    async def post(self, job_id: str, delivery_id: str) -> None:
        await self.read_nothing()
        job, delivery = await self.jobs.replay(self.principal, job_id, delivery_id)
        self.write_json(representation.delivery(job, delivery), 202)


class FailuresHandler(ApiHandler):
    """``/v1/failures``"""

    scopes: ClassVar = {"GET": "read"}

    async def get(self) -> None:
        found = await Failures(self.jobs).find(self.principal)
        self.write_json({"failures": [representation.failure(each) for each in found], "next_cursor": None})


class RetryFailuresHandler(AcceptingHandler):
    """``/v1/failures/{failure}/retry``"""

    scopes: ClassVar = {"POST": "submit"}

    async def post(self, failure: str) -> None:
        self.check_accepting()
        asked = parse(RetryAll, await self.read_json(optional=True), "invalid-body")
        done = await Failures(self.jobs).retry(self.principal, failure, dry_run=asked.dry_run)
        refused = [
            {"job_id": job_id, "problem": problem.document(f"/v1/jobs/{job_id}/retry", self.trace)}
            for job_id, problem in done.refused.items()
        ]
        job_ids = [job.record.id for job in done.submitted]
        told = {"dry_run": asked.dry_run, "jobs": len(done.jobs), "job_ids": job_ids, "refused": refused}
        self.write_json(told, 200 if asked.dry_run else 202)


class ResolveFailuresHandler(ApiHandler):
    """``/v1/failures/{failure}/resolve``"""

    scopes: ClassVar = {"POST": "cancel"}

    async def post(self, failure: str) -> None:
        await self.read_nothing()
        await Failures(self.jobs).resolve(self.principal, failure)
        self.write_nothing()


class ScheduleAnswers(ApiHandler):
    """What handlers of schedules share: conditions, and showing one."""

    @property
    def timetable(self) -> Timetable:
        """The application's schedules."""
        return Timetable(self.jobs)

    @property
    def conditions(self) -> Conditions:
        """What the client wants to be so before anything is changed."""
        return Conditions.of_headers(self.request.headers)

    def write_schedule(self, found: Scheduled, status: int = 200) -> None:
        """Answer with a schedule; to a GET that has this version already, with a 304."""
        self.set_header("Etag", etag_of(found))
        if self.request.method == "GET" and self.check_etag_header():
            self.set_status(304)
            self.finish()
            return
        if status == 201:
            self.set_header("Location", representation.schedule_path(found.entry.name))
        self.write_json(representation.schedule(found, self.jobs.catalogue.priorities), status)


class SchedulesHandler(ScheduleAnswers):
    """``/v1/schedules``"""

    scopes: ClassVar = {"GET": "read", "POST": "schedule"}

    async def get(self) -> None:
        found = await self.timetable.find(self.principal, parse_schedule_filters(self.request.query_arguments))
        priorities = self.jobs.catalogue.priorities
        self.write_json(
            {
                "schedules": [representation.schedule(each, priorities) for each in found.schedules],
                "quarantined": [{"name": name, "detail": why} for name, why in found.quarantined.items()],
                "next_cursor": found.cursor,
            }
        )

    async def post(self) -> None:
        self.write_schedule(await self.timetable.create(self.principal, await self.read_json()), 201)


class ScheduleHandler(ScheduleAnswers):
    """``/v1/schedules/{name}``"""

    scopes: ClassVar = {"GET": "read", "PUT": "schedule", "PATCH": "schedule", "DELETE": "schedule"}

    async def get(self, name: str) -> None:
        self.write_schedule(await self.timetable.get(self.principal, name))

    async def put(self, name: str) -> None:
        found, is_new = await self.timetable.put(self.principal, name, await self.read_json(), self.conditions)
        self.write_schedule(found, 201 if is_new else 200)

    async def patch(self, name: str) -> None:
        patch = await self.read_json()
        self.write_schedule(await self.timetable.patch(self.principal, name, patch, self.conditions))

    async def delete(self, name: str) -> None:
        await self.timetable.delete(self.principal, name, self.conditions)
        self.write_nothing()


class PauseScheduleHandler(ScheduleAnswers):
    """``/v1/schedules/{name}/pause``"""

    scopes: ClassVar = {"POST": "schedule"}

    async def post(self, name: str) -> None:
        asked = parse(Pause, await self.read_json(optional=True), "invalid-body")
        self.write_schedule(await self.timetable.pause(self.principal, name, asked.until))


class ResumeScheduleHandler(ScheduleAnswers):
    """``/v1/schedules/{name}/resume``"""

    scopes: ClassVar = {"POST": "schedule"}

    async def post(self, name: str) -> None:
        await self.read_nothing()
        self.write_schedule(await self.timetable.resume(self.principal, name))


class RunScheduleHandler(AcceptingHandler, ScheduleAnswers):
    """``/v1/schedules/{name}/run``"""

    scopes: ClassVar = {"POST": "schedule"}

    async def post(self, name: str) -> None:
        self.check_accepting()
        await self.read_nothing()
        seconds = self.read_wait()
        await self.answer(Submission(await self.timetable.run(self.principal, name)), None, seconds)


class BackfillScheduleHandler(ScheduleAnswers):
    """``/v1/schedules/{name}/backfill``"""

    scopes: ClassVar = {"POST": "schedule"}

    async def post(self, name: str) -> None:
        asked = parse(Backfilling, await self.read_json(), "invalid-body")
        found = await self.timetable.backfill(self.principal, name, asked)
        self.write_json(representation.backfill(found, asked.dry_run), 200 if asked.dry_run else 202)


class NextRunsHandler(ScheduleAnswers):
    """``/v1/schedules/{name}/next``"""

    scopes: ClassVar = {"GET": "read"}

    async def get(self, name: str) -> None:
        count = parse_count(self.request.query_arguments)
        entry, moments = await self.timetable.next_runs(self.principal, name, count)
        self.write_json(await asyncio.to_thread(representation.slots, entry, moments))


class ScheduleRunsHandler(ScheduleAnswers):
    """``/v1/schedules/{name}/runs``"""

    scopes: ClassVar = {"GET": "read"}

    async def get(self, name: str) -> None:
        runs = await self.timetable.runs(self.principal, name)
        self.write_json({"runs": [representation.run(each) for each in runs]})


class TasksHandler(ApiHandler):
    """``/v1/tasks``"""

    scopes: ClassVar = {"GET": "read"}
    needs_ledger = False

    def get(self) -> None:
        tasks = [representation.task_summary(task) for task in self.jobs.tasks(self.principal)]
        self.write_json({"tasks": tasks, "next_cursor": None})


class TaskHandler(ApiHandler):
    """``/v1/tasks/{task}``"""

    scopes: ClassVar = {"GET": "read"}
    needs_ledger = False

    def get(self, task: str) -> None:
        self.write_json(representation.task(self.jobs.task(self.principal, task)))


class MeHandler(ApiHandler):
    """``/v1/me``: who asks, and what they may do."""

    scopes: ClassVar = {"GET": None}
    needs_ledger = False

    def get(self) -> None:
        self.write_json(representation.me(self.principal, self.login))


class AuditHandler(ApiHandler):
    """``/v1/audit``"""

    scopes: ClassVar = {"GET": "admin"}

    async def get(self) -> None:
        page = parse_page(self.request.query_arguments)
        entries, cursor = await self.jobs.audit.find(page.limit, page.cursor)
        self.write_json({"entries": entries, "next_cursor": cursor})


class HealthHandler(ApiHandler):
    """``/healthz``: the process is alive and its loop turns."""

    is_public = True

    def get(self) -> None:
        self.write_json({"status": "alive"})


class ReadyHandler(ApiHandler):
    """``/readyz``: jobs can be accepted and read now; with ``?verbose``, for admins, what the service stands on."""

    is_public = True

    async def get(self) -> None:
        if self.lifecycle.closing.is_set():
            raise Problem(503, "shutting-down", "This process is about to end.")
        checks = await self.jobs.check()
        told: dict[str, Any] = {"checks": {name: reason or "ok" for name, reason in checks.items()}}
        if "verbose" in self.request.query_arguments and self.is_by_an_admin():
            told |= representation.diagnosis(await self.jobs.diagnose())
        if down := ", ".join(name for name, reason in checks.items() if reason):
            raise Problem(503, "not-ready", f"Not reachable: {down}.", headers={"Retry-After": "1"}, members=told)
        self.write_json({"status": "ready", **told})


class OpenApiHandler(ApiHandler):
    """``/openapi.json``"""

    is_public = True

    def get(self) -> None:
        self.write_file(self.settings["openapi"])


class PageHandler(ApiHandler):
    """What a page for people and its files share."""

    is_public = True
    #: The page's name among our own, and what it loads, by name.
    page: ClassVar[str]
    files: ClassVar[Mapping[str, tuple[Path, str]]]

    async def get(self, name: str = "") -> None:
        if name and name not in self.files:
            raise Problem(404, "not-found", "There is nothing at this path.")
        place, media_type = self.files[name] if name else (docs.PAGES / self.page, "text/html")
        self.set_header("Content-Security-Policy", docs.POLICY)
        self.write_file(await asyncio.to_thread(docs.read, place, media_type))


class DocsHandler(PageHandler):
    """``/docs`` and ``/docs/{file}``: the page that shows the OpenAPI document, and what it loads."""

    page = "docs.html"
    files = docs.FILES


class DashboardHandler(PageHandler):
    """``/`` and ``/dashboard/{file}``: the dashboard, and what it loads."""

    page = "dashboard.html"
    files = dashboard.FILES


class NotFoundHandler(ApiHandler):
    """Every other path."""

    scopes = dict.fromkeys(RequestHandler.SUPPORTED_METHODS)
    needs_ledger = False

    def get(self, *args: str) -> None:
        raise Problem(404, "not-found", "There is nothing at this path.")

    head = post = put = patch = delete = options = get


ROUTES = [
    (r"/v1/me", MeHandler),
    (r"/v1/audit", AuditHandler),
    (r"/v1/tasks", TasksHandler),
    (r"/v1/tasks/([^/]+)", TaskHandler),
    (r"/v1/tasks/([^/]+)/jobs", SubmitHandler),
    (r"/v1/batches", BatchesHandler),
    (r"/v1/events", ManyEventsHandler),
    (r"/v1/workflows", WorkflowsHandler),
    (r"/v1/workflows/([^/]+)", WorkflowHandler),
    (r"/v1/workflows/([^/]+)/cancel", WorkflowCancelHandler),
    (r"/v1/failures", FailuresHandler),
    (r"/v1/failures/([^/]+)/retry", RetryFailuresHandler),
    (r"/v1/failures/([^/]+)/resolve", ResolveFailuresHandler),
    (r"/v1/schedules", SchedulesHandler),
    (r"/v1/schedules/([^/]+)", ScheduleHandler),
    (r"/v1/schedules/([^/]+)/run", RunScheduleHandler),
    (r"/v1/schedules/([^/]+)/pause", PauseScheduleHandler),
    (r"/v1/schedules/([^/]+)/resume", ResumeScheduleHandler),
    (r"/v1/schedules/([^/]+)/backfill", BackfillScheduleHandler),
    (r"/v1/schedules/([^/]+)/next", NextRunsHandler),
    (r"/v1/schedules/([^/]+)/runs", ScheduleRunsHandler),
    (r"/v1/jobs", JobsHandler),
    (r"/v1/jobs/([^/]+)", JobHandler),
    (r"/v1/jobs/([^/]+)/input", InputHandler),
    (r"/v1/jobs/([^/]+)/result", ResultHandler),
    (r"/v1/jobs/([^/]+)/events", EventsHandler),
    (r"/v1/jobs/([^/]+)/ws", EventsSocket),
    (r"/v1/jobs/([^/]+)/cancel", CancelHandler),
    (r"/v1/jobs/([^/]+)/retry", RetryHandler),
    (r"/v1/jobs/([^/]+)/deliveries", DeliveriesHandler),
    (r"/v1/jobs/([^/]+)/deliveries/([^/]+)/replay", ReplayHandler),
    (r"/v1/statistics", StatisticsHandler),
    (r"/v1/queues", QueuesHandler),
    (r"/v1/queues/([^/]+)/pause", PauseQueueHandler),
    (r"/v1/queues/([^/]+)/resume", ResumeQueueHandler),
    (r"/v1/queues/([^/]+)/purge", PurgeHandler),
    (r"/v1/workers", WorkersHandler),
    (r"/v1/workers/([^/]+)/shutdown", ShutdownHandler),
    (r"/v1/workers/([^/]+)/grow", GrowHandler),
    (r"/v1/workers/([^/]+)/shrink", ShrinkHandler),
    (r"/metrics", MetricsHandler),
    (r"/healthz", HealthHandler),
    (r"/readyz", ReadyHandler),
    (r"/openapi\.json", OpenApiHandler),
    (r"/docs", DocsHandler),
    (r"/docs/([^/]+)", DocsHandler),
    (r"/", DashboardHandler),
    (r"/dashboard/([^/]+)", DashboardHandler),
]
