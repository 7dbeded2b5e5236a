"""
The audit log: who asked for a change, and what was answered.

It is in Redis streams of limited length, two for each key: submissions are far more than all else, so they have a
stream of their own and push out nothing else. Entries are cut, so that a key's streams have a bound in bytes as well.
Requests that were refused changed nothing, and anybody with a key can send any number of them: they are counted, by
key and status, and not stored. Entries that are lost while Redis is away are in the access log.
"""

import asyncio
import json
import logging
import re
import time
from collections import Counter, deque
from pathlib import Path
from typing import NamedTuple

from tornado_celery_bridge.base.lua import Commands, as_it_is, nothing
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable, dumps
from tornado_celery_bridge.ledger.calls import LUA
from tornado_celery_bridge.ledger.schema import GUARD
from tornado_celery_bridge.service.access.documents import AuditEntry, Refused
from tornado_celery_bridge.service.http.documents import rfc3339
from tornado_celery_bridge.service.http.problems import INVALID_CURSOR

_log = logging.getLogger(__name__)

#: The most entries of each key and kind that are kept (about 300 bytes each), that wait to be written, and in one step.
MOST, MOST_WAITING, STEP = 5_000, 10_000, 500
#: Characters of a path that an entry has.
MOST_CHARACTERS = 300
#: Seconds in which entries gather. One call to Redis for each entry would cost several times the entry's own 8 µs.
GATHERING = 0.05

_command = Commands(Path(__file__).parent / "lua", parts=[LUA], first=GUARD)
_add_entries = _command("add_entries", nothing)
_find_entries = _command("find_entries", as_it_is)
_CURSOR = re.compile(r"[0-9]{1,15}-[0-9]{1,15}", re.ASCII)


class Audit:
    """The log of one deployment, in the ledger's Redis."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: deque[_Row] = deque(maxlen=MOST_WAITING)
        self._refused: Counter[tuple[str, int]] = Counter()
        self._writing: asyncio.Task[None] | None = None

    def record(self, entry: AuditEntry, *, is_submission: bool) -> None:
        """Write an entry soon, together with other entries; of a request that was refused, count it."""
        key, status = entry["key"] or "", entry["status"]
        if 400 <= status < 500:
            self._refused[key, status] += 1
        else:
            entry |= {"path": _cut(entry["path"]), "target": _cut(entry["target"])}
            self._waiting.append(_Row(key, "submit" if is_submission else "other", dumps(entry)))
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        try:
            while self._waiting or self._refused:
                await asyncio.sleep(GATHERING)
                step = [self._waiting.popleft() for _ in range(min(len(self._waiting), STEP))]
                step += [_Row(key, str(status), str(times)) for (key, status), times in self._refused.items()]
                self._refused.clear()
                at = rfc3339(round(time.time() * 1000))
                try:
                    await self._ledger.redis.run(_add_entries(most=MOST, at=at, rows=step))
                except LedgerUnavailable as exc:
                    _log.warning("%d entries of the audit log are lost: %s", len(step), exc)
        finally:
            self._writing = None

    async def close(self) -> None:
        """Write the entries that are left."""
        if self._writing is not None:
            await self._writing

    async def find(self, limit: int, cursor: str | None) -> tuple[list[AuditEntry], str | None]:
        """Return entries, the newest first, and the cursor of the next page; None at the end. 400 for a bad cursor."""
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise INVALID_CURSOR("This cursor is not one of ours: begin without a cursor.")
        newest = "+" if cursor is None else f"({cursor}"
        found = await self._ledger.redis.run(_find_entries(most=limit + 1, newest=newest))
        found.sort(key=lambda each: _position(each[0]), reverse=True)
        shown = found[:limit]
        following = shown[-1][0].decode() if len(found) > len(shown) else None
        return [json.loads(entry) for _, entry in shown], following

    async def refused(self) -> list[Refused]:
        """Return how many requests of each key were refused, by status; those that were refused last come first."""
        names = (f"{self._ledger.redis.prefix}audit:{name}" for name in ("refused", "refused_at"))
        counts, last = await asyncio.gather(*(self._ledger.redis.call("HGETALL", name) for name in names))
        found: list[Refused] = [
            {"key": key.decode() or None, "status": int(status), "times": int(times), "last_at": last[name].decode()}
            for name, times in counts.items()
            if name in last
            for key, _, status in (name.partition(b" "),)
        ]
        return sorted(found, key=lambda each: each["last_at"], reverse=True)


class _Row(NamedTuple):
    """A row of ``add_entries``."""

    key: str
    kind: str
    entry: str


def _cut(path: str) -> str:
    return path if len(path) <= MOST_CHARACTERS else path[:MOST_CHARACTERS] + "…"


def _position(entry_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split(b"-")))
