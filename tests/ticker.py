"""Watches that the loop goes on while a test runs."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

#: Seconds.
TICK = 0.005


@asynccontextmanager
async def ticking(usual: float = 0.02) -> AsyncIterator[None]:
    async with watched() as ticker:
        yield
    ticker.check(usual)


@asynccontextmanager
async def watched() -> AsyncIterator["Ticker"]:
    """Give a ticker that sees each turn of the loop in the block, its first and its last one too."""
    asyncio.get_running_loop().set_debug(False)  # debug mode itself costs milliseconds
    # The collector goes through everything that the whole suite has imported and kept: 0.1 s that are not ours.
    gc.collect()
    gc.freeze()
    ticker = Ticker()
    task = asyncio.ensure_future(ticker.run())
    try:
        await asyncio.sleep(0)  # its first tick has begun
        yield ticker
        await asyncio.sleep(2 * TICK)  # the tick that was under way ends: how late the last turn made it counts
    finally:
        task.cancel()
        await asyncio.wait([task])
        ticker.close()
        gc.unfreeze()


class Ticker:
    """
    Counts by how much each 5 ms tick of the loop came late, less what the machine withheld from this process.

    Whatever keeps the loop from its next turn counts: code on it that computes or blocks, or a thread that keeps the
    GIL. The kernel knows what does not: for how long threads of ours were ready to run while others ran (schedstat; of
    all threads, as one that has the GIL and no core holds up the loop), and for how long the whole machine was not run
    (its steal time, in ticks of 10 ms). So a crowded machine does not fail the test, and a call that blocks does.
    """

    def __init__(self) -> None:
        self.late: list[float] = []
        self._stat = os.open("/proc/stat", os.O_RDONLY)
        self._schedstats: dict[int, int] = {}
        self._waited: dict[int, float] = {}

    async def run(self) -> None:
        self._withheld()
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late = time.perf_counter() - due
            self.late.append(max(0.0, late - self._withheld()))

    def _withheld(self) -> float:
        """Return how many seconds our threads waited for a core, and the machine for its host, since last asked."""
        before, self._waited = self._waited, {-1: self._steal()}
        for thread in threading.enumerate():
            if thread.native_id:
                with suppress(OSError):  # it has ended
                    self._waited[thread.native_id] = self._wait_of(thread.native_id)
        # A thread that is new has waited for nothing before: it began since then.
        return sum(waited - before.get(thread, 0.0) for thread, waited in self._waited.items())

    def _wait_of(self, thread: int) -> float:
        if thread not in self._schedstats:
            self._schedstats[thread] = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
        return int(os.pread(self._schedstats[thread], 100, 0).split()[1]) / 1e9

    def _steal(self) -> float:
        return int(os.pread(self._stat, 200, 0).split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        for descriptor in (self._stat, *self._schedstats.values()):
            os.close(descriptor)

    def check(self, usual: float) -> None:
        """Seconds: none may be late by 0.1, and 999 of 1,000 by no more than *usual*."""
        late = sorted(self.late)
        assert len(late) > 40
        assert late[-1] < 0.1, late[-5:]
        assert late[int(len(late) * 0.999)] < usual or len(late) < 2000
