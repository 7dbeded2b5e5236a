"""The queries of lists."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from web.catalogue import faults_of
from web.options import Tag
from web.problems import Problem

__all__ = ("STATES", "parse_filters", "parse_page")

T = TypeVar("T", bound="Page")

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


def parse_page(query: Mapping[str, Sequence[bytes]]) -> Page:
    """Return the page that a query asks for; raises as :func:`parse_filters` does."""
    return _parse(Page, query)


def parse_filters(query: Mapping[str, Sequence[bytes]]) -> dict[str, Any]:
    """
    Return the filters that a query asks for, as ``Jobs.find`` takes them.

    Raises:
        Problem: 400, with what is unknown or does not fit; pointers are into the query as an object.
    """
    filters = _parse(Filters, query)
    since = None if filters.since is None else filters.since.timestamp()
    return {
        **{"task": filters.task, "state": filters.state, "tags": filters.tag, "since": since},
        **{"dead": filters.dead == "true", "limit": filters.limit, "cursor": filters.cursor},
    }


def _parse(model: type[T], query: Mapping[str, Sequence[bytes]]) -> T:
    try:
        given = {name: [value.decode() for value in values] for name, values in query.items()}
    except UnicodeDecodeError:
        raise Problem(400, "invalid-query", "The query is not UTF-8.") from None
    single: dict[str, Any] = {name: values if name == "tag" else values[-1] for name, values in given.items()}
    try:
        return model.model_validate(single)
    except pydantic.ValidationError as exc:
        faults = faults_of(exc, single, "", names=list(model.model_fields))
        raise Problem(400, "invalid-query", "The query does not fit.", faults=faults) from None
