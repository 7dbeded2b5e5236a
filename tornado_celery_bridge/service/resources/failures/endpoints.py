"""``/v1/failures``: list groups of failures, try one again, resolve one."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from tornado_celery_bridge.service.http.endpoint import Answer, get, post
from tornado_celery_bridge.service.http.problems import SHUTTING_DOWN
from tornado_celery_bridge.service.resources.failures import documents
from tornado_celery_bridge.service.resources.failures.service import UNKNOWN_FAILURE, Failures
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint

GroupId = Annotated[str, Field(description="The id of a group of failures.")]


class ListFailures(ResourceEndpoint):
    """
    List the failures, those that are alike together.

    Alike are jobs of one owner whose task raised the same at the same place. There are the last 500 groups in which
    something failed within 30 days and was not resolved since.
    """

    route = get("/v1/failures", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The groups, the one that failed last first.")}

    async def answer(self) -> documents.Failures:
        found = await Failures(self.jobs).find(self.caller)
        return {"failures": [documents.failure(each, self.links) for each in found], "next_cursor": None}


class RetryFailures(ResourceEndpoint):
    """
    Submit all jobs of a group again.

    Those that have not been tried again, the newest 1,000. Without `"dry_run": false` it only says how many there are.
    """

    route = post("/v1/failures/{failure}/retry", scope="submit", tag="jobs")
    answers: ClassVar = {200: Answer("How many it would submit."), 202: Answer("What it submitted.")}
    problems: ClassVar = (UNKNOWN_FAILURE, SHUTTING_DOWN)

    async def admit(self, **path: str) -> None:
        self.check_accepting()

    async def answer(self, failure: GroupId, body: documents.RetryAll = documents.RetryAll()) -> documents.Retried:
        done = await Failures(self.jobs).retry(self.caller, failure, dry_run=body.dry_run)
        self.set_status(200 if body.dry_run else 202)
        refused: list[Any] = [
            {"job_id": job_id, "problem": problem.document(f"{self.links.job(job_id)}/retry", self.trace)}
            for job_id, problem in done.refused.items()
        ]
        job_ids = [job.record.id for job in done.submitted]
        return {"dry_run": body.dry_run, "jobs": len(done.jobs), "job_ids": job_ids, "refused": refused}


class ResolveFailures(ResourceEndpoint):
    """Forget a group until it fails again."""

    route = post("/v1/failures/{failure}/resolve", scope="cancel", tag="jobs")
    answers: ClassVar = {204: Answer("It is gone. Its jobs stay as they are.")}
    problems: ClassVar = (UNKNOWN_FAILURE,)

    async def answer(self, failure: GroupId) -> None:
        await Failures(self.jobs).resolve(self.caller, failure)
