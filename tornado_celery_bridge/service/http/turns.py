"""
Turns: a share of the event loop's time for work of which a request may bring a thousand pieces.

Between two turns of the loop all pieces together get some milliseconds; the others wait in line. So a batch of a
thousand jobs, or seventy such batches at once, hold up nobody else's request.
"""

import asyncio
import time
from collections import deque

#: Seconds of such work in one turn of the loop; the piece that goes over it is the last. Another request takes some
#: five turns, from its connection to its answer, and waits for such a slice in each.
SLICE = 0.005
#: How many of those in line are woken for one turn.
WOKEN = 8


class Turns:
    """The line of one event loop."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._line: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def take(self) -> None:
        """Return when there is time for one more piece of work. Do not await anything in it."""
        while not self._has_time():
            waiting = asyncio.get_running_loop().create_future()
            self._line.append(waiting)
            await waiting

    def _has_time(self) -> bool:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        self._schedule()
        return now - self._since < SLICE

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._since, self._scheduled = None, False
        for _ in range(min(WOKEN, len(self._line))):
            waiting = self._line.popleft()
            if not waiting.done():
                waiting.set_result(None)
        if self._line:
            self._schedule()
