"""What can be done with jobs: submit, read, list, wait, follow, cancel, retry. It knows no request and no response."""

import asyncio
import io
import json
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple, TypeVar

from celery import states
from celery.exceptions import QueueNotFound
from kombu.exceptions import EncodeError

from tornado_celery_bridge import Bridge, BridgeError, DispatchUncertain, Stored, StoreUnavailable
from tornado_celery_bridge.base.states import SUCCEEDED
from tornado_celery_bridge.ledger import (
    MAX_INLINE,
    Filter,
    Gone,
    Job,
    JobItem,
    JobRecord,
    Ledger,
    LedgerUnavailable,
    Page,
    Reservation,
    Store,
    dumps,
)
from tornado_celery_bridge.ledger.destinations import Destination, destination
from tornado_celery_bridge.ledger.submission import expiry
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.access.limits import Following
from tornado_celery_bridge.service.access.receivers import Receivers
from tornado_celery_bridge.service.http.documents import JobReference, milliseconds
from tornado_celery_bridge.service.http.faults import Fault, escape, for_arguments
from tornado_celery_bridge.service.http.idempotency import (
    IDEMPOTENCY_KEY_IN_FLIGHT,
    IDEMPOTENCY_KEY_REUSED,
    job_id_of,
)
from tornado_celery_bridge.service.http.problems import (
    DISPATCH_UNCERTAIN,
    INVALID_BODY,
    INVALID_CURSOR,
    LEDGER_UNAVAILABLE,
    Problem,
)
from tornado_celery_bridge.service.http.query import MAX_LIMIT, MAX_PAGE
from tornado_celery_bridge.service.http.trace import current_job, message_headers
from tornado_celery_bridge.service.resources.catalogue import Arguments, Catalogue, ExposedTask, unknown_task
from tornado_celery_bridge.service.resources.diagnosis import Diagnosis, diagnose
from tornado_celery_bridge.service.resources.jobs.options import JobOptions, check_limits, misfit, parse_options
from tornado_celery_bridge.service.resources.jobs.problems import (
    EXPIRED_JOB,
    JOB_NEEDED,
    JOB_UNFINISHED,
    NO_CHECKPOINT,
    NO_RESULT,
    TOO_MANY_UNFINISHED_JOBS,
    UNKNOWN_JOB,
    UNPUBLISHABLE,
)
from tornado_celery_bridge.service.resources.links import Links
from tornado_celery_bridge.service.resources.metrics import Metrics

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Seconds for a dependency to say that it is there.
CHECK_TIMEOUT = 2.0
#: Seconds: the client of a job that was not published has waited for long enough already.
WITHDRAW_TIMEOUT = 0.25
#: Seconds for a large input to be written, or read.
STORE_TIMEOUT = 30.0
#: Seconds for a running job that is cancelled to end by itself before its process is ended.
CANCEL_GRACE = 1.0
#: Seconds for which a task's pace is not asked for again.
PACE_TTL = 1.0
#: Seconds that a client is told to wait, at the most.
LONGEST_RETRY_AFTER = 60


class Submission(NamedTuple):
    """A job that was accepted, now or by the same request before, and what happens to it when its client hangs up."""

    job: Job
    on_disconnect: str = "detach"


class Blob(NamedTuple):
    """A large input on its way to the store."""

    stored: Stored
    content: bytes


