"""Queries: how a request's query becomes a model."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints
from pydantic_core import PydanticCustomError

from tornado_celery_bridge.service.http.faults import Fault, escape, faults_of
from tornado_celery_bridge.service.http.problems import INVALID_QUERY

Q = TypeVar("Q", bound=BaseModel)

#: Elements of a page of a list; and its bytes, about: the page ends with what makes it larger.
MAX_LIMIT, MAX_PAGE = 200, 1024 * 1024


def _flag(text: Any) -> bool:
    if text not in ("true", "false", True, False):
        raise PydanticCustomError("literal_error", "Input should be 'true' or 'false'")
    return text in ("true", True)


#: ``true`` or ``false``.
Flag = Annotated[bool, PlainValidator(_flag, json_schema_input_type=bool)]
#: The name of a task or of a queue.
Name = Annotated[str, Field(max_length=500)]
#: A job's or a schedule's tag.
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Query(BaseModel):
    """A query of known members. A member that is a list may come several times; any other comes once."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Query):
    """How much of a list, and where in it."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    cursor: Annotated[str, Field(max_length=500, description="The `next_cursor` of the page before.")] | None = None


@cache
def _lists(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for name, field in model.model_fields.items() if get_origin(field.annotation) is list)


def parse_query(model: type[Q], query: Mapping[str, Sequence[bytes]]) -> Q:
    """
    Return a query as a *model*.

    Raises:
        Problem: 400, with a fault for everything that is unknown or does not fit. Pointers are into the query as an
            object.
    """
    try:
        given = {name: [value.decode() for value in values] for name, values in query.items()}
    except UnicodeDecodeError:
        raise INVALID_QUERY("The query is not UTF-8.") from None
    lists = _lists(model)
    single: dict[str, Any] = {name: values if name in lists else values[0] for name, values in given.items()}
    repeated = [name for name, values in given.items() if len(values) > 1 and name in model.model_fields.keys() - lists]
    faults = [Fault(f"/{escape(name)}", "This parameter should come once.") for name in repeated]
    try:
        parsed = model.model_validate(single)
    except pydantic.ValidationError as exc:
        faults += faults_of(exc, single, "", names=list(model.model_fields))
    if faults:
        raise INVALID_QUERY("The query does not fit.", faults=faults)
    return parsed
