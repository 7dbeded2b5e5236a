"""Jobs: accepting, reading, finding, cancelling and forgetting them."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.store import MAX_INLINE, Stored
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.attempts import Attempts, attempts_of
from tornado_celery_bridge.ledger.connection import Connection, Subject, ms
from tornado_celery_bridge.ledger.filters import EVERY, Filter
from tornado_celery_bridge.ledger.idempotency import KEY_LEASE, KEY_TTL
from tornado_celery_bridge.ledger.limits import taken
from tornado_celery_bridge.ledger.records import Acceptance, Gone, Job, JobItem, JobRecord, Page, Reservation

#: Seconds for which a forgotten job is remembered to have been.
REMEMBERED = 7 * 86_400.0
#: Jobs that one step of a sweep forgets, and that one page of a list looks at: some milliseconds of the server's time.
SWEEP_SIZE = 200
LOOKS = 2_000
#: Items of a job that are kept; the command ``item`` says so.
MAX_ITEMS = 1_000
#: Seconds for which a list of jobs is noted after it was last asked for.
LIST_TTL = 86_400.0
#: Lists of jobs that are kept of an owner.
MAX_LISTS = 200


class Jobs(Subject):
    """
    The jobs in the ledger.

    Args:
        redis: The ledger's connection.
        ttl: Seconds for which a job is kept after its end.

    .. versionadded:: 0.1.0
    """

    def __init__(self, redis: Connection, ttl: float) -> None:
        super().__init__(redis)
        #: Seconds for which a job is kept after its end.
        self.ttl = ttl

    async def accept(
        self,
        record: JobRecord,
        given: dict[str, Any] | list[Any] | Stored,
        *,
        message: Mapping[str, Any],
        delay: float = 0.0,
        max_unfinished: int | None = None,
        reservation: Reservation | None = None,
        unique: str = "",
        goes_on: str = "",
        size: int = 0,
    ) -> Acceptance:
        """
        Write a new job down, and who holds its idempotency key, in one step. From then on it will run: if nobody
        publishes it, or if its message is lost, a worker publishes *message*.

        Args:
            record: The job's record.
            given: Its input, or the blob that has it. The blob is kept for as long as the job.
            message: The signature of its task, as a mapping.
            delay: Seconds until it is due.
            max_unfinished: How many unfinished jobs its owner may have, with this one; None for any number.
            reservation: Its idempotency key, if the request has one.
            unique: While a job with the same text is unfinished, this one is not accepted. Empty for no such check.
            goes_on: The id of the job from whose checkpoint it goes on. Empty for a job that begins at the beginning.
            size: The bytes of the input, as far as they are known. A large one is encoded in a thread.

        Raises:
            TaskSwitchedOff: Its task takes no new jobs now.
            LedgerUnavailable: It may have been written all the same.
        """
        name, fingerprint = reservation or ("", "")
        if size > MAX_INLINE:
            texts = await asyncio.to_thread(lambda: (written(given), encoding.dumps(message)))
        else:
            texts = written(given), encoding.dumps(message)
        call = calls.accept(
            job_id=record.id,
            task=record.task,
            record=record.encode(),
            input=texts[0],
            owner=record.owner,
            ttl=ms(self.ttl),
            delay=ms(delay),
            most=max_unfinished,
            key=name,
            fingerprint=fingerprint,
            key_ttl=ms(KEY_TTL),
            key_lease=ms(KEY_LEASE),
            message=texts[1],
            unique=unique,
            callback=callback_of(record),
            goes_on=goes_on,
        )
        return taken(await self._redis.run(call))

    async def defer(self, job_id: str, most: int) -> bool:
        """
        Put a job that could not be published into the outbox: a worker publishes it once the broker is back.

        Args:
            job_id: The job's id.
            most: How many jobs may be there.

        Returns:
            Whether it was put there. If not, nothing has changed.
        """
        return await self._redis.run(calls.defer(job_id=job_id, most=most))

    async def withdraw(self, job_id: str, reservation: Reservation | None = None) -> None:
        """Forget a job that was not published, and let go of its idempotency key."""
        await self._redis.run(calls.withdraw(job_id=job_id, key=reservation.name if reservation else ""))

    async def get(self, job_id: str, *, most_bytes: int | None = None) -> Job | Gone | None:
        """
        Return a job; None if there was never a job with this id.

        Args:
            job_id: The job's id.
            most_bytes: A larger result, error or progress is left out. None: all are there.
        """
        return await self._redis.run(calls.read(job_id=job_id, most_bytes=most_bytes))

    async def attempts(self, job_id: str) -> Attempts | Gone | None:
        """Return a job with its attempts, without a large result; None if there was never a job with this id."""
        job = await self.get(job_id, most_bytes=MAX_INLINE)
        return await attempts_of(self._redis, job) if isinstance(job, Job) else job

    async def result_of(self, job_id: str) -> bytes:
        """Return the JSON of what a job returned, if it succeeded and that is not in a blob."""
        return await self._redis.call("GET", f"{self._redis.prefix}value:{job_id}") or b"null"

    async def items(self, job_id: str, after: int = 0, most: int = MAX_ITEMS) -> list[JobItem]:
        """
        Return what a job's task, a generator, has yielded, in order.

        The last ``MAX_ITEMS`` items are kept, and of them those that have 1 MiB together; for as long as the job.

        Args:
            job_id: The job's id.
            after: Only those after this event's number, such as the ``id`` of an item.
            most: At most so many.
        """
        return await self._redis.run(calls.items(job_id=job_id, after=after, most=most))

    async def input_of(self, job_id: str) -> bytes | None:
        """
        Return the JSON of a job's exact input; None for a job that is not there.

        If the input is large, the JSON is a string (not an object or an array): the name of its blob.
        """
        given: bytes | None = await self._redis.call("GET", f"{self._redis.prefix}input:{job_id}")
        return given

    async def find(
        self,
        filter: Filter = EVERY,
        *,
        limit: int = 50,
        cursor: str | None = None,
        most_bytes: int | None = None,
        page_bytes: int | None = None,
        seconds: float = 0.0,
    ) -> Page:
        """
        Return jobs, newest first. A page may have fewer than *limit*, even none, and still not be the last.

        Each call to Redis looks at so many jobs, in some milliseconds. There is one, or as many as *seconds* let.

        Args:
            filter: Which jobs.
            limit: At most so many jobs.
            cursor: The cursor of the page before.
            most_bytes: A larger result, error or progress is left out; 0: all results are. None: all are there.
            page_bytes: The page ends with the job that makes it larger. None: it may be of any size.
            seconds: For how long to go on, while the page is not full.

        Raises:
            ValueError: The cursor is not one of a page.
        """
        found: list[Job] = []
        size, asked, deadline = 0, filter.for_lua(), time.monotonic() + seconds
        while True:
            newest, _, after = cursor.partition("~") if cursor else ("", "", "")
            if cursor and not (newest.isascii() and newest.isdigit() and after):
                raise ValueError("not a cursor")
            where = {"filter": asked, "newest": newest, "after": after, "looks": LOOKS, "most_bytes": most_bytes}
            room = None if page_bytes is None else page_bytes - size
            page = await self._redis.run(calls.find(most=limit - len(found), page_bytes=room, **where))
            found, size, cursor = [*found, *page.jobs], size + page.size, page.cursor
            is_full = len(found) >= limit or (page_bytes is not None and size > page_bytes)
            if cursor is None or is_full or time.monotonic() >= deadline:
                return Page(found, cursor, size)

    async def cancel(self, job_id: str, *, unless_begun: bool = False, grace: float | None = None) -> str | None:
        """
        Cancel a job for good. If it has not begun, it ends here; if it runs, it is told when it next reports.

        Args:
            job_id: The job's id.
            unless_begun: Do nothing if it runs.
            grace: Seconds after which its worker ends its process, if it still runs; None for never.

        Returns:
            The state that it was in; None if there is no such job.
        """
        return await self._redis.run(calls.cancel(job_id=job_id, unless_begun=unless_begun, grace=ms(grace or 0)))

    async def delete(self, job_id: str) -> str:
        """
        Forget a job that has ended, with its input, result, events, blobs, and Celery's own result in the same Redis.

        Returns:
            Why it is not deleted: ``gone``, ``not-ended``, ``workflow-not-ended`` or ``callback-waiting`` (its callback
            was not made yet); empty if it is.
        """
        return await self._redis.run(calls.delete_job(job_id=job_id, remembered=ms(REMEMBERED)))

    async def sweep(self) -> int:
        """Forget finished jobs whose time is over; return how many. Any number of processes may do this."""
        return await self._redis.run(calls.sweep(remembered=ms(REMEMBERED), most=SWEEP_SIZE))

    async def expire(self) -> int:
        """End jobs that have expired and have not begun; return how many. Any number of processes may do this."""
        return await self._redis.run(calls.expire(most=SWEEP_SIZE))

    async def pace(self, task: str, queue: str) -> tuple[float | None, float | None]:
        """Return how many seconds jobs of *task* have waited in *queue* and run of late, as means; None if none has."""
        return await self._redis.run(calls.pace(task=task, queue=queue))

    async def note_list(self, owner: str, ids: Sequence[str]) -> str:
        """
        Keep an owner's list of jobs for ``LIST_TTL`` seconds; return its name. The same list has the same name.

        Of an owner's lists the last ``MAX_LISTS`` are kept.
        """
        text = ",".join(ids)
        name = _hash(text)
        ttl = ms(LIST_TTL)
        await self._redis.run(calls.note_list(owner=_hash(owner), name=name, ids=text, ttl=ttl, most=MAX_LISTS))
        return name

    async def noted_list(self, owner: str, name: str) -> list[str] | None:
        """Return the owner's list of jobs with this name; None if it is not kept, or is another's."""
        key = f"{self._redis.prefix}list:{_hash(owner)}:{name}"
        text: bytes | None = await self._redis.call("GETEX", key, "PX", ms(LIST_TTL))
        return None if text is None else text.decode().split(",")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def callback_of(record: JobRecord) -> str:
    """Return how a job calls back: the delivery's id, which no other job has, a space, owner/receiver; '' if not."""
    url = record.callback_url
    return f"msg_{uuid.uuid4().hex} {record.owner}/{urlsplit(url).netloc.lower()}" if url else ""


def written(given: dict[str, Any] | list[Any] | Stored) -> str:
    """Return an input as it is stored: its JSON, or the name of its blob as a JSON string."""
    return dumps(given.name if isinstance(given, Stored) else given)
