"""The queries of lists."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from tornado_celery_bridge.schedules import Entry
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.resources.jobs.options import Tag
from tornado_celery_bridge.service.resources.tasks.catalogue import faults_of

__all__ = (
    "STATES",
    "ScheduleFilters",
    "parse_count",
    "parse_filters",
    "parse_page",
    "parse_query",
    "parse_schedule_filters",
)

Q = TypeVar("Q", bound=BaseModel)

#: A job is listed by one of these; one in a state of its own is among the running ones.
STATES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED")


class Page(BaseModel):
    """How much of a list, and where in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=500)] | None = None


class Filters(Page):
    """Which jobs, and how many of them."""

    task: Annotated[str, Field(max_length=500)] | None = None
    state: Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"] | None = None
    tag: Annotated[list[Tag], Field(max_length=20)] = []
    since: Annotated[AwareDatetime, BeforeValidator(datetime.fromisoformat)] | None = None  # else 2026 is in 1970
    dead: Literal["true", "false"] = "false"
    failure: Annotated[str, Field(max_length=50)] | None = None


def parse_page(query: Mapping[str, Sequence[bytes]]) -> Page:
    """Return the page that a query asks for; errors as :func:`parse_query`."""
    return parse_query(Page, query)


class ScheduleFilters(Page):
    """Which schedules, and how many of them."""

    task: Annotated[str, Field(max_length=500)] | None = None
    tag: Annotated[list[Tag], Field(max_length=20)] = []
    enabled: Literal["true", "false"] | None = None

    def fit(self, entry: Entry) -> bool:
        """Return whether it is one of these."""
        return (
            self.task in (None, entry.task)
            and set(self.tag) <= set(entry.tags)
            and self.enabled in (None, "true" if entry.enabled else "false")
        )


class Count(BaseModel):
    """How many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Annotated[int, Field(ge=1, le=100)] = 10


def parse_filters(query: Mapping[str, Sequence[bytes]]) -> dict[str, Any]:
    """
    Return the filters that a query asks for, as ``Jobs.find`` takes them.

    Raises:
        Problem: As :func:`parse_query`.
    """
    filters = parse_query(Filters, query, lists=("tag",))
    since = None if filters.since is None else filters.since.timestamp()
    return {
        **{"task": filters.task, "state": filters.state, "tags": filters.tag, "since": since},
        **{"dead": filters.dead == "true", "failure": filters.failure, "limit": filters.limit},
        "cursor": filters.cursor,
    }


def parse_query(model: type[Q], query: Mapping[str, Sequence[bytes]], *, lists: Sequence[str] = ()) -> Q:
    """
    Return a query as a *model*; of what comes several times, and is none of its *lists*, the last counts.

    Raises:
        Problem: 400, with what is unknown or does not fit; pointers are into the query as an object.
    """
    try:
        given = {name: [value.decode() for value in values] for name, values in query.items()}
    except UnicodeDecodeError:
        raise Problem(400, "invalid-query", "The query is not UTF-8.") from None
    single: dict[str, Any] = {name: values if name in lists else values[-1] for name, values in given.items()}
    try:
        return model.model_validate(single)
    except pydantic.ValidationError as exc:
        faults = faults_of(exc, single, "", names=list(model.model_fields))
        raise Problem(400, "invalid-query", "The query does not fit.", faults=faults) from None


def parse_schedule_filters(query: Mapping[str, Sequence[bytes]]) -> ScheduleFilters:
    """Return the filters of a list of schedules that a query asks for; errors as :func:`parse_query`."""
    return parse_query(ScheduleFilters, query, lists=("tag",))


def parse_count(query: Mapping[str, Sequence[bytes]]) -> int:
    """Return how many a query asks for; errors as :func:`parse_query`."""
    return parse_query(Count, query).count
