"""Queues: pausing them, and ending the jobs that wait in them."""

import time
from collections.abc import AsyncGenerator

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject


class Queues(Subject):
    """
    The queues, as the ledger has them.

    .. versionadded:: 0.1.0
    """

    async def pause(self, queue: str) -> None:
        """
        Have no worker take jobs from a queue until :meth:`resume`, not even workers that start later.

        The workers notice within some 2 s. They run what they have taken already, a few jobs each.

        Raises:
            LedgerUnavailable: It may be paused all the same.
        """
        await self._redis.run(calls.pause(queue=queue))

    async def resume(self, queue: str) -> None:
        """
        Have the workers that took from a queue before it was paused do so again; errors as :meth:`pause`.
        """
        await self._redis.call("HDEL", f"{self._redis.prefix}paused", queue)

    async def paused(self) -> dict[str, int]:
        """
        Return the queues that are paused, and since when: milliseconds since 1970, by the server's clock.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        found = await self._redis.call("HGETALL", f"{self._redis.prefix}paused")
        return {name.decode(): int(since) for name, since in found.items()}

    async def purge(self, queue: str, reason: str) -> AsyncGenerator[list[str]]:
        """
        End the jobs of a queue that have not begun, whether they are due or not, as REVOKED.

        A job that comes after others in a workflow is not in the queue until these have ended. Jobs that are accepted
        during this call stay. The messages stay as well: see :meth:`.Bridge.purge`.

        Args:
            queue: The queue's name.
            reason: The message of each job's error.

        Yields:
            In each step, the ids of some hundred jobs that have ended.

        Raises:
            LedgerUnavailable: Some jobs have ended.
        """
        error = {"type": "TaskRevokedError", "module": "celery.exceptions", "message": reason}
        until = round(time.time() * 1000)
        for state in ("PENDING", "RETRY"):
            cursor = "0"
            while True:
                call = calls.purge(queue=queue, state=state, cursor=cursor, error=dumps(error), until_then=until)
                cursor, job_ids = await self._redis.run(call)
                yield job_ids
                if cursor == "0":
                    break
