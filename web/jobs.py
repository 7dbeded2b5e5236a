"""What can be done with jobs: submit, read, wait, follow, cancel. Knows no request and no response."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from celery import states
from celery.exceptions import QueueNotFound
from kombu.exceptions import EncodeError

from tornado_celery_bridge import (
    Bridge,
    BridgeError,
    DispatchUncertain,
    ResultBackendUnavailable,
    ResultTimeout,
    TaskState,
)
from tornado_celery_bridge.ledger import JobRecord, Ledger, LedgerUnavailable
from web.catalogue import Catalogue, ExposedTask, unknown_task
from web.keys import Principal
from web.options import JobOptions, parse_options
from web.problems import Fault, Problem
from web.representation import rfc3339

__all__ = ("Job", "Jobs", "Submission", "as_accepted")

_log = logging.getLogger(__name__)

#: Seconds for the result backend to say what it has.
READ_TIMEOUT = 2.0
#: Seconds that the broker has at least: a loop that was busy while the ledger answered is no fault of the broker's.
LEAST_LEFT = 0.25
#: Seconds: the client of a job that was not published has waited for long enough already.
WITHDRAW_TIMEOUT = 0.25


class Job(NamedTuple):
    """A job's record, and what the result backend says of it."""

    record: JobRecord
    state: TaskState


class Submission(NamedTuple):
    """A new job, and what is to become of it when its submitter hangs up."""

    record: JobRecord
    on_disconnect: str


