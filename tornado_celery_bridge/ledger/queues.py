"""Queues: pausing them, and ending the jobs that wait in them."""

import time
from collections.abc import AsyncGenerator

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject

__all__ = ("Queues",)


class Queues(Subject):
    """
    The queues, as the ledger has them.

    .. versionadded:: 0.1.0
    """

    async def pause(self, queue: str) -> None:
        """
        Have no worker take from a queue, whether it runs now or is started later, until :meth:`resume`.

        The workers hear of it within some 2 s. What they have taken already, a few each, they run.

        Raises:
            LedgerUnavailable: It may be paused all the same.
        """
        await self._redis.run(calls.pause(queue=queue))

    async def resume(self, queue: str) -> None:
        """
        Have the workers take from a queue again that did so before it was paused; errors as :meth:`pause`.
        """
        await self._redis.call("HDEL", f"{self._redis.prefix}paused", queue)

    async def paused(self) -> dict[str, int]:
        """
        Return since when queues are paused, by their names; in milliseconds since 1970, by the server's clock.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        found = await self._redis.call("HGETALL", f"{self._redis.prefix}paused")
        return {name.decode(): int(since) for name, since in found.items()}

    async def purge(self, queue: str, reason: str) -> AsyncGenerator[list[str]]:
        """
        End the jobs of a queue that have not begun, as REVOKED: those that are due, and those that are not yet.

        A job that comes after others in a workflow is not in the queue until these have ended. Jobs that are accepted
        meanwhile stay. Their messages stay, too: see :meth:`.Bridge.purge`.

        Args:
            queue: Its name.
            reason: What is said of each in its error.

        Yields:
            The ids of some hundred that have ended, in each step.

        Raises:
            LedgerUnavailable: Some have ended.
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
