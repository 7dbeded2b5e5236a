"""Callbacks: ended jobs that are to tell somebody of their end, and what came of it."""

from collections.abc import Mapping
from typing import Any

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject, ms
from tornado_celery_bridge.ledger.records import Claim, Delivery

#: Owners that one claim looks at, and receivers of each.
LOOKS = 200
#: Attempts to call back that are kept of a job.
KEPT_ATTEMPTS = 20


class Callbacks(Subject):
    """
    The callbacks of jobs in the ledger.

    .. versionadded:: 0.1.0
    """

    async def claim(
        self, most: int, *, owner_share: int, share: int, lease: float, under_way: Mapping[str, int]
    ) -> list[Claim]:
        """
        Return callbacks that are due now. Nobody else gets them for *lease* seconds.

        Args:
            most: At most so many.
            owner_share: At most so many of one owner, with those under way; where there are no owners, of all.
            share: At most so many to one receiver of an owner's, with those under way.
            lease: Seconds. If no attempt is recorded by then, somebody else may claim the callback.
            under_way: How many callbacks are under way already, by :attr:`.Claim.receiver`.
        """
        rows = [calls.UnderWay(*pair) for pair in under_way.items()]
        call = calls.claim_callbacks(
            most=most, owner_share=owner_share, share=share, lease=ms(lease), looks=LOOKS, rows=rows
        )
        return await self._redis.run(call)

    async def record_attempt(
        self, claim: Claim, attempt: Mapping[str, Any], state: str, next_in: float | None = None
    ) -> None:
        """
        Record an attempt to call back.

        Args:
            claim: The claim under which it was made.
            attempt: An item of :attr:`Delivery.attempts`.
            state: The delivery's new state: ``waiting``, ``delivered`` or ``failed``.
            next_in: Seconds until the next attempt, if it waits for one.
        """
        call = calls.record_attempt(
            job_id=claim.job_id,
            lease=claim.lease,
            attempt=dumps(attempt),
            kept=KEPT_ATTEMPTS,
            state=state,
            next_in=None if next_in is None else ms(next_in),
        )
        await self._redis.run(call)

    async def delivery(self, job_id: str) -> Delivery | None:
        """Return how far a job's callback is; None if the job has not ended, or does not call back."""
        return await self._redis.run(calls.delivery(job_id=job_id))

    async def replay(self, job_id: str) -> None:
        """Have an ended job call back again, now. Does nothing if it does not call back."""
        await self._redis.run(calls.replay(job_id=job_id))