class Jobs:
    """
    The jobs of one Celery app.

    Args:
        bridge: An open bridge.
        ledger: Where the jobs' records are.
        catalogue: The tasks that may be run; made off the loop, as it reads their sources.
    """

    def __init__(self, bridge: Bridge, ledger: Ledger, catalogue: Catalogue) -> None:
        self.bridge = bridge
        self.ledger = ledger
        self.catalogue = catalogue

    def tasks(self, principal: Principal) -> list[ExposedTask]:
        """Return the tasks that *principal* may run."""
        return [task for task in self.catalogue if principal.may_run(task.name)]

    def task(self, principal: Principal, name: str) -> ExposedTask:
        """
        Return the task of this name.

        Raises:
            Problem: 404, the same for a task that *principal* may not run as for one that is not there.
        """
        if not principal.may_run(name):
            raise unknown_task()
        return self.catalogue.get(name)

    async def submit(self, principal: Principal, task_name: str, body: dict[str, Any]) -> Submission:
        """
        Accept a job: write its record, then publish its message.

        Args:
            principal: Whose job it will be.
            task_name: A task that they may run.
            body: What came through the door.

        Raises:
            Problem: Not accepted; or, ``dispatch-uncertain``, perhaps.
            LedgerUnavailable, DispatchError: Not accepted.
        """
        task = self.task(principal, task_name)
        given, options = self._parse(body)
        arguments = task.arguments(given)
        now, begun = datetime.now(UTC), time.monotonic()
        record = _record(
            principal.owner, task.name, given, options, now, options.queue or task.queue, body.get("options", {})
        )
        due = options.due(now)
        delay = max(0.0, (due - now).total_seconds()) if due else 0.0
        await self.ledger.add(record, delay=delay)
        celery_options = options.for_celery(self.catalogue.reverses_priority)
        if task.task.ignore_result:
            celery_options["ignore_result"] = False  # a job without a result would be PENDING for ever
        try:
            # One deadline for ledger and broker: what the one took, the other has not.
            left = max(LEAST_LEFT, self.bridge.config.dispatch_timeout - (time.monotonic() - begun))
            await self.bridge.dispatch(
                task.task, *arguments, task_id=record.id, dispatch_timeout=left, **celery_options
            )
        except DispatchUncertain as exc:
            raise _uncertain(record.id) from exc
        except (TypeError, EncodeError, QueueNotFound) as exc:
            await self._withdraw(record)
            _log.warning("job %s of %s could not be published: %r", record.id, record.task, exc)
            raise Problem(422, "unpublishable", "Celery does not take this job; see the service's log.") from exc
        except Exception:
            await self._withdraw(record)
            raise
        return Submission(record, options.on_disconnect)

    def _parse(self, body: dict[str, Any]) -> tuple[dict[str, Any] | list[Any], JobOptions]:
        unknown = [key for key in body if key not in ("input", "options")]
        faults = [Fault(f"/{key}", "Only input and options are known here.") for key in unknown]
        given = body.get("input", {})
        if not isinstance(given, dict | list):
            faults.append(Fault("/input", "This should be an object, or a list of positional arguments."))
        if faults:
            raise Problem(422, "invalid-body", "The body does not fit.", faults=faults)
        return given, parse_options(body.get("options", {}), self.catalogue.queues)

    async def _withdraw(self, record: JobRecord) -> None:
        """Remove the record of a job that was not published; one that stays expires by itself."""
        try:
            async with asyncio.timeout(WITHDRAW_TIMEOUT):
                await self.ledger.remove(record.id)
        except (LedgerUnavailable, TimeoutError) as exc:
            _log.warning("the record of unpublished job %s stays: %s", record.id, exc)

    async def get(self, principal: Principal, job_id: str) -> Job:
        """
        Return a job as it is now.

        Raises:
            Problem: 404, no such job, or another's.
            LedgerUnavailable, ResultBackendUnavailable: Not known now.
        """
        record = await self.record(principal, job_id)
        return Job(record, await self._state(job_id))

    async def _state(self, job_id: str) -> TaskState:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                return await self.bridge.state(job_id)
        except TimeoutError:
            raise ResultBackendUnavailable(
                "the result backend did not answer in time", task_id=job_id, retry_after=1.0
            ) from None

    async def record(self, principal: Principal, job_id: str) -> JobRecord:
        """Return a job's record; errors as :meth:`get`."""
        record = await self.ledger.get(job_id)
        if record is None or not (principal.is_admin or record.owner == principal.owner):
            raise Problem(404, "unknown-job", "There is no job of this id.")
        return record

    async def wait(self, principal: Principal, record: JobRecord, timeout: float) -> Job:
        """Return a job once it is done, or as it is after *timeout* seconds."""
        try:
            return Job(record, await self.bridge.wait(record.id, timeout=timeout))
        except ResultTimeout:
            return Job(record, await self._state(record.id))

    def follow(self, principal: Principal, record: JobRecord) -> AsyncGenerator[TaskState]:
        """Yield the job's states and progress as they come, up to the last one."""
        return cast("AsyncGenerator[TaskState]", self.bridge.stream(record.id))

    async def cancel(self, principal: Principal, job_id: str, *, terminate: bool) -> Job:
        """
        Tell the workers not to run a job, or with *terminate* to stop it; one that is done stays as it is.

        Raises:
            Problem: 404, no such job, or another's.
            BrokerUnavailable: Nobody was told.
        """
        job = await self.get(principal, job_id)
        if not job.state.ready:
            await self.bridge.revoke(job_id, terminate=terminate)
        return job

    async def abandon(self, record: JobRecord) -> None:
        """Stop a job whose submitter hung up and wants it stopped then."""
        try:
            await self.bridge.revoke(record.id, terminate=True)
        except BridgeError as exc:
            _log.warning("job %s was not cancelled when its client hung up: %s", record.id, exc)

    async def check(self) -> dict[str, str | None]:
        """Return, for each thing that the service stands on, why it cannot be used now; None for one that can."""
        pings = {
            "broker": self.bridge.ping_broker(),
            "result_backend": self.bridge.ping_backend(),
            "ledger": self.ledger.ping(),
        }
        reasons = await asyncio.gather(*map(_reason_for_failure, pings.values()))
        return dict(zip(pings, reasons, strict=True))


async def _reason_for_failure(ping: Coroutine[Any, Any, None]) -> str | None:
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            await ping
    except TimeoutError:
        return "no answer in time"
    except BridgeError as exc:
        return str(exc)
    return None


def as_accepted(record: JobRecord) -> Job:
    """Return a job as it is at its acceptance, when nobody can have run it yet."""
    return Job(record, TaskState.from_meta(record.id, {"status": states.PENDING, "result": None}))


def _record(
    owner: str,
    task: str,
    given: dict[str, Any] | list[Any],
    options: JobOptions,
    now: datetime,
    queue: str,
    sent_options: dict[str, Any],
) -> JobRecord:
    created_at = rfc3339(now)
    assert created_at is not None
    return JobRecord(
        id=str(uuid.uuid4()),
        task=task,
        input=given,
        options={name: value for name, value in sent_options.items() if name != "tags"},
        tags=list(options.tags),
        queue=queue,
        priority=options.priority,
        created_at=created_at,
        eta=rfc3339(options.due(now)),
        owner=owner,
    )


def _uncertain(job_id: str) -> Problem:
    link = f"/v1/jobs/{job_id}"
    return Problem(
        503,
        "dispatch-uncertain",
        f"The broker did not confirm job {job_id}, which may run: ask {link} before trying again.",
        headers={"Retry-After": "1", "Location": link},
        members={"job": {"id": job_id, "links": {"self": link}}},
    )
