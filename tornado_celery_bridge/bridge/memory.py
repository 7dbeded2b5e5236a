"""
Results in the memory of this process: a bridge for unit tests is told of each state as it is stored.

Whoever reads such a backend again and again misses what was replaced between two reads: a task that ends right after
its last progress would seem never to have made it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery
from celery.backends.cache import CacheBackend
from kombu.utils.encoding import bytes_to_str

from tornado_celery_bridge.bridge.listener import Listener
from tornado_celery_bridge.bridge.polling import MAX_KEPT, news_of, read_now
from tornado_celery_bridge.bridge.states import News

#: What is called with each state that is stored, in the thread that stores it; None for one that was removed.
_told: set[Callable[[str, News | None], None]] = set()


class MemoryBackend(CacheBackend):
    """Celery's own backend in memory, which tells what it stores."""

    def set(self, key: Any, value: Any) -> Any:
        """Store a value, and tell of it if it is a task's state."""
        stored = super().set(key, value)
        if (task_id := self._task_id(key)) is not None:
            self._tell(task_id, news_of(task_id, lambda: self.decode(value)))
        return stored

    def delete(self, key: Any) -> Any:
        """Remove a value, and tell of it if it was a task's state."""
        removed = super().delete(key)
        if (task_id := self._task_id(key)) is not None:
            self._tell(task_id, None)
        return removed

    def _task_id(self, key: Any) -> str | None:
        key = bytes_to_str(key)
        prefix: str = bytes_to_str(self.task_keyprefix)
        return key[len(prefix) :] if key.startswith(prefix) else None

    @staticmethod
    def _tell(task_id: str, news: News | None) -> None:
        for tell in tuple(_told):
            tell(task_id, news)


class MemoryListener(Listener):
    """
    Hears of each state, in the order in which they were stored.

    Args:
        app: The Celery app, whose result backend is :class:`MemoryBackend`.
    """

    connected = True

    def __init__(self, app: Celery) -> None:
        super().__init__()
        self._app = app
        #: What this loop has heard: not what the backend has, which may be a little newer.
        self._kept: OrderedDict[str, News] = OrderedDict()
        self._reading: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        _told.add(self._stored)

    async def close(self) -> None:
        _told.discard(self._stored)
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, News]:
        found = {task_id: self._kept[task_id] for task_id in task_ids if task_id in self._kept}
        others = [task_id for task_id in task_ids if task_id not in found]
        return found | (await asyncio.to_thread(lambda: read_now(self._app.backend, others)) if others else {})

    def _watched(self, task_id: str) -> None:
        if task_id in self._kept:
            self._loop.call_soon(self._tell_kept, task_id)
        else:  # stored before the bridge was opened, if at all
            task = asyncio.ensure_future(self._tell_stored(task_id))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    def _tell_kept(self, task_id: str) -> None:
        if task_id in self._kept:
            self.tell(task_id, self._kept[task_id])

    async def _tell_stored(self, task_id: str) -> None:
        for news in (await self.read([task_id])).values():
            if task_id not in self._kept:  # else it was told meanwhile
                self.tell(task_id, news)

    def _stored(self, task_id: str, news: News | None) -> None:  # in the thread that stores it
        try:
            self._loop.call_soon_threadsafe(self._heard, task_id, news)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _told.discard(self._stored)

    def _heard(self, task_id: str, news: News | None) -> None:
        self._kept.pop(task_id, None)
        if news is not None:
            self._kept[task_id] = news
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            self.tell(task_id, news)
