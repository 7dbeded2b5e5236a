"""What is read and shown of operations."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge import ledger
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Moment, Path, rfc3339
from tornado_celery_bridge.service.resources.jobs.documents import Progress
from tornado_celery_bridge.service.resources.jobs.filters import JobFilter
from tornado_celery_bridge.service.resources.links import Links

Action = Literal["cancel", "retry", "delete"]


class NewOperation(Body):
    """What to do with which jobs."""

    action: Annotated[
        Action,
        Field(
            description="`cancel` those that have not ended; `retry` those that failed or were cancelled and were not"
            " tried again; `delete` those that have ended, with all that is kept of them."
        ),
    ]
    filter: Annotated[JobFilter, Field(description="Which jobs; an empty object: all that you may see.")]
    dry_run: Annotated[bool, Field(description="Only count the jobs.")] = True
    terminate: Annotated[bool, Field(description="To cancel: end the processes that run them, too.")] = False


class OperationLinks(TypedDict):
    """More about an operation."""

    self: Path
    cancel: Path


class Operation(TypedDict):
    """What is done with all jobs that a filter fits, and how far it is."""

    id: str
    action: Action
    filter: Annotated[dict[str, Any], Field(description="As it was asked for.")]
    dry_run: bool
    owner: Annotated[str, Field(description="Who has asked for it; empty where there are no keys.")]
    state: Annotated[
        Literal["RUNNING", "DONE", "CANCELLED"],
        Field(description="CANCELLED: it has not come to all jobs, and what it has done stays done."),
    ]
    done: Annotated[bool, Field(description="Whether it has ended.")]
    progress: Annotated[Progress, Field(description="How many jobs it has looked at, of about how many.")]
    matched: Annotated[int, Field(description="How many of them the filter fits.")]
    acted: Annotated[int, Field(description="How many of these it has acted on; in a dry run, would.")]
    skipped: Annotated[dict[str, int], Field(description="How many it has left out, by reason.")]
    detail: Annotated[str | None, Field(description="What it waits for, or why it was cancelled.")]
    created_at: Moment
    finished_at: Moment | None
    links: OperationLinks


class Operations(TypedDict):
    """The last operations, newest first: at most 100."""

    operations: list[Operation]
    next_cursor: str | None


def operation(shown: ledger.Operation, links: Links) -> Operation:
    """Return an operation."""
    path, ended = links.operation(shown.id), shown.state == "DONE"
    total = shown.looked if ended else max(shown.total, shown.looked)
    state: Any = shown.state
    return {
        "id": shown.id,
        "action": shown.action,
        "filter": JobFilter.of_filter(shown.filter).document(),
        "dry_run": shown.dry_run,
        "owner": shown.owner,
        "state": state,
        "done": shown.state != "RUNNING",
        "progress": {"current": shown.looked, "total": total, "message": None},
        "matched": shown.matched,
        "acted": shown.done,
        "skipped": shown.skipped,
        "detail": shown.why,
        "created_at": rfc3339(shown.created_at),
        "finished_at": None if shown.finished_at is None else rfc3339(shown.finished_at),
        "links": {"self": path, "cancel": f"{path}/cancel"},
    }
