"""What narrows jobs down in the API: the same members in the query of a list and in the body of an operation."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from tornado_celery_bridge import ledger
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import rfc3339
from tornado_celery_bridge.service.http.moments import MomentInQuery
from tornado_celery_bridge.service.http.query import Flag, Name, Page, Tag

State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "IGNORED", "FAILURE", "REVOKED"]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class Narrowed(BaseModel):
    """What narrows jobs down: those that fit all of it."""

    task: Name | None = None
    # A job in a state of its own is among the running ones.
    state: State | None = None
    tag: Annotated[list[Tag], Field(max_length=20, description="Only those with all of these.")] = []
    queue: Name | None = None
    worker: Annotated[
        str | None,
        Field(max_length=500, description="Only those whose last attempt this worker began, by its node name."),
    ] = None
    owner: Annotated[
        str | None, Field(max_length=100, description="For admins: only this owner's. Others see their own anyway.")
    ] = None
    since: Annotated[MomentInQuery, Field(description="Only jobs accepted at this time or later.")] | None = None
    until: Annotated[MomentInQuery, Field(description="Only jobs accepted before this time.")] | None = None
    min_duration: (
        Annotated[
            Seconds, Field(description="Only those whose last attempt has run for so many seconds, or took them.")
        ]
        | None
    ) = None
    min_wait: (
        Annotated[
            Seconds, Field(description="Only those that waited so many seconds for their last attempt, once due.")
        ]
        | None
    ) = None
    min_attempt: Annotated[int, Field(ge=1, le=1_000_000, description="Only those begun so often.")] | None = None
    q: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=200,
                description="Only those with each of these words in input, result, error, tags or metadata; words in"
                " quotes are one.",
            ),
        ]
        | None
    ) = None
    dead: Annotated[
        Flag, Field(description="With `true` only jobs that were given up, as worker after worker was lost with them.")
    ] = False
    failure: Annotated[
        str | None,
        Field(max_length=50, description="Only those of this group of failures that have not been tried again."),
    ] = None

    def for_principal(self, principal: Principal) -> ledger.Filter:
        """Return the ledger's filter, with nothing in it that *principal* may not see."""
        until = None if self.until is None else self.until.timestamp()
        owner = self.owner if principal.is_admin else principal.owner
        if self.owner is not None and self.owner != owner:
            until = 0.0  # nobody else's jobs are there for them, so nothing fits
        return ledger.Filter(
            owner=owner,
            task=self.task,
            state=self.state,
            tags=tuple(self.tag),
            dead=self.dead,
            failure=self.failure,
            since=None if self.since is None else self.since.timestamp(),
            until=until,
            queue=self.queue,
            worker=self.worker,
            min_duration=self.min_duration,
            min_wait=self.min_wait,
            min_attempt=self.min_attempt,
            q=self.q,
        )


class JobFilters(Narrowed, Page):
    """Which jobs, and how many of them."""

    results: Annotated[
        Flag, Field(description="With `true` with what the jobs returned, unless that is over 16 KiB.")
    ] = False


class JobFilter(Narrowed, Body):
    """Which jobs."""

    @classmethod
    def of_filter(cls, known: ledger.Filter) -> Self:
        """Return a filter of the ledger as it is shown."""
        return cls.model_construct(
            **{
                **{name: getattr(known, name) for name in _SAME},
                "tag": list(known.tags),
                "since": None if known.since is None else datetime.fromtimestamp(known.since, UTC),
                "until": None if known.until is None else datetime.fromtimestamp(known.until, UTC),
            }
        )

    def document(self) -> dict[str, Any]:
        """Return its members that narrow anything, as a client would write them."""
        given = {name: value for name, value in self if value not in (None, [], False)}
        return {
            name: rfc3339(round(value.timestamp() * 1000)) if isinstance(value, datetime) else value
            for name, value in given.items()
        }


#: The members that are the same in the ledger's filter.
_SAME = (
    *("task", "state", "queue", "worker", "owner", "min_duration", "min_wait", "min_attempt", "q", "dead", "failure"),
)
