"""Limits the requests of a key. They are counted in Redis, for all processes together."""

import math
import re
from typing import NamedTuple, Self

from tornado_celery_bridge.ledger import Ledger

__all__ = ("Allowance", "Rate", "take")

_WINDOWS = {"s": 1, "m": 60, "h": 3600}
_RATE = re.compile(r"([1-9][0-9]{0,5})/([smh])", re.ASCII)

# The generic cell rate algorithm: one time is stored for each key, at which its allowance will be full again. Times are
# microseconds of Redis's own clock. A refused request changes nothing.
_TAKE = """
local interval, whole = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local left, taken = whole - (full_at - now), 0
if left >= interval then
    left, taken = left - interval, 1
    redis.call('SET', KEYS[1], string.format('%.0f', full_at + interval), 'PX', math.ceil((whole - left) / 1000))
end
local remaining = math.floor(left / interval)
return {taken, remaining, (remaining + 1) * interval - left}
"""


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


async def take(ledger: Ledger, key_id: str, rate: Rate) -> Allowance:
    """
    Take one request from a key's allowance, in one round trip.

    Raises:
        LedgerUnavailable: It may have been taken all the same.
    """
    whole = rate.interval * rate.requests
    granted, remaining, wait = await ledger.redis.call(
        "EVAL", _TAKE, 1, f"{ledger.redis.prefix}rate:{key_id}", rate.interval, whole
    )
    return Allowance(rate, bool(granted), remaining, math.ceil(wait / 1_000_000))
