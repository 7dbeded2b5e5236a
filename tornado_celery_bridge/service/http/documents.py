"""What problems look like, and the types and times that all documents share."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NotRequired

from pydantic import Field
from pydantic.config import JsonDict
from typing_extensions import TypedDict  # before Python 3.12, pydantic cannot read typing's

from tornado_celery_bridge.service.http.faults import Fault

MOMENT: JsonDict = {"format": "date-time"}

Moment = Annotated[str, Field(json_schema_extra=MOMENT, description="RFC 3339, UTC.")]
Path = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]


class Broker(TypedDict):
    """What task messages go through, as it is set up here: with `verbose`, for admins."""

    url: Annotated[str, Field(description="Where it is, without passwords.")]
    server: Annotated[str, Field(description="Its name and version, as far as it says them; or why it did not.")]
    capabilities: Annotated[dict[str, str], Field(description="What it can do and what not, for people.")]


class Finding(TypedDict):
    """Something about the settings or servers that is not as it should be: with `verbose`, for admins."""

    name: str
    verdict: Annotated[
        Literal["unsafe", "allowed", "unwise"],
        Field(description="`unsafe` was found after the start: with it, nothing starts."),
    ]
    what: Annotated[str, Field(description="What is wrong, and what follows from it.")]
    remedy: str


class JobReference(TypedDict):
    """A job that may have been accepted."""

    id: str
    links: dict[str, str]


class Problem(TypedDict):
    """An error: RFC 9457."""

    type: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    title: str
    status: int
    detail: Annotated[str, Field(description="What happened this time, for people.")]
    instance: Annotated[str, Field(description="The request's path.")]
    code: Annotated[str, Field(description="For programs; a code does not change its meaning, but there may be more.")]
    request_id: str
    trace_id: str
    errors: NotRequired[Annotated[list[Fault], Field(description="What is wrong with the body.")]]
    job: NotRequired[Annotated[JobReference, Field(description="With dispatch-uncertain: the job to ask about.")]]
    checks: NotRequired[
        Annotated[dict[str, str], Field(description="With not-ready: what can be used, and what cannot.")]
    ]
    broker: NotRequired[Annotated[Broker, Field(description="With not-ready and `verbose`, for admins.")]]
    findings: NotRequired[Annotated[list[Finding], Field(description="With not-ready and `verbose`, for admins.")]]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The bounds of RFC 3339, in milliseconds since 1970.
_EARLIEST, _LATEST = -62_135_596_800_000, 253_402_300_799_999


def milliseconds(moment: datetime) -> int:
    """Return *moment*, which has a time zone, in milliseconds since 1970, as the ledger stores times."""
    return round(moment.timestamp() * 1000)


def rfc3339(moment: int) -> str:
    """
    Return milliseconds since 1970 as RFC 3339 has a time.

    A time that RFC 3339 does not have, before the year 1 or after 9999, is shown as the first or the last that it has:
    one job of the library's must not keep a list of others from being shown.
    """
    text = (_EPOCH + timedelta(milliseconds=min(max(moment, _EARLIEST), _LATEST))).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