class Jobs:
    """
    The jobs of one Celery app.

    Its methods raise a :class:`Problem` for what the client is told, and LedgerUnavailable when the ledger does not
    answer. What they were to change may then have been changed.

    Args:
        bridge: An open bridge.
        ledger: Where the jobs are.
        catalogue: The tasks that may be run. Make it off the loop: it reads their sources.
        receivers: Who may be called back.
        links: Where things are.
    """

    def __init__(
        self,
        bridge: Bridge,
        ledger: Ledger,
        catalogue: Catalogue,
        receivers: Receivers | None = None,
        links: Links | None = None,
    ) -> None:
        self.bridge = bridge
        self.ledger = ledger
        self.catalogue = catalogue
        self.receivers = receivers or Receivers()
        self.links = links or Links()
        #: What is counted of them, and of the process.
        self.metrics = Metrics()
        self._following = Following()
        self._diagnosing = asyncio.Lock()
        self._paces: dict[tuple[str, str], tuple[float, int]] = {}
        self._background: set[asyncio.Task[None]] = set()

    # Tasks.

    def task(self, principal: Principal, name: str) -> ExposedTask:
        """Return the task of this name. To a caller who may not run it, it is the 404 of a task that does not exist."""
        if not principal.may_run(name):
            raise unknown_task()
        return self.catalogue.get(name)

    # Submitting.

    async def submit(
        self,
        principal: Principal,
        task_name: str,
        body: dict[str, Any],
        *,
        size: int = 0,
        reservation: Reservation | None = None,
        retry_of: str | None = None,
        goes_on: bool = False,
        owner: str | None = None,
        job_id: str | None = None,
    ) -> Submission:
        """
        Accept a job: write its record, then publish its message.

        Args:
            principal: Who submits it.
            task_name: A task that they may run.
            body: The request's body.
            size: Its bytes. A large one is handled off the loop.
            reservation: Of the request's idempotency key.
            retry_of: The job of which this is another try.
            goes_on: Whether it goes on from that job's checkpoint.
            owner: Whose job it will be; without one, whoever submits it.
            job_id: The id that it gets. If there is such a job already, that one is meant.

        Raises:
            Problem: Not accepted; with ``dispatch-uncertain`` and ``ledger-unavailable`` it may have been.
            StoreUnavailable, DispatchError: Not accepted.
        """
        task = self.task(principal, task_name)
        given, options = self.parse(task, body)
        if size <= MAX_INLINE:
            arguments, blob = task.arguments(given), None
        else:
            arguments, blob = await asyncio.to_thread(lambda: (task.arguments(given), self.set_apart(given)))
        stored = None
        if blob is not None:
            stored = await self.keep(blob)
            arguments = task.called_with(stored.in_place_of(given))
        owner = principal.owner if owner is None else owner
        now, begun = datetime.now(UTC), time.monotonic()
        due = options.due(now)
        celery_options = options.for_celery(now, self.catalogue.priorities) | {"headers": message_headers()}
        if task.task.ignore_result:
            celery_options["ignore_result"] = False  # a worker says nothing of the end of a task without a result
        args, kwargs = arguments
        if (expires := expiry(self.bridge.app, task.name, celery_options, now)) is not None:
            celery_options["expires"] = expires
        goes_to = self.destination(task, arguments, celery_options)
        celery_options |= goes_to.options
        record = JobRecord(
            id=job_id or job_id_of(reservation),
            task=task.name,
            owner=owner,
            options={name: value for name, value in body.get("options", {}).items() if name != "tags"},
            tags=list(options.tags),
            queue=goes_to.queue,
            priority=goes_to.priority,
            created_at=milliseconds(now),
            eta=None if due is None else milliseconds(due),
            expires=None if expires is None else milliseconds(expires),
            retry_of=retry_of,
            traceparent=message_headers().get("traceparent") if options.callback_url else None,
        )
        current_job.set(record.id)
        delay = max(0.0, (due - now).total_seconds()) if due else 0.0
        message = {
            "task": task.name,
            "args": args,
            "kwargs": kwargs,
            "options": celery_options | {"task_id": record.id},
        }
        accepting = self.ledger.jobs.accept(
            record,
            given if stored is None else stored,
            message=message,
            delay=delay,
            max_unfinished=principal.max_unfinished,
            reservation=reservation,
            unique=task.unique_by(owner, given),
            goes_on=retry_of if retry_of and goes_on else "",
            size=size,
        )
        try:
            accepted = await accepting
        except LedgerUnavailable as exc:
            raise self.unanswered(exc, self.links.job(record.id), {"job": self._reference(record.id)}) from exc
        await self.settle(accepted.kind, {} if stored is None else {record.id: stored})
        if accepted.kind in ("replay", "unique") and accepted.response is not None:
            return Submission(await self.get(principal, accepted.response.decode()))
        if accepted.kind == "exists":
            return Submission(await self.get(principal, record.id))
        if accepted.kind not in ("accepted", "taken-over"):
            raise not_accepted(accepted.kind, {"job": self._reference(record.id)})
        if accepted.kind == "taken-over" and (job := await self.get(principal, record.id)).state != states.PENDING:
            return Submission(job)  # it was published: a worker has seen it
        try:
            left = self.bridge.time_left(begun)
            publishing = self.bridge.publish(
                task.task, *arguments, task_id=record.id, dispatch_timeout=left, **celery_options
            )
            await self.metrics.dispatch(publishing)
        except DispatchUncertain as exc:
            raise self.uncertain(record.id) from exc
        except Exception as exc:
            if accepted.kind == "accepted":  # else whoever had the key before may have published it
                await self.undo(f"job {record.id}", self.ledger.jobs.withdraw(record.id, reservation))
            if not isinstance(exc, TypeError | EncodeError | QueueNotFound):
                raise
            _log.warning("job %s of %s could not be published: %r", record.id, record.task, exc)
            raise unpublishable() from exc
        return Submission(Job(record=record), options.on_disconnect)

    def destination(self, task: ExposedTask, arguments: Arguments, options: Mapping[str, Any]) -> Destination:
        """Return where Celery sends a job. 422 if a router of the app's own names a queue that is not there."""
        try:
            return destination(self.bridge.app, task.name, *arguments, options)
        except QueueNotFound as exc:
            _log.warning("a job of %s is refused: %s", task.name, exc)
            raise unpublishable() from exc

    def set_apart(self, given: dict[str, Any] | list[Any]) -> Blob | None:
        """Return the blob that an input is to be in; None for one that goes with its message."""
        if self.bridge.store is None:
            return None
        content = dumps(given).encode()
        return Blob(Stored.new(len(content)), content) if len(content) > MAX_INLINE else None

    async def keep(self, blob: Blob) -> Stored:
        """
        Write a blob to the store; :meth:`settle` has to be told of it.

        Raises:
            StoreUnavailable, LedgerUnavailable: It is not kept.
        """
        store = self._store
        await self.ledger.blobs.announce(blob.stored.name)  # so that it is not left there if this process dies
        await self._in_store(lambda: store.write(blob.stored.name, blob.content))
        return blob.stored

    @property
    def _store(self) -> Store:
        if self.bridge.store is None:
            raise StoreUnavailable("the service has no job_store_url, where large inputs and results are")
        return self.bridge.store

    async def _in_store(self, call: Callable[[], T]) -> T:
        """Return what a call to the store does; it goes on in its thread should it take too long."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                return await asyncio.to_thread(call)
        except TimeoutError:
            raise StoreUnavailable("the store did not answer in time", retry_after=1.0) from None

    async def settle(self, kind: str, kept: Mapping[str, Stored]) -> None:
        """Keep the inputs that were stored for these jobs, or remove them, by whether the jobs were accepted."""
        for job_id, stored in kept.items():
            if kind == "taken-over":  # the message will have these, while the jobs have those of the first time
                await self.ledger.blobs.adopt(job_id, stored.name)
            elif kind != "accepted":
                await self.ledger.blobs.disown(stored.name)

    def parse(self, task: ExposedTask, body: dict[str, Any]) -> tuple[dict[str, Any] | list[Any], JobOptions]:
        """Return the input and the options that a body gives for a job of *task*; 422 for all that does not fit."""
        told = "Only input and options are known here"
        unknown = [key for key in body if key not in ("input", "options")]
        faults = [Fault(f"/{escape(key)}", f"{told}{for_arguments(key)}.") for key in unknown]
        given = body.get("input", {})
        if not isinstance(given, dict | list):
            faults.append(Fault("/input", "This should be an object, or a list of positional arguments."))
        if faults:
            raise INVALID_BODY("The body does not fit.", faults=faults)
        options = parse_options(body.get("options", {}), self.catalogue.queues, self.receivers)
        check_limits(options, task.task)
        if options.priority is not None and not self.catalogue.priorities.are_served(options.queue or task.queue):
            detail = "The broker has no priorities in this queue: send what is urgent to a queue of its own."
            raise misfit("/options/priority", detail)
        return given, options

    def uncertain(self, job_id: str) -> Problem:
        """Return what to say of a job of which nobody knows whether it was published."""
        link = self.links.job(job_id)
        return DISPATCH_UNCERTAIN(
            f"The broker did not confirm job {job_id}, which may run: ask {link} before trying again.",
            headers={"Retry-After": "1", "Location": link},
            members={"job": self._reference(job_id)},
        )

    def unanswered(self, exc: LedgerUnavailable, link: str, members: dict[str, Any]) -> Problem:
        """Return what to say of a job or a workflow of which nobody knows whether the ledger has accepted it."""
        return LEDGER_UNAVAILABLE(
            f"{str(exc).rstrip('.')}. It may have been accepted all the same: ask {link} before trying again.",
            headers={"Retry-After": "1", "Location": link},
            members=members,
        )

    def _reference(self, job_id: str) -> JobReference:
        return {"id": job_id, "links": {"self": self.links.job(job_id)}}

    async def undo(self, what: str, undoing: Coroutine[Any, Any, None]) -> None:
        """Remove what was written down of a job or a workflow that was not published."""
        try:
            async with asyncio.timeout(WITHDRAW_TIMEOUT):
                await undoing
        except (LedgerUnavailable, TimeoutError) as exc:
            _log.warning("the records of unpublished %s stay: %s", what, exc)

    async def retry(
        self,
        principal: Principal,
        job_id: str,
        body: dict[str, Any],
        *,
        size: int = 0,
        reservation: Reservation | None = None,
        made_id: str | None = None,
    ) -> Submission:
        """
        Submit a job again that has ended, with exactly its input and options, or with those in *body*.

        With ``from_checkpoint`` in *body* it goes on from what the job has saved. The new job gets the id *made_id*, if
        there is one.
        """
        job = await self.get(principal, job_id)
        if not job.done:
            raise JOB_UNFINISHED("The job has not ended: cancel it first, or wait for it.")
        body = dict(body)
        goes_on = body.pop("from_checkpoint", False)
        if not isinstance(goes_on, bool):
            raise INVALID_BODY.at("/from_checkpoint", "This should be true or false.")
        if goes_on and job.checkpoint is None:
            raise NO_CHECKPOINT("The job has no checkpoint: its task saved none, or it succeeded. Retry it without.")
        record = job.record
        options = {name: value for name, value in record.options.items() if name not in ("eta", "countdown", "expires")}
        again = {"options": options | {"tags": record.tags}} | body
        if "input" not in body:
            again["input"], stored_size = await self._input_of(job_id)
            size = max(size, stored_size)
        return await self.submit(
            *(principal, record.task, again),
            size=size,
            reservation=reservation,
            retry_of=job_id,
            owner=record.owner,  # it stays theirs if an admin tries it again
            goes_on=goes_on,
            job_id=made_id,
        )

    async def _input_of(self, job_id: str) -> tuple[Any, int]:
        """Return a job's exact input, and how many bytes of JSON it is."""
        file = await self.open_input(job_id)
        written = await self._in_store(lambda: _whole(file))
        return await asyncio.to_thread(json.loads, written), len(written)

    # Reading.

    async def get(self, principal: Principal, job_id: str) -> Job:
        """Return a job as it is now. 404 for an unknown one and for another owner's; 410 if there was one."""
        current_job.set(job_id)
        job = await self.ledger.jobs.get(job_id, most_bytes=MAX_INLINE)
        if job is None or not principal.may_see(job):
            raise UNKNOWN_JOB("There is no job of this id.")
        if isinstance(job, Gone):
            raise _expired()
        return job

    async def open_result(self, job: Job) -> BinaryIO:
        """Return what a job returned as a file of JSON, whose calls block. Close it. 409 without a result."""
        if not job.done:
            raise JOB_UNFINISHED("The job has not ended: wait for it.")
        if job.state not in SUCCEEDED:
            raise NO_RESULT("The job did not succeed; `error` in the job says why.")
        if job.stored is None:
            return io.BytesIO(await self.ledger.jobs.result_of(job.record.id))
        store, stored = self._store, job.stored
        return await self._in_store(lambda: store.open(stored))

    async def items(self, principal: Principal, job_id: str, cursor: str | None, limit: int) -> list[JobItem]:
        """Return what a job has yielded, after the item whose id is the cursor."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 15):
            raise INVALID_CURSOR("This cursor is not one of ours: begin without a cursor.")
        await self.get(principal, job_id)
        return await self.ledger.jobs.items(job_id, int(cursor or 0), limit)

    async def open_input(self, job_id: str) -> BinaryIO:
        """Return a job's exact input as a file of JSON, whose calls block. Close it. 410 if there was one."""
        written = await self.ledger.jobs.input_of(job_id)
        if written is None:
            raise _expired()
        if not written.startswith(b'"'):
            return io.BytesIO(written)
        store, stored = self._store, Stored(json.loads(written), 0)  # a blob's name
        return await self._in_store(lambda: store.open(stored))

    async def find(self, filter: Filter, **bounds: Any) -> Page:
        """Return a page of the jobs that a filter fits. The bounds are those of the ledger's ``jobs.find``."""
        try:
            return await self.ledger.jobs.find(filter, **bounds)
        except ValueError:
            raise INVALID_CURSOR("This cursor is not one of ours: begin without a cursor.") from None

    async def find_all(self, filter: Filter, most: int) -> list[Job]:
        """Return the newest *most* jobs that a filter fits, without their results, in steps of a page."""
        found: list[Job] = []
        page = Page([], "")
        while page.cursor is not None and len(found) < most:
            limit = min(most - len(found), MAX_LIMIT)
            page = await self.find(filter, limit=limit, cursor=page.cursor, most_bytes=0, page_bytes=MAX_PAGE)
            found += page.jobs
        return found

    async def unfinished(self, principal: Principal, tags: Sequence[str], most: int) -> list[str]:
        """Return the ids of jobs with all of these tags that have not ended: the last *most* that were accepted."""

        owner = None if principal.is_admin else principal.owner

        async def all_in(state: str) -> list[Job]:
            return await self.find_all(Filter(owner=owner, tags=tuple(tags), state=state), most)

        # At once, in one round trip: what changes its state in between is in both lists, or as good as ended.
        lists = await asyncio.gather(*map(all_in, (states.PENDING, states.STARTED, states.RETRY)))
        found = {job.record.id: job.record.created_at for jobs in lists for job in jobs}
        return sorted(found, key=lambda job_id: found[job_id], reverse=True)[:most]

    async def wait(self, principal: Principal, job: Job, timeout: float) -> Job:
        """Return a job once it is done, or as it is after *timeout* seconds."""
        with self.follows(principal):
            await self.wait_for_end(job.record.id, job.number, timeout)
        return await self.get(principal, job.record.id)

    def follows(self, principal: Principal, count: int = 1) -> AbstractContextManager[None]:
        """Count jobs that *principal*'s owner follows while a block runs; 429 if they may not follow so many."""
        return self._following.hold(principal.owner, principal.max_followed, count)

    async def wait_for_end(self, followed: str, after: int, timeout: float) -> None:
        """Return at the end of the events of a job or a workflow, or after *timeout* seconds."""
        with self.metrics.waiters.track_inprogress(), suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                with self.ledger.events.follow(followed, after) as events:
                    async for _ in events:
                        pass

    async def retry_after(self, task: str, queue: str) -> int:
        """Return after how many seconds a job is likely to be done, as jobs of its kind went of late; at least 1."""
        until, seconds = self._paces.get((task, queue), (0.0, 1))
        if until < time.monotonic():
            try:
                waited, ran = await self.ledger.jobs.pace(task, queue)
            except LedgerUnavailable:  # what is answered with it does not depend on it
                return seconds
            seconds = min(LONGEST_RETRY_AFTER, max(1, math.ceil((waited or 0.0) + (ran or 0.0))))
            self._paces[task, queue] = (time.monotonic() + PACE_TTL, seconds)
        return seconds

    # Cancelling.

    async def cancel(self, principal: Principal, job_id: str, *, terminate: bool) -> Job:
        """
        Cancel a job for good, even if no worker is there to hear of it. A job that is done stays as it is.

        A job that has not begun never will. A job that runs is told when it next reports progress; with *terminate* its
        process is ended if the job has not ended by itself after ``CANCEL_GRACE`` seconds.
        """
        await self.get(principal, job_id)
        await self.ledger.jobs.cancel(job_id, grace=CANCEL_GRACE if terminate else None)
        job = await self.get(principal, job_id)
        if terminate and not job.done:
            self.terminate(principal, job)
        return job

    async def delete(self, principal: Principal, job_id: str) -> None:
        """Delete a job that has ended, with all that is kept of it. 409 if it is needed still."""
        job = await self.get(principal, job_id)
        match await self.ledger.jobs.delete(job_id):
            case "not-ended":
                raise JOB_UNFINISHED("The job has not ended: cancel it first, or wait for it.")
            case "workflow-not-ended":
                raise JOB_NEEDED("The job's workflow has not ended: wait for it, or cancel it first.")
            case "callback-waiting":
                raise JOB_NEEDED("The job's callback is still to be made: wait for its delivery.")
        try:
            await self.bridge.forget(job.record.id)
        except BridgeError as exc:
            _log.warning("Celery's own result of the deleted job %s stays until it expires: %s", job_id, exc)

    def terminate(self, principal: Principal, job: Job) -> None:
        """End the process of a cancelled job, unless the job ends by itself within ``CANCEL_GRACE`` seconds."""
        self._in_background(self._terminate(principal, job))

    async def abandon(self, principal: Principal, job: Job, on_disconnect: str) -> None:
        """Do with a job what its client wanted done if it hangs up."""
        try:
            if on_disconnect == "cancel":
                await self.cancel(principal, job.record.id, terminate=True)
            elif on_disconnect == "cancel-if-unstarted":
                await self.ledger.jobs.cancel(job.record.id, unless_begun=True)
        except (BridgeError, Problem) as exc:
            _log.warning("job %s was not cancelled when its client hung up: %s", job.record.id, exc)

    async def _terminate(self, principal: Principal, job: Job) -> None:
        try:
            await self.wait_for_end(job.record.id, job.number, CANCEL_GRACE)
            if not (await self.get(principal, job.record.id)).done:
                await self.bridge.revoke(job.record.id, terminate=True)
        except (BridgeError, Problem) as exc:
            _log.warning("cancelled job %s may run on: %s", job.record.id, exc)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # The process.

    async def close(self) -> None:
        """Wait for the work in the background: a few seconds at most."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def check(self) -> dict[str, str | None]:
        """Return, for each server that the service needs, why it cannot be used now; None for one that can."""
        pings = {
            "broker": self.bridge.ping_broker(),
            "result_backend": self.bridge.ping_backend(),
            "ledger": self.ledger.ping(),
        }
        reasons = await asyncio.gather(*map(_reason_for_failure, pings.values()))
        return dict(zip(pings, reasons, strict=True))

    async def diagnose(self) -> Diagnosis:
        """Return what is unsafe or unwise here. It takes a thread, for seconds if a server is away: one at a time."""
        async with self._diagnosing:
            return await asyncio.to_thread(diagnose, self.bridge.app)


async def _reason_for_failure(ping: Coroutine[Any, Any, None]) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await ping
    except TimeoutError:
        return "no answer in time"
    except BridgeError as exc:
        return str(exc)
    return None


def _whole(file: BinaryIO) -> bytes:
    with file:
        return file.read()


def _expired() -> Problem:
    return EXPIRED_JOB("The job is no longer kept.")


def unpublishable() -> Problem:
    """Return what to say of a job that Celery's own code refused."""
    return UNPUBLISHABLE("Celery does not take this; see the service's log.")


def not_accepted(kind: str, link: dict[str, Any]) -> Problem:
    """Return what to say when the ledger did not accept; *link* leads to what the idempotency key made."""
    if kind == "in-flight":
        detail = "A request with this Idempotency-Key is being answered now: send it again a little later."
        return IDEMPOTENCY_KEY_IN_FLIGHT(detail, headers={"Retry-After": "1"}, members=link)
    if kind == "other":
        return IDEMPOTENCY_KEY_REUSED("This Idempotency-Key was used for another request.")
    detail = "You have as many unfinished jobs as you may."
    return TOO_MANY_UNFINISHED_JOBS(detail, headers={"Retry-After": "5"})
