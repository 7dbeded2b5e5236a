"""
The audit log: who asked for a change, and what was answered.

It is a Redis stream of limited length. Submissions are far more than all else, so they have a stream of their own and
push out nothing else. Entries that are lost while Redis is away are in the access log.
"""

import asyncio
import heapq
import json
import logging
import re
from collections import deque
from pathlib import Path

from tornado_celery_bridge.base.lua import Commands, nothing
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable, dumps
from tornado_celery_bridge.ledger.calls import LUA
from tornado_celery_bridge.service.access.documents import AuditEntry
from tornado_celery_bridge.service.http.problems import INVALID_CURSOR

_log = logging.getLogger(__name__)

#: The most entries of each kind that are kept (about 300 bytes each), that wait to be written, and in one step.
MOST, MOST_WAITING, STEP = 20_000, 10_000, 500
#: Seconds in which entries gather. One call to Redis for each entry would cost several times the entry's own 8 µs.
GATHERING = 0.05

_add_entries = Commands(Path(__file__).parent / "lua", parts=[LUA])("add_entries", nothing)
_CURSOR = re.compile(r"[0-9]{1,15}-[0-9]{1,15}", re.ASCII)


class Audit:
    """The log of one deployment, in the ledger's Redis."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: deque[tuple[bool, str]] = deque(maxlen=MOST_WAITING)
        self._writing: asyncio.Task[None] | None = None
        self._keys = (f"{ledger.redis.prefix}audit", f"{ledger.redis.prefix}audit:submit")

    def record(self, entry: AuditEntry, *, is_submission: bool) -> None:
        """Write an entry soon, together with other entries."""
        self._waiting.append((is_submission, dumps(entry)))
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GATHERING)
                step = [self._waiting.popleft() for _ in range(min(len(self._waiting), STEP))]
                try:
                    await self._ledger.redis.run(_add_entries(most=MOST, rows=step))
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
        pages = await asyncio.gather(
            *(self._ledger.redis.call("XREVRANGE", key, newest, "-", "COUNT", limit + 1) for key in self._keys)
        )
        found = list(heapq.merge(*pages, key=lambda each: _position(each[0]), reverse=True))
        shown = found[:limit]
        # The id at which a page ends may be in both streams.
        shown += [each for each in found[limit:] if each[0] == shown[-1][0]]
        following = shown[-1][0].decode() if len(found) > len(shown) else None
        return [json.loads(fields[b"entry"]) for _, fields in shown], following


def _position(entry_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split(b"-")))
