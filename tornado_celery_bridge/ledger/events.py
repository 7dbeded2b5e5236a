"""
Follows the events of jobs, any number of them, over one connection.

Theory of operation. Every event has a number, counted for each job without gaps. In one step it is appended to the
job's history and published with its number. A follower (:class:`JobEvents`) knows the number that comes next. When its
subscription is confirmed, and that is so again each time the connection was lost, it reads the history from there on.
What is published while it reads is set aside until it has read. So it gets each event once and in order, whatever was
missed. A follower whose consumer is slow ignores new events, and reads them in the history when it has caught up.
"""

import asyncio
import logging
from collections import deque
from types import TracebackType
from typing import Self

from tornado_celery_bridge.base.redis import ConnectionPool
from tornado_celery_bridge.base.subscriber import Subscriber
from tornado_celery_bridge.exceptions import BridgeError, WaitersSaturated
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Connection, Subject
from tornado_celery_bridge.ledger.records import Event

log = logging.getLogger(__name__)

#: Followers at once.
MAX_FOLLOWERS = 100_000
#: Events that wait for a follower's consumer; further ones are read in the history later.
MAX_BEHIND = 200
#: Seconds between two attempts to read a history.
RETRY = 0.25


class Events(Subject):
    """
    The events of the jobs in the ledger.

    Args:
        redis: The ledger's connection.
        pool: Makes the one connection by which it hears of events.

    .. versionadded:: 0.1.0
    """

    def __init__(self, redis: Connection, pool: ConnectionPool) -> None:
        super().__init__(redis)
        self._subscriber = Subscriber(pool, self._subscribed, self._published)
        self._followers: dict[bytes, set[JobEvents]] = {}
        #: How many follow events now.
        self.following = 0
        self._started = False

    async def close(self) -> None:
        """End, and let go of the connection."""
        for followers in list(self._followers.values()):
            for follower in list(followers):
                follower.close()
        await self._subscriber.close()

    def follow(self, job_id: str, after: int = 0) -> "JobEvents":
        """
        Return an async iterator of a job's events that come after number *after*, up to its end; close it.

        For a job that is there, or a workflow, which has one event: its end. If some events are no longer kept, one
        ``snapshot`` comes in their place.

        Raises:
            WaitersSaturated: Too many follow already.
        """
        if self.following >= MAX_FOLLOWERS:
            raise WaitersSaturated("too many follow jobs", task_id=job_id, retry_after=1.0)
        if not self._started:
            self._started = True
            self._subscriber.start()
        channel = f"{self._redis.prefix}events:{job_id}".encode()
        follower = JobEvents(self, channel, job_id, after)
        self._followers.setdefault(channel, set()).add(follower)
        self.following += 1
        self._subscriber.subscribe(channel)
        return follower

    def unfollow(self, follower: "JobEvents") -> None:
        """Tell *follower* no more."""
        followers = self._followers.get(follower.channel, set())
        if follower not in followers:
            return
        followers.remove(follower)
        self.following -= 1
        if not followers:
            del self._followers[follower.channel]
            self._subscriber.unsubscribe(follower.channel)

    def _subscribed(self, channel: bytes) -> None:
        for follower in self._followers.get(channel, ()):
            follower.subscribed()

    def _published(self, channel: bytes, message: bytes) -> None:
        number, kind, data = message.decode().split(" ", 2)
        event = Event(int(number), kind, data)
        for follower in self._followers.get(channel, ()):
            follower.published(event)

    async def read(self, job_id: str, after: int) -> tuple[list[Event], bool]:
        """
        Return the events after number *after*, with one snapshot in the place of those that are not kept.

        Returns:
            The events, and whether there may be more of them.
        """
        last, first, kept = await self._redis.run(calls.events(job_id=job_id, after=after, most=MAX_BEHIND))
        if first > last > after:  # the job ended some time ago, and no event is kept
            return [Event(last - 1, "snapshot", "{}"), Event(last, "end", "{}")], False
        events: list[Event] = []
        if first > after + 1:
            events.append(Event(first - 1, "snapshot", "{}"))
        for number, event in enumerate(kept, max(first, after + 1)):
            kind, _, data = event.partition(" ")
            if kind == "snapshot" and events and events[-1].kind == kind:
                events.pop()
            events.append(Event(number, kind, data))
        return events, len(kept) >= MAX_BEHIND


class JobEvents:
    """An async iterator of one job's events, for one consumer, each once and in order. Close it, or use ``with``."""

    def __init__(self, source: Events, channel: bytes, job_id: str, after: int) -> None:
        self.channel = channel
        self._job_id = job_id
        self._source = source
        self._last = after
        self._events: deque[Event] = deque()
        self._subscribed = False
        #: Published while the history is read.
        self._aside: list[Event] = []
        #: Whether the next published event follows the last one that was taken.
        self._live = False
        self._reading: asyncio.Task[None] | None = None
        self._again = False
        self._ended = False
        self._error: Exception | None = None
        self._wake = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Follow no longer."""
        self._source.unfollow(self)
        self._ended = True
        if self._reading is not None:
            self._reading.cancel()
        self._wake.set()

    def published(self, event: Event) -> None:
        """Take an event that was published."""
        if self._live:
            self._take(event)
        elif self._reading is not None:
            self._aside.append(event)

    def subscribed(self) -> None:
        """Read what was missed: the subscription is confirmed."""
        self._subscribed = True
        self._live = False
        if self._reading is not None:
            self._again = True
        elif not self._ended:
            self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        try:
            while True:
                self._again = False
                self._aside.clear()
                try:
                    events, is_more = await self._source.read(self._job_id, self._last)
                except BridgeError as exc:
                    log.info("the events of a job could not be read: %s", exc)
                    await asyncio.sleep(RETRY)
                    continue
                for event in events:
                    self._take(event)
                if is_more:  # read on when these are consumed
                    return
                if not self._again:
                    break
            self._live = True
            for event in self._aside:
                if not self._live:  # the consumer is behind: the history has this one, and what comes after it
                    break
                self._take(event)
            self._aside.clear()
        except Exception as exc:  # what is stored is not what we wrote: the consumer gets the error
            self._error = exc
        finally:
            self._reading = None
            self._wake.set()

    def _take(self, event: Event) -> None:
        if event.number <= self._last:
            return
        if self._live and (len(self._events) >= MAX_BEHIND or event.number > self._last + 1):
            self._live = False  # the history has it
            return
        self._last = event.number
        self._events.append(event)
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            self._wake.clear()
            if self._subscribed and not self._live and self._reading is None:  # the consumer was slow
                self._reading = asyncio.ensure_future(self._read())
            await self._wake.wait()
        event = self._events.popleft()
        if event.kind == "end":
            self._ended = True
        return event
