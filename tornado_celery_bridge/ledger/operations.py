"""
Operations: what is done with all jobs that a filter fits, in bounded steps.

An operation is a record in Redis with its filter, its place in the list of jobs and its counts. A step takes some
milliseconds of the server and is noted in the step itself. So whoever dies, no job is acted on twice and none is
counted twice; another process goes on. To try jobs again, somebody has to submit them: each gets an id that follows
from the operation's and the job's, so that doing the same step again makes no second job.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject, ms
from tornado_celery_bridge.ledger.filters import Filter
from tornado_celery_bridge.ledger.jobs import REMEMBERED

Action = Literal["cancel", "retry", "delete"]

#: Seconds for which nobody else carries on an operation, after each step.
LEASE = 10.0
#: Jobs that one step acts on, and that it looks at.
STEP, LOOKS = 50, 1_000
#: Who has asked for an operation that somebody with access to the ledger itself began.
BY_LEDGER = "ledger"
#: Seconds for which an operation is kept after its end, and how many of an owner are kept.
KEPT, MOST_KEPT = 7 * 86_400.0, 100
#: Seconds that whoever carries on operations gives to one of them, before it looks at the others.
TURN = 1.0
#: Seconds until an operation that has to wait is tried again.
PAUSE = 2.0


class Waits(Exception):
    """
    Raised by whoever submits jobs for an operation: nothing is wrong with the job, but it can't be submitted now.

    The step is done again later. The message says what the operation waits for.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    What is done with all jobs that a filter fits, and how far it is. Times are milliseconds since 1970.

    .. versionadded:: 0.1.0
    """

    id: str
    action: Action
    filter: Filter
    #: Who has asked for it; empty where there are no owners.
    owner: str
    #: What tells what the owner may do, as whoever began it has noted it.
    by: str
    #: Whether the jobs are only counted.
    dry_run: bool
    #: ``RUNNING``, ``DONE`` or ``CANCELLED``: then it has not come to all jobs.
    state: str
    created_at: int
    finished_at: int | None
    #: How many jobs it has looked at, and how many there were to look at as it began, about.
    looked: int
    total: int
    #: How many of them fit the filter.
    matched: int
    #: How many of these were cancelled, submitted again or deleted; in a dry run, would be.
    done: int
    #: How many were left out, for each reason.
    skipped: dict[str, int]
    #: What it waits for, or why it was cancelled.
    why: str | None

    @classmethod
    def of_hash(cls, operation_id: str, found: dict[str, str]) -> "Operation":
        """Return the operation of a hash."""
        skipped = {name[len("skipped ") :]: int(many) for name, many in found.items() if name.startswith("skipped ")}
        action: Action = found["action"]  # type: ignore[assignment]
        return cls(
            id=operation_id,
            action=action,
            filter=Filter.decode(found["filter"]),
            owner=found["owner"],
            by=found["by"],
            dry_run=found["dry_run"] != "",
            state=found["state"],
            created_at=int(found["created_at"]),
            finished_at=int(found["finished_at"]) if "finished_at" in found else None,
            looked=int(found["looked"]),
            total=int(found["total"]),
            matched=int(found["matched"]),
            done=int(found["done"]),
            skipped=skipped,
            why=found.get("why") or found.get("waits"),
        )


#: Submits a job again, under an id. Returns why it is refused for good; None if it is submitted. May raise Waits.
Retry = Callable[[Operation, str, str], Awaitable[str | None]]


class Operations(Subject):
    """
    The operations in the ledger.

    .. versionadded:: 0.1.0
    """

    async def begin(
        self,
        action: Action,
        filter: Filter,
        *,
        owner: str = "",
        by: str = "",
        dry_run: bool = False,
        grace: float | None = None,
        mine: bool = False,
    ) -> Operation | None:
        """
        Note an operation. It is done by whoever calls :meth:`carry`, and by the service's processes.

        Args:
            action: ``cancel``, ``retry`` or ``delete``.
            filter: Which jobs.
            owner: Who asks for it.
            by: What tells later what they may do.
            dry_run: Only count the jobs.
            grace: To cancel: seconds after which the worker ends the process of a job that still runs; None for never.
            mine: Whether the caller carries it on.

        Returns:
            The operation; None if the owner has as many under way as are kept.

        Raises:
            LedgerUnavailable: It may be noted all the same.
        """
        operation_id = str(uuid.uuid4())
        call = calls.begin_operation(
            operation_id=operation_id,
            owner=owner,
            action=action,
            filter=filter.encode(),
            asked=filter.for_lua(),
            dry_run=dry_run,
            grace=ms(grace or 0),
            by=by,
            kept=MOST_KEPT,
            lease=ms(LEASE) if mine else 0,
        )
        return await self.get(operation_id) if await self._redis.run(call) else None

    async def get(self, operation_id: str) -> Operation | None:
        """Return an operation; None if there is none of this id, or it is no longer kept."""
        found = await self._redis.call("HGETALL", f"{self._redis.prefix}operation:{operation_id}")
        if not found:
            return None
        return Operation.of_hash(operation_id, {name.decode(): each.decode() for name, each in found.items()})

    async def last(self, owner: str | None = None, most: int = MOST_KEPT) -> list[Operation]:
        """Return the last operations, the newest first: of an *owner*, or of everybody."""
        name = "operations" if owner is None else f"operations:of:{owner}"
        key = f"{self._redis.prefix}{name}"
        found = await self._redis.call("ZREVRANGEBYSCORE", key, "+inf", "-inf", "LIMIT", 0, most)
        known = await asyncio.gather(*(self.get(each.decode()) for each in found))
        return [each for each in known if each is not None]

    async def cancel(self, operation_id: str, why: str) -> bool:
        """End an operation before it has come to all jobs; return whether it was under way. What is done stays done."""
        return await self._redis.run(calls.end_operation(operation_id=operation_id, why=why, keep=ms(KEPT)))

    async def claim(self) -> Operation | None:
        """Return the operation that has waited longest for somebody who carries it on; None if there is none."""
        found = await self._redis.run(calls.claim_operation(lease=ms(LEASE)))
        return None if found is None else await self.get(found)

    async def carry(self, operation: Operation, retry: Retry, *, seconds: float = TURN) -> None:
        """
        Do steps of an operation for so many *seconds*, or until it has ended or has to wait.

        After each step it rests for as long as the step took: so it takes half of one connection's time at the most.

        Args:
            operation: Which.
            retry: What submits a job again.
            seconds: Then somebody else may go on.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begun = time.monotonic()
            try:
                if not await self._step(operation, retry):
                    return
            except Waits as exc:
                await self._let(operation, PAUSE, str(exc))
                return
            await asyncio.sleep(time.monotonic() - begun)
        await self._let(operation, 0.0, "")

    async def _let(self, operation: Operation, pause: float, waits: str) -> None:
        await self._redis.run(calls.let_operation(operation_id=operation.id, pause=ms(pause), waits=waits))

    async def _step(self, operation: Operation, retry: Retry) -> bool:
        """Do a step; return whether there may be more."""
        call = calls.operate(
            operation_id=operation.id, most=STEP, looks=LOOKS, lease=ms(LEASE), remembered=ms(REMEMBERED), keep=ms(KEPT)
        )
        state, found = await self._redis.run(call)
        if found is None:
            return state == "RUNNING"
        refusals = await asyncio.gather(
            *(retry(operation, job_id, made_id) for job_id, made_id in found.jobs),
            return_exceptions=True,
        )
        for each in refusals:
            if isinstance(each, BaseException):
                raise each
        skipped = Counter(found.skipped) + Counter(why for why in refusals if isinstance(why, str))
        noted = calls.note_step(
            operation_id=operation.id,
            newest=found.newest,
            after=found.after,
            next_newest=found.next_newest,
            next_after=found.next_after,
            looked=found.looked,
            matched=found.matched,
            done=refusals.count(None),
            skipped=dumps(skipped),
            keep=ms(KEPT),
        )
        return await self._redis.run(noted) and found.next_newest != ""
