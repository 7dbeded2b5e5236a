"""Learns of results if the backend's own client blocks: one thread for all waiters of the process."""

import asyncio
import functools
import threading
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from celery import Celery
from celery.backends.base import BaseKeyValueStoreBackend
from celery.states import PENDING
from kombu import Consumer, Queue

from tornado_celery_bridge.base.repeating import Repeating
from tornado_celery_bridge.bridge.listener import Listener
from tornado_celery_bridge.bridge.states import News, meta_of
from tornado_celery_bridge.exceptions import ResultBackendUnavailable, ResultError, message_of
from tornado_celery_bridge.transports.publisher import connect

#: The most seconds for one read.
READ_TIMEOUT = 2.0
#: Tasks in one query.
CHUNK = 500
#: States that came while nobody waited, kept for a later waiter: replies can't be read again.
MAX_KEPT = 10_000
#: Seconds after which what can't be read is read once more.
AGAIN = 0.1


class _ThreadListener(Listener):
    """A listener with a daemon thread that asks again and again."""

    connected = False

    def __init__(self, app: Celery) -> None:
        super().__init__()
        self._app = app
        self._thread = Repeating("tornado_celery_bridge results", self._work, failed=self._failed)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.stop, READ_TIMEOUT)

    def _failed(self, exc: BaseException) -> None:  # from the client of any backend
        self.connected = False

    @abstractmethod
    def _work(self) -> None:
        """Learn of some states, in the thread; raises if the backend fails."""

    def _told(self, news: Sequence[tuple[str, News]]) -> None:
        for task_id, told in news:
            self.tell(task_id, told)

    def _call_loop(self, news: Sequence[tuple[str, News]]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._told, news)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._thread.stop()


class PollingListener(_ThreadListener):
    """
    Reads from any backend, for all waiters together.

    Args:
        app: The Celery app. Each thread that reads uses its own ``app.backend``.
        interval: Seconds between two rounds.
    """

    def __init__(self, app: Celery, *, interval: float) -> None:
        super().__init__(app)
        self._interval = interval
        self._last: dict[str, News] = {}
        self._again: set[str] = set()
        self._wanted = threading.Event()

    async def close(self) -> None:
        self._thread.stop()
        self._wanted.set()
        await super().close()

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, News]:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                return await asyncio.to_thread(lambda: read_now(self._app.backend, task_ids))
        except Exception as exc:  # of any backend's own client
            raise ResultBackendUnavailable(f"the result backend did not answer: {message_of(exc)}") from exc

    def _watched(self, task_id: str) -> None:
        self._again.add(task_id)
        self._wanted.set()

    def _unwatched(self, task_id: str) -> None:
        if not self._watchers:
            self._wanted.clear()

    def _work(self) -> None:
        self._wanted.wait()
        watched = list(self._watchers)
        again, self._again = self._again, set()
        last, self._last = self._last, {}
        for start in range(0, len(watched), CHUNK):
            found = read_now(self._app.backend, watched[start : start + CHUNK])
            self._last.update(found)
            news = [(key, each) for key, each in found.items() if key in again or _differs(last.get(key), each)]
            if news:
                self._call_loop(news)
        self.connected = True
        self._thread.rest(self._interval)


class RpcListener(_ThreadListener):
    """
    Consumes the reply queues of ``rpc://``. It learns only of what this process sent.

    Celery has one reply queue for each thread; :meth:`consume` adds the publisher thread's.

    Args:
        app: The Celery app.
        backend: Its result backend; any thread's.
    """

    def __init__(self, app: Celery, backend: Any) -> None:
        super().__init__(app)
        self._backend = backend
        self._queues: dict[str, Queue] = {}
        self._added = threading.Event()
        self._kept: OrderedDict[str, News] = OrderedDict()

    def consume(self, reply_queue: str) -> None:
        """Also consume *reply_queue*. Any thread may call this."""
        self._queues[reply_queue] = self._backend.Queue(
            reply_queue,
            self._backend.exchange,
            reply_queue,
            durable=True,
            auto_delete=True,
            expires=self._backend.expires,
        )
        self._added.set()

    async def read(self, task_ids: Sequence[str]) -> Mapping[str, News]:
        return {task_id: self._kept[task_id] for task_id in task_ids if task_id in self._kept}

    def _watched(self, task_id: str) -> None:
        if task_id in self._kept:
            self._loop.call_soon(self._told, [(task_id, self._kept[task_id])])

    def _told(self, news: Sequence[tuple[str, News]]) -> None:
        for task_id, told in news:
            self._kept[task_id] = told
            self._kept.move_to_end(task_id)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        super()._told(news)

    def _work(self) -> None:
        self._added.wait(READ_TIMEOUT)
        self._added.clear()
        if not self._queues:
            return
        with connect(self._app) as connection, connection.channel() as channel:
            consumer = Consumer(
                channel,
                list(self._queues.values()),
                accept=self._backend.accept,
                no_ack=True,
                on_message=self._reply,
            )
            with consumer:
                self.connected = True
                while not self._thread.stopping and not self._added.is_set():
                    try:
                        connection.drain_events(timeout=0.5)
                    except TimeoutError:
                        continue

    def _reply(self, message: Any) -> None:
        task_id = message.properties.get("correlation_id")
        if isinstance(task_id, str):
            self._call_loop([(task_id, news_of(task_id, lambda: message.payload))])


def read_now(backend: Any, task_ids: Iterable[str]) -> dict[str, News]:
    """Return what *backend* has. What can't be read is read twice: a file may be written just now."""
    found = _read_once(backend, list(task_ids))
    if unreadable := [task_id for task_id, news in found.items() if isinstance(news, ResultError)]:
        time.sleep(AGAIN)
        found |= _read_once(backend, unreadable)
    return found


def _read_once(backend: Any, task_ids: list[str]) -> dict[str, News]:
    """Return what *backend* has: by one query if it is a store of keys and values, else by one for each task."""
    if isinstance(backend, BaseKeyValueStoreBackend):
        keys = [backend.get_key_for_task(task_id) for task_id in task_ids]
        values = backend.mget(keys)
        payloads = [values.get(key) for key in keys] if hasattr(values, "get") else values
        return {
            task_id: news_of(task_id, functools.partial(backend.decode, payload))
            for task_id, payload in zip(task_ids, payloads, strict=True)
            if payload is not None
        }
    read = functools.partial(backend.get_task_meta, cache=False)
    found = {task_id: news_of(task_id, functools.partial(read, task_id)) for task_id in task_ids}
    if any(isinstance(news, ResultError) for news in found.values()):
        read("no-such-task")  # raises if it is the backend's fault, and not that of what it has
    return {
        task_id: news for task_id, news in found.items() if isinstance(news, ResultError) or news["status"] != PENDING
    }


def news_of(task_id: str, read: Callable[[], Any]) -> News:
    """Return a state that *read* returns, or the error that says that it can't be read."""
    try:
        return meta_of(task_id, read)
    except ResultError as exc:
        return exc


def _differs(before: News | None, now: News) -> bool:
    """Return whether there is news: an error is no news twice, and values of the tasks' own may not be comparable."""
    if isinstance(now, ResultError):
        return not isinstance(before, ResultError)
    try:
        return bool(before != now)
    except Exception:
        return True
