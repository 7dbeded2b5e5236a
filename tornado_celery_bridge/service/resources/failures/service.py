"""The operations on groups of failures: read, retry, resolve. It knows neither requests nor responses."""

import asyncio
from typing import NamedTuple

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.ledger import FailureGroup, Job
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.problems import Kind, Problem, problem_of
from tornado_celery_bridge.service.resources.jobs.service import Jobs

UNKNOWN_FAILURE = Kind("unknown-failure", 404, "There is no group of failures of this id, or it is somebody else's.")

#: The most jobs that one request retries, and how many of them at once.
MOST, STEP = 1_000, 20


class Retried(NamedTuple):
    """The outcome of retrying the jobs of a group."""

    #: How many jobs there were.
    jobs: list[Job]
    #: The ids of the new jobs.
    submitted: list[Job]
    #: The problems of jobs that were refused, by their ids.
    refused: dict[str, Problem]


class Failures:
    """
    The groups of failures. An admin sees all groups, and others see those of their own jobs.

    Args:
        jobs: The operations on jobs.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def find(self, principal: Principal) -> list[FailureGroup]:
        """
        Return the groups, the one that failed last first.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        return await self._jobs.ledger.failures.groups(None if principal.is_admin else principal.owner)

    async def retry(self, principal: Principal, group_id: str, *, dry_run: bool) -> Retried:
        """
        Submit the jobs of a group that have not been retried once more, the newest ``MOST``, or only count them.

        Raises:
            Problem: 404, there is no such group.
            LedgerUnavailable: Redis does not answer. Some jobs may have been submitted.
        """
        await self._check_known(principal, group_id)
        page = await self._jobs.find(principal, failure=group_id, limit=MOST)
        if dry_run:
            return Retried(page.jobs, [], {})
        turns, submitted, refused = asyncio.Semaphore(STEP), list[Job](), dict[str, Problem]()

        async def retry(job: Job) -> None:
            async with turns:
                try:
                    submitted.append((await self._jobs.retry(principal, job.record.id, {})).job)
                except (Problem, BridgeError) as exc:
                    refused[job.record.id] = problem_of(exc)

        await asyncio.gather(*map(retry, page.jobs))
        return Retried(page.jobs, submitted, refused)

    async def resolve(self, principal: Principal, group_id: str) -> None:
        """
        Remove a group, until a job fails in the same way again. Its jobs do not change.

        Raises:
            Problem: 404, there is no such group.
            LedgerUnavailable: Redis does not answer. The group may be gone.
        """
        await self._check_known(principal, group_id)
        await self._jobs.ledger.failures.resolve(group_id)

    async def _check_known(self, principal: Principal, group_id: str) -> None:
        if group_id not in [group.id for group in await self.find(principal)]:
            raise UNKNOWN_FAILURE("There is no group of failures of this id.")
