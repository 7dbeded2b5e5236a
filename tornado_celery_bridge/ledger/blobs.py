"""Blobs: the large values of jobs, which are in a store beside Redis; here is which of them are wanted."""

from collections.abc import Sequence

from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject, ms
from tornado_celery_bridge.ledger.jobs import SWEEP_SIZE

#: Seconds for which a blob that was announced may be on its way into a job: it is stored, and a chain handed on.
BLOB_GRACE = 3_600.0


class Blobs(Subject):
    """
    The blobs that the ledger knows of.

    .. versionadded:: 0.1.0
    """

    async def announce(self, blob: str) -> None:
        """Note that a blob is about to be written; if no job adopts it in ``BLOB_GRACE`` seconds, it is removed."""
        await self._redis.run(calls.announce(blob=blob, grace=ms(BLOB_GRACE)))

    async def disown(self, blob: str) -> None:
        """Have a blob that was announced removed with the next sweep."""
        await self._redis.run(calls.announce(blob=blob, grace=0))

    async def adopt(self, job_id: str, blob: str) -> None:
        """Have a blob that was announced kept for as long as a job."""
        await self._redis.run(calls.adopt(job_id=job_id, blob=blob))

    async def orphans(self) -> list[str]:
        """Return names of blobs that are to be removed from the store, until :meth:`removed` is told of them."""
        return await self._redis.run(calls.orphans(most=SWEEP_SIZE))

    async def removed(self, blobs: Sequence[str]) -> None:
        """Note that blobs were removed from the store."""
        await self._redis.call("ZREM", f"{self._redis.prefix}blobs", *blobs)
