"""``/v1/jobs/{id}/attempts``: each attempt at a job: when, where, how it ended, and what it said."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge.ledger import attempts as ledger
from tornado_celery_bridge.service.http.documents import Moment, rfc3339
from tornado_celery_bridge.service.http.endpoint import Answer, get
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.jobs.endpoint import JobId, ResourceEndpoint
from tornado_celery_bridge.service.resources.jobs.problems import JOB


class LogLine(TypedDict):
    """A line that the task's code logged."""

    level: str
    message: str
    at: Moment


class SavedAt(TypedDict):
    """A checkpoint's time and value."""

    saved_at: Moment
    value: dict[str, Any]


class Attempt(TypedDict):
    """One attempt at a job."""

    attempt: Annotated[int, Field(description="Counted from 1.")]
    outcome: Annotated[
        Literal["running", "succeeded", "ignored", "failed", "cancelled", "retried", "given back", "lost"],
        Field(description="How it ended. After the last three another one begins; also after a worker was lost."),
    ]
    started_at: Moment
    ended_at: Annotated[Moment | None, Field(description="Of a lost one: when that was seen.")]
    worker: Annotated[str, Field(description="The node name of its worker.")]
    error: Annotated[documents.JobError | None, Field(description="If it failed, was cancelled, or asked for a retry.")]
    checkpoint: Annotated[SavedAt | None, Field(description="The job's, if it is this attempt that saved it.")]
    log: Annotated[list[LogLine], Field(description="Kept until an hour after the job's end.")]


class Attempts(TypedDict):
    """The attempts of a job, the first one first."""

    attempts: Annotated[list[Attempt], Field(description="The last 20 of those after which another one began.")]
    log_left_out: Annotated[int, Field(description="Lines of the log, the oldest, for which there was no room here.")]


def attempts(found: ledger.Attempts, *, traceback: bool) -> Attempts:
    """Return the attempts of a job; *traceback* says whether the reader may see tracebacks."""
    return {"attempts": [_attempt(found, each, traceback) for each in found.attempts], "log_left_out": found.left_out}


def _attempt(found: ledger.Attempts, shown: ledger.Attempt, traceback: bool) -> Attempt:
    error = None
    if shown.error is not None:
        error = documents.error("RETRY" if shown.outcome == "retried" else found.job.state, shown.error)
        if traceback and shown.traceback is not None:
            error["traceback"] = shown.traceback
    saved = found.job.checkpoint
    return {
        "attempt": shown.number,
        "outcome": shown.outcome,
        "started_at": rfc3339(shown.started_at),
        "ended_at": None if shown.ended_at is None else rfc3339(shown.ended_at),
        "worker": shown.worker,
        "error": error,
        "checkpoint": {"saved_at": rfc3339(saved.saved_at), "value": saved.value}
        if saved is not None and saved.attempt == shown.number
        else None,
        "log": list(shown.log),
    }


class ListAttempts(ResourceEndpoint):
    """
    List the attempts at a job.

    Each with its worker, its error, its checkpoint, and the lines that it logged.
    """

    route = get("/v1/jobs/{id}/attempts", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The attempts, the first one first.")}
    problems: ClassVar = JOB

    async def answer(self, id: JobId) -> Attempts:
        job = await self.jobs.get(self.caller, id)
        found = await ledger.attempts_of(self.jobs.ledger.redis, job)
        return attempts(found, traceback=self.caller.sees_tracebacks)
