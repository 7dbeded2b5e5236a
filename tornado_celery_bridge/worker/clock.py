"""The time of the ledger's server: workers on several machines tell by one clock what is due and what has expired."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class ServerClock:
    """How far this machine's clock is from the server's, as it was measured last."""

    #: Seconds by which the difference may be measured wrongly, or is of no matter.
    TOLERANCE = 0.5

    def __init__(self) -> None:
        #: Seconds by which this machine's clock is behind the server's; negative if it is ahead.
        self.behind = 0.0

    def measure(self, ask: Callable[[], float]) -> None:
        """Ask the server for its time, in seconds since 1970."""
        before = time.time()
        told = ask()
        self.behind = told - (before + time.time()) / 2

    @property
    def off(self) -> timedelta:
        """What to add to this machine's time to have the server's."""
        return timedelta(seconds=self.behind if abs(self.behind) > self.TOLERANCE else 0.0)

    def now(self) -> datetime:
        """Return the server's time."""
        return datetime.now(UTC) + self.off


#: This worker's, which its keeper measures.
CLOCK = ServerClock()
