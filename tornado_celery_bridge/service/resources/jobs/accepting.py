"""What accepts a job: submitting it, trying it again, running a schedule."""

import logging

from tornado_celery_bridge import WaitersSaturated
from tornado_celery_bridge.handlers import ClientLeft
from tornado_celery_bridge.ledger import Job, LedgerUnavailable, Reservation
from tornado_celery_bridge.service.http.endpoint import Answer
from tornado_celery_bridge.service.http.idempotency import IdempotencyKey
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint
from tornado_celery_bridge.service.resources.jobs.service import Submission

_log = logging.getLogger(__name__)

#: Operations by which a job in an answer can be asked about.
JOB_LINKS = ("read_job", "follow_job", "cancel_job")
#: How accepting a job succeeds.
ACCEPTED = {
    202: Answer("The job was accepted, and is not done yet.", headers=("Location", "Retry-After"), links=JOB_LINKS),
    200: Answer("The job, done within the time that the request would wait.", headers=("Location",), links=JOB_LINKS),
}


class AcceptingEndpoint(ResourceEndpoint):
    """Accepts jobs: keeps the answer for an idempotency key, and waits for a job's end."""

    async def admit(self, **path: str) -> None:
        self.check_accepting()

    def reservation(self, key: IdempotencyKey, part: str = "", body: bytes | None = None) -> Reservation | None:
        """Return what to hold the request's idempotency key with, if it has one; for a *part* of it, its own."""
        return key.reservation(self.caller.owner, self.request.path + part, self.read_body() if body is None else body)

    async def accepted(
        self, submission: Submission, reserved: Reservation | None, seconds: int | None
    ) -> documents.Job:
        """Return a job that was accepted: when it is done, or after so many *seconds*."""
        job = submission.job
        self.set_header("Location", self.links.job(job.record.id))
        await self.keep(reserved, job)
        if seconds and not job.done:
            try:
                job = await self._outcome_of(job, seconds)
            except ClientLeft:
                await self.jobs.abandon(self.caller, job, submission.on_disconnect)
                raise
        self.set_status(200 if job.done else 202)
        return await self.show(job)

    async def _outcome_of(self, job: Job, seconds: int) -> Job:
        """Return the job once it is done, or as it is: it is accepted, so no error may come of waiting for it."""
        try:
            return await self.outcome(self.jobs.wait(self.caller, job, seconds)) or job
        except (LedgerUnavailable, WaitersSaturated, Problem):
            return job

    async def keep(self, reserved: Reservation | None, job: Job) -> None:
        """Keep which job the request made: the same request is then shown that job, as it is at that time."""
        if reserved is None:
            return
        try:
            await self.jobs.ledger.idempotency_keys.respond(reserved, job.record.id.encode())
        except LedgerUnavailable as exc:
            _log.warning("what a request made is not kept: %s", exc)
