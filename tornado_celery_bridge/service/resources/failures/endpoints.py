"""``/v1/failures``: list groups of failures, try one again, resolve one."""

import asyncio
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.ledger import FailureGroup, Filter, Job
from tornado_celery_bridge.service.http.endpoint import Answer, get, post
from tornado_celery_bridge.service.http.problems import SHUTTING_DOWN, Kind, Problem, problem_of
from tornado_celery_bridge.service.resources.failures import documents
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint

UNKNOWN_FAILURE = Kind("unknown-failure", 404, "There is no group of failures of this id, or it is somebody else's.")

#: The most jobs that one request retries, and how many of them at once.
MOST, STEP = 1_000, 20

GroupId = Annotated[str, Field(description="The id of a group of failures.")]


class FailuresEndpoint(ResourceEndpoint):
    """A route of failures. An admin sees all groups, and others see those of their own jobs."""

    async def groups(self) -> list[FailureGroup]:
        """Return the groups, the one that failed last first."""
        return await self.jobs.ledger.failures.groups(self.owner)

    @property
    def owner(self) -> str | None:
        """Whose failures the caller sees; None for everybody's."""
        return None if self.caller.is_admin else self.caller.owner

    async def check_known(self, group_id: str) -> None:
        """Raise a Problem if there is no such group."""
        if group_id not in [group.id for group in await self.groups()]:
            raise UNKNOWN_FAILURE("There is no group of failures of this id.")


class ListFailures(FailuresEndpoint):
    """
    List the failures, those that are alike together.

    Alike are jobs of one owner whose task raised the same at the same place. There are the last 500 groups in which
    something failed within 30 days and was not resolved since.
    """

    route = get("/v1/failures", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The groups, the one that failed last first.")}

    async def answer(self) -> documents.Failures:
        return {"failures": [documents.failure(each, self.links) for each in await self.groups()], "next_cursor": None}


class RetryFailures(FailuresEndpoint):
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
        await self.check_known(failure)
        jobs = await self.jobs.find_all(Filter(failure=failure, owner=self.owner), MOST)
        turns, submitted, refused = asyncio.Semaphore(STEP), list[str](), list[Any]()

        async def retry(number: int, job: Job) -> None:
            job_id = job.record.id
            async with turns:
                try:
                    if number:  # the first is paid for by the request
                        await self.pay()
                    submitted.append((await self.jobs.retry(self.caller, job_id, {})).job.record.id)
                except (Problem, BridgeError) as exc:
                    problem = problem_of(exc).document(f"{self.links.job(job_id)}/retry", self.trace)
                    refused.append({"job_id": job_id, "problem": problem})

        if not body.dry_run:
            await asyncio.gather(*(retry(number, job) for number, job in enumerate(jobs)))
            self.set_status(202)
        return {"dry_run": body.dry_run, "jobs": len(jobs), "job_ids": submitted, "refused": refused}


class ResolveFailures(FailuresEndpoint):
    """Forget a group until it fails again."""

    route = post("/v1/failures/{failure}/resolve", scope="cancel", tag="jobs")
    answers: ClassVar = {204: Answer("It is gone. Its jobs stay as they are.")}
    problems: ClassVar = (UNKNOWN_FAILURE,)

    async def answer(self, failure: GroupId) -> None:
        await self.check_known(failure)
        await self.jobs.ledger.failures.resolve(failure)
