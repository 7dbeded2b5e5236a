"""How far a process is from its end, for handlers to see."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tornado_celery_bridge.handlers import Requests

T = TypeVar("T")

#: Seconds for answers to be written, after those who wait for a job were told to answer.
REST = 2.0


class Lifecycle(Requests):
    """
    The stages of a graceful end.

    ``closing``: readiness says 503, nothing new is accepted, streams end. ``expired``: those who still wait for a job
    are answered with what is known. The process ends when no request is left, or after a little while.
    """

    def __init__(self) -> None:
        super().__init__()
        self.expired = asyncio.Event()

    async def end(self, timeout: float, rest: float = REST) -> None:
        """Let the requests under way end: *timeout* seconds for waits, then *rest* seconds for answers."""
        self.closing.set()
        if not await self._is_idle_within(timeout):
            self.expired.set()
            await self._is_idle_within(rest)

    async def unless_expired(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what *work* returns; None if the process has to end before that."""
        expiry = asyncio.ensure_future(self.expired.wait())
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, expiry), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            expiry.cancel()
            task.cancel()
            await asyncio.gather(task, expiry, return_exceptions=True)
