"""What is read and shown of groups of failures."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge import ledger
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Moment, Path, Problem, rfc3339
from tornado_celery_bridge.service.resources.links import Links


class RetryAll(Body):
    """Whether a group's jobs are tried again, or only counted."""

    dry_run: Annotated[bool, Field(description="Only say how many jobs there are.")] = True


class FailureGroup(TypedDict):
    """Jobs of one owner that failed alike: the same task raised the same at the same place."""

    id: str
    owner: Annotated[str, Field(description="Whose jobs they are; empty where there are no keys.")]
    task: str
    exception: Annotated[str, Field(description="With its module.")]
    place: Annotated[str | None, Field(description="The file and the function in it, where that is known.")]
    detail: Annotated[str, Field(description="The first 300 characters of the last message.")]
    first_seen: Moment
    last_seen: Moment
    count: Annotated[int, Field(description="How often it happened since it was first seen or last resolved.")]
    jobs: Annotated[int, Field(description="How many of its jobs are still kept and were not tried again.")]
    links: dict[str, Path]


class Failures(TypedDict):
    """The groups of failures, at most 500, the one that failed last first."""

    failures: list[FailureGroup]
    next_cursor: str | None


class RefusedRetry(TypedDict):
    """A job that was not tried again."""

    job_id: str
    problem: "Problem"


class Retried(TypedDict):
    """The outcome of trying a group's jobs again, or what it would be."""

    dry_run: bool
    jobs: Annotated[int, Field(description="How many jobs: the newest 1,000 at most.")]
    job_ids: Annotated[list[str], Field(description="The new jobs; none on a dry run.")]
    refused: list[RefusedRetry]


def failure(shown: ledger.FailureGroup, links: Links) -> FailureGroup:
    """Return a group of failures."""
    path = links.failure(shown.id)
    return {
        "id": shown.id,
        "owner": shown.owner,
        "task": shown.task,
        "exception": shown.exception,
        "place": shown.place or None,
        "detail": shown.detail,
        "first_seen": rfc3339(shown.first_seen),
        "last_seen": rfc3339(shown.last_seen),
        "count": shown.times,
        "jobs": shown.jobs,
        "links": {"jobs": f"{links.jobs}?failure={shown.id}", "retry": f"{path}/retry", "resolve": f"{path}/resolve"},
    }
