"""What is shown of calling a receiver back."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge import ledger
from tornado_celery_bridge.service.http.documents import Moment, rfc3339


class Attempt(TypedDict):
    """A request to a callback_url: how it was answered, or why it was not."""

    at: Moment
    seconds: Annotated[float, Field(description="How long it took.")]
    status: NotRequired[int]
    error: NotRequired[str]


class Delivery(TypedDict):
    """The state of calling a callback_url."""

    id: Annotated[str, Field(description="The event's id, and the webhook-id: the same at every attempt.")]
    url: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    state: Literal["waiting", "delivered", "failed"]
    attempts: Annotated[list[Attempt], Field(description="The last 20, the oldest first.")]
    next_attempt_at: Annotated[Moment | None, Field(description="While it waits.")]


class Deliveries(TypedDict):
    """The deliveries of a job: one, once it has ended and has a callback_url."""

    deliveries: list[Delivery]


def delivery(of: ledger.Job, shown: ledger.Delivery) -> Delivery:
    """Return how it stands with calling a job's callback_url."""
    due = shown.next_attempt
    return {
        "id": shown.id,
        "url": of.record.callback_url or "",
        "state": shown.state,
        "attempts": shown.attempts,
        "next_attempt_at": None if due is None else rfc3339(due),
    }
