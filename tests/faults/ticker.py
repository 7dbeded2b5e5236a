"""Watches that the loop goes on while a test runs."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def ticking(usual: float = 0.02) -> AsyncIterator[None]:
    asyncio.get_running_loop().set_debug(False)  # debug mode itself costs milliseconds
    # The collector goes through everything that the whole suite has imported and kept: 0.1 s that are not ours.
    gc.collect()
    gc.freeze()
    ticker = Ticker()
    task = asyncio.ensure_future(ticker.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        ticker.close()
        gc.unfreeze()
    ticker.check(usual)


class Ticker:
    """
    Counts by how much each 1 ms tick of the loop came late, less what the machine withheld from the loop.

    What is ours counts: code on the loop, or in a thread that keeps the GIL. What is not is known from the kernel: for
    how long the loop's thread was ready to run while others ran (its schedstat), for how long the whole machine was not
    run at all (its steal time, in ticks of 10 ms), and for how long at most any thread of ours did run: one that has
    the GIL and no core makes the loop late, and nobody's code did. A call that blocks is blockbuster's to find. So a
    crowded machine neither fails the test nor excuses anything.
    """

    def __init__(self) -> None:
        self.late: list[float] = []
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._stat = os.open("/proc/stat", os.O_RDONLY)

    async def run(self) -> None:
        withheld = self._withheld()
        while True:
            due, used = time.perf_counter() + 0.001, time.process_time()
            await asyncio.sleep(0.001)
            late, before, withheld = time.perf_counter() - due, withheld, self._withheld()
            self.late.append(max(0.0, min(late - (withheld - before), time.process_time() - used)))

    def _withheld(self) -> float:
        """Return for how many seconds this thread waited for a core, and this machine for its host."""
        _, waited, _ = os.pread(self._schedstat, 100, 0).split()
        steal = os.pread(self._stat, 200, 0).split(maxsplit=9)[8]
        return int(waited) / 1e9 + int(steal) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        os.close(self._schedstat)
        os.close(self._stat)

    def check(self, usual: float) -> None:
        """Seconds: none may be late by 0.1, and 999 of 1,000 by no more than *usual*."""
        late = sorted(self.late)
        assert len(late) > 200
        assert late[-1] < 0.1
        assert late[int(len(late) * 0.999)] < usual or len(late) < 2000
