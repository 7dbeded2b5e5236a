"""
Limits of a key: its requests, which are counted in Redis for all processes together, and the jobs that it follows.

What a process has for all keys together, connections of its own loop and its memory, is counted in that process.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from tornado_celery_bridge.base.lua import Commands, as_it_is
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.schema import GUARD
from tornado_celery_bridge.service.http.problems import Kind

TOO_MANY_FOLLOWED = Kind("too-many-followed", 429, "The key follows as many jobs, in this process, as it may.")

_WINDOWS = {"s": 1, "m": 60, "h": 3600}
_RATE = re.compile(r"([1-9][0-9]{0,5})/([smh])", re.ASCII)

_take_request = Commands(Path(__file__).parent / "lua", first=GUARD)("take_request", as_it_is)


class Rate(NamedTuple):
    """A number of requests in a window of seconds. They may come at once; the allowance grows back evenly."""

    requests: int
    window: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Return the rate that ``10/s``, ``600/m`` or ``5000/h`` stands for.

        Raises:
            ValueError: It is something else.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError("should be a number of requests, at most 999999, and a unit: 10/s, 600/m or 5000/h")
        return cls(int(match[1]), _WINDOWS[match[2]])

    def __str__(self) -> str:
        unit = {seconds: name for name, seconds in _WINDOWS.items()}[self.window]
        return f"{self.requests}/{unit}"

    @property
    def interval(self) -> int:
        """Microseconds after which one used request becomes available again."""
        return max(1, self.window * 1_000_000 // self.requests)


class Following:
    """How many jobs the callers follow now in this process: by streams of events, and by requests that wait."""

    def __init__(self) -> None:
        self._followed: Counter[str] = Counter()

    @contextmanager
    def hold(self, owner: str, most: int | None, count: int = 1) -> Iterator[None]:
        """
        Count jobs as followed by an owner while the block runs.

        Args:
            owner: Who follows them, by whichever of their keys.
            most: How many they may follow, by the key that asks, with these; None for any number.
            count: How many jobs.

        Raises:
            Problem: 429.
        """
        if most is not None and self._followed[owner] + count > most:
            detail = f"With this key an owner follows at most {most:,} jobs at a time: end a stream, or a wait, first."
            raise TOO_MANY_FOLLOWED(detail, headers={"Retry-After": "1"})
        self._followed[owner] += count
        try:
            yield
        finally:
            self._followed[owner] -= count
            if not self._followed[owner]:
                del self._followed[owner]


class Allowance(NamedTuple):
    """What is left of a rate."""

    rate: Rate
    is_granted: bool
    remaining: int
    #: Seconds until one more request is available.
    wait: int

    @property
    def headers(self) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-11."""
        return {
            "RateLimit-Policy": f'"key";q={self.rate.requests};w={self.rate.window}',
            "RateLimit": f'"key";r={self.remaining};t={self.wait}',
        }


async def take(ledger: Ledger, key_id: str, rate: Rate, owed: int | None = None) -> Allowance:
    """
    Take one request from a key's allowance, in one round trip; or so many as are *owed*, which is never refused.

    Raises:
        LedgerUnavailable: It may have been taken all the same.
    """
    call = _take_request(key_id=key_id, interval=rate.interval, whole=rate.interval * rate.requests, owed=owed)
    granted, remaining, wait = await ledger.redis.run(call)
    return Allowance(rate, bool(granted), remaining, math.ceil(wait / 1_000_000))
