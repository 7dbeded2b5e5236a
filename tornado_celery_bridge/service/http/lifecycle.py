"""How far a process is from its end, for handlers to see."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Lifecycle:
    """
    The stages of a graceful end.

    ``closing``: readiness says 503, nothing new is accepted, streams end. ``expired``: those who still wait for a job
    are answered with what is known. The process ends when no request is left, or after a little while.
    """

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.expired = asyncio.Event()
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def request_began(self) -> None:
        """Count a request that is being answered."""
        self._requests += 1
        self._idle.clear()

    def request_ended(self) -> None:
        """Stop counting it."""
        self._requests -= 1
        if not self._requests:
            self._idle.set()

    async def end(self, grace: float, rest: float) -> None:
        """Let the requests under way end: *grace* seconds for waits, then *rest* seconds for answers to be written."""
        self.closing.set()
        if not await self._is_idle_within(grace):
            self.expired.set()
            await self._is_idle_within(rest)

    async def _is_idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

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
