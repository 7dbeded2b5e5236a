"""Failures: groups of jobs that failed alike."""

from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject
from tornado_celery_bridge.ledger.records import FailureGroup


class Failures(Subject):
    """
    The groups of failed jobs in the ledger.

    .. versionadded:: 0.1.0
    """

    async def groups(self, owner: str | None = None) -> list[FailureGroup]:
        """
        Return the groups of failed jobs, the one with the last failure first: at most 500, of the last 30 days. Of each
        owner 500 are kept.

        Args:
            owner: Only groups of this owner's jobs; None for everybody's.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        return await self._redis.run(calls.failures(of_one=owner is not None, owner=owner or ""))

    async def resolve(self, group_id: str) -> None:
        """
        Forget a group of failures, until a job fails so again. Its jobs stay as they are.

        Raises:
            LedgerUnavailable: It may be forgotten all the same.
        """
        await self._redis.run(calls.resolve(group_id=group_id))
