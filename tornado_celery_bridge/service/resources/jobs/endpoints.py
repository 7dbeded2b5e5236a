"""``/v1/jobs``, ``/v1/batches``, and a task's jobs: submit, list, read, cancel and try again."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Annotated, Any, BinaryIO, ClassVar, cast

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.service.access.limits import TOO_MANY_FOLLOWED
from tornado_celery_bridge.service.http.conditions import IfNoneMatch
from tornado_celery_bridge.service.http.endpoint import NOT_MODIFIED, Answer, delete, get, patch, post
from tornado_celery_bridge.service.http.idempotency import INVALID_IDEMPOTENCY_KEY, IdempotencyKey
from tornado_celery_bridge.service.http.json import Encoded, encode
from tornado_celery_bridge.service.http.prefer import Preferences
from tornado_celery_bridge.service.http.problems import (
    BLOB_LOST,
    INVALID_BODY,
    INVALID_CURSOR,
    SHUTTING_DOWN,
    STORE_UNAVAILABLE,
    WAITERS_SATURATED,
    Problem,
    problem_of,
)
from tornado_celery_bridge.service.http.query import MAX_PAGE, Page
from tornado_celery_bridge.service.resources.catalogue import INVALID_INPUT, UNKNOWN_TASK
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.jobs.accepting import ACCEPTED, JOB_LINKS, AcceptingEndpoint
from tornado_celery_bridge.service.resources.jobs.changing import change
from tornado_celery_bridge.service.resources.jobs.endpoint import JobId, ResourceEndpoint, TaskName
from tornado_celery_bridge.service.resources.jobs.filters import JobFilters
from tornado_celery_bridge.service.resources.jobs.problems import (
    INVALID_OPTIONS,
    JOB,
    JOB_BEGUN,
    JOB_CHANGING,
    JOB_NEEDED,
    JOB_UNFINISHED,
    NO_CHECKPOINT,
    NO_RESULT,
    SUBMISSION,
    UNPUBLISHABLE,
)

#: Values that the body of many jobs may have, and how many of these jobs are seen to side by side.
MAX_BATCH_NODES = 100_000
BATCH_STEP = 50
#: Seconds for which a list goes on to look for jobs, while its page is not full.
LONGEST_SEARCH = 0.15
#: Bytes of a result in a list.
MAX_LISTED = 16_384
#: Bytes of a large result that are in memory at once.
PIECE = 256 * 1024


_log = logging.getLogger(__name__)


class SubmitJob(AcceptingEndpoint):
    """Submit a job. The OpenAPI document has one operation for each task in the place of this one."""

    route = post("/v1/tasks/{task}/jobs", scope="submit", tag="submit")
    answers: ClassVar = ACCEPTED
    problems: ClassVar = SUBMISSION

    async def admit(self, **path: str) -> None:
        self.check_accepting()
        self.jobs.task(self.caller, path["task"])

    async def answer(
        self,
        task: TaskName,
        body: Annotated[dict[str, Any], documents.Submission],
        prefer: Preferences,
        key: IdempotencyKey,
    ) -> documents.Job | None:
        reserved = self.reservation(key)
        submission = await self.jobs.submit(self.caller, task, body, size=self.size, reservation=reserved)
        return await self.accepted(submission, reserved, prefer.wait)


class SubmitBatch(AcceptingEndpoint):
    """Submit up to 1,000 jobs."""

    route = post("/v1/batches", scope="submit", tag="submit")
    answers: ClassVar = {207: Answer("For each job, what it would have been answered alone.")}
    problems: ClassVar = (SHUTTING_DOWN, INVALID_IDEMPOTENCY_KEY)
    max_nodes: ClassVar = MAX_BATCH_NODES

    async def answer(self, body: documents.Batch, key: IdempotencyKey) -> documents.BatchAnswers:
        # Not all at once: what is done between two turns of the loop is a job's, and not a thousand's.
        turns = asyncio.Semaphore(BATCH_STEP)
        answers = await asyncio.gather(*(self._submit(number, job, key, turns) for number, job in enumerate(body.jobs)))
        return {"jobs": cast("list[documents.BatchAnswer]", answers)}

    async def _submit(self, number: int, job: Any, key: IdempotencyKey, turns: asyncio.Semaphore) -> Encoded:
        """
        Submit one job of the batch, and return what it would have been answered alone.

        As bytes: a thousand problems of 50 faults are 100,000 objects, through which Python's collector would go at
        once, with all others that the process has.
        """
        async with turns:
            try:
                if number:  # the first is paid for by the request
                    await self.pay()
                await self.service.turns.take()
                task, body = _task_of(job)
                content = encode(body)
                reserved = self.reservation(key, f"#{number}", content)
                submission = await self.jobs.submit(self.caller, task, body, size=len(content), reservation=reserved)
                await self.keep(reserved, submission.job)
            except Exception as exc:  # the others are accepted, or are not, whatever this one raises
                problem = problem_of(exc)
                if not isinstance(exc, Problem | BridgeError):
                    _log.exception("job %d of a batch", number)
                document: Any = problem.document(f"{self.request.path}#/jobs/{number}", self.trace)
                return Encoded(encode({"status": problem.status_code, "problem": document}))
        status = 200 if submission.job.done else 202
        return Encoded(encode({"status": status, "job": documents.job(submission.job, self.links)}))


def _task_of(job: Any) -> tuple[str, dict[str, Any]]:
    """Return the task that a job of a batch names, and the rest of it."""
    if not isinstance(job, dict) or not isinstance(job.get("task"), str):
        raise INVALID_BODY.at("/task", "This should be an object with the name of a task.")
    return job["task"], {key: value for key, value in job.items() if key != "task"}


class ListJobs(ResourceEndpoint):
    """
    List jobs, newest first.

    Without their results, unless you ask for them, and without what is over 16 KiB: read such a job alone.
    """

    route = get("/v1/jobs", scope="read", tag="jobs")
    answers: ClassVar = {
        200: Answer("A page, which may be shorter than its limit and still not the last.", headers=("ETag",)),
        304: NOT_MODIFIED,
    }
    problems: ClassVar = (INVALID_CURSOR,)

    async def answer(self, query: JobFilters, known: IfNoneMatch) -> documents.Jobs:
        page = await self.jobs.find(
            query.for_principal(self.caller),
            limit=query.limit,
            cursor=query.cursor,
            most_bytes=MAX_LISTED if query.results else 0,
            page_bytes=MAX_PAGE,
            seconds=LONGEST_SEARCH,
        )
        shown = [documents.listed(job, self.links, result=query.results) for job in page.jobs]
        return {"jobs": shown, "next_cursor": page.cursor}


class ReadJob(ResourceEndpoint):
    """Read a job, or wait until it is done."""

    route = get("/v1/jobs/{id}", scope="read", tag="jobs")
    answers: ClassVar = {
        200: Answer("The job; `done` tells whether it is done.", headers=("Retry-After", "ETag"), links=JOB_LINKS),
        304: NOT_MODIFIED,
    }
    problems: ClassVar = (*JOB, WAITERS_SATURATED, TOO_MANY_FOLLOWED)

    async def answer(self, id: JobId, prefer: Preferences, known: IfNoneMatch) -> documents.Job:
        job = await self.jobs.get(self.caller, id)
        if prefer.wait and not job.done:
            job = await self.outcome(self.jobs.wait(self.caller, job, prefer.wait)) or job
        return await self.show(job)


class ContentEndpoint(ResourceEndpoint):
    """A large part of a job: it is sent as it is kept, in pieces."""

    async def send_file(self, file: BinaryIO) -> None:
        """Answer with a file of JSON, and close it."""
        try:
            await self.send(_pieces(file))
        finally:
            await asyncio.to_thread(file.close)


async def _pieces(file: BinaryIO) -> AsyncGenerator[bytes]:
    while piece := await asyncio.to_thread(file.read, PIECE):
        yield piece


class ReadInput(ContentEndpoint):
    """
    Read a job's exact input, however large it is.

    Nothing but the input, as JSON: the object of named arguments, or the list of positional ones.
    """

    route = get("/v1/jobs/{id}/input", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The input.", {})}
    problems: ClassVar = (*JOB, BLOB_LOST, STORE_UNAVAILABLE)

    async def answer(self, id: JobId) -> None:
        await self.jobs.get(self.caller, id)
        await self.send_file(await self.jobs.open_input(id))


class ReadResult(ContentEndpoint):
    """
    Read what a job returned, however large it is.

    Nothing but the result, as JSON, in pieces as they come from the store.
    """

    route = get("/v1/jobs/{id}/result", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The result.", {})}
    problems: ClassVar = (*JOB, JOB_UNFINISHED, NO_RESULT, BLOB_LOST, STORE_UNAVAILABLE)

    async def answer(self, id: JobId) -> None:
        job = await self.jobs.get(self.caller, id)
        file = await self.jobs.open_result(job)
        if size := job.left_out if job.stored is None else job.stored.size:
            self.set_header("Content-Length", size)
        await self.send_file(file)


class ListItems(ResourceEndpoint):
    """
    List what a job has yielded, in order.

    The items of a task that is a generator. The last 1,000 are kept, and of them those that have 1 MiB together.
    """

    route = get("/v1/jobs/{id}/items", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("A page.", headers=("ETag",)), 304: NOT_MODIFIED}
    problems: ClassVar = (*JOB, INVALID_CURSOR)

    async def answer(self, id: JobId, query: Page, known: IfNoneMatch) -> documents.Items:
        found = await self.jobs.items(self.caller, id, query.cursor, query.limit + 1)
        shown = found[: query.limit]
        return {
            "items": [documents.item(each) for each in shown],
            "next_cursor": str(shown[-1].id) if len(found) > len(shown) else None,
        }


class CancelJob(ResourceEndpoint):
    """Cancel a job."""

    route = post("/v1/jobs/{id}/cancel", scope="cancel", tag="jobs")
    answers: ClassVar = {
        200: Answer("The job, which is done.", links=JOB_LINKS),
        202: Answer("The job, which has been told.", headers=("Retry-After",), links=JOB_LINKS),
    }
    problems: ClassVar = JOB

    async def answer(self, id: JobId, body: documents.Cancellation = documents.Cancellation()) -> documents.Job:
        job = await self.jobs.cancel(self.caller, id, terminate=body.terminate)
        self.set_status(200 if job.done else 202)
        return await self.show(job)


class DeleteJob(ResourceEndpoint):
    """
    Delete a job that has ended, with all that is kept of it.

    Its input, result, error, events and checkpoint go, its large values in the store, and its result in Celery's
    backend.
    """

    route = delete("/v1/jobs/{id}", scope="cancel", tag="jobs")
    answers: ClassVar = {204: Answer("It is gone: from now on its id is answered 410.")}
    problems: ClassVar = (*JOB, JOB_UNFINISHED, JOB_NEEDED)

    async def answer(self, id: JobId) -> None:
        await self.jobs.delete(self.caller, id)


class ChangeJob(ResourceEndpoint):
    """
    Change a job that waits: when, where and with what it runs; hold it back, and release it.

    A merge patch. It is done in one step, or refused: then nothing has changed.
    """

    route = patch("/v1/jobs/{id}", scope="submit", tag="jobs")
    answers: ClassVar = {200: Answer("The job, changed.", headers=("Retry-After",), links=JOB_LINKS)}
    problems: ClassVar = (
        *(*JOB, JOB_BEGUN, JOB_CHANGING, UNKNOWN_TASK, INVALID_INPUT, INVALID_OPTIONS, UNPUBLISHABLE),
        *(STORE_UNAVAILABLE, SHUTTING_DOWN),
    )
    body_media_type: ClassVar = "application/merge-patch+json"

    async def admit(self, **path: str) -> None:
        self.check_accepting()

    async def answer(self, id: JobId, body: documents.Change) -> documents.Job:
        return await self.show(await change(self.jobs, self.caller, id, body, size=self.size))


class RetryJob(AcceptingEndpoint):
    """Submit a job again."""

    route = post("/v1/jobs/{id}/retry", scope="submit", tag="jobs")
    answers: ClassVar = ACCEPTED
    problems: ClassVar = (*JOB, *SUBMISSION, JOB_UNFINISHED, NO_CHECKPOINT, BLOB_LOST)

    async def answer(
        self,
        id: JobId,
        prefer: Preferences,
        key: IdempotencyKey,
        body: Annotated[dict[str, Any], documents.Retry] = {},
    ) -> documents.Job | None:
        reserved = self.reservation(key)
        submission = await self.jobs.retry(self.caller, id, body, size=self.size, reservation=reserved)
        return await self.accepted(submission, reserved, prefer.wait)
