"""What is shown of who asks, and of the audit log."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge.service.access.keys import SCOPES, Principal

Login = Literal["key", "session", "none"]


class Me(TypedDict):
    """Who asks, and what they may do."""

    login: Annotated[Login, Field(description="By a key, by a session, or by neither: no keys are set up.")]
    key: Annotated[str | None, Field(description="The key's id; None where there are no keys.")]
    owner: Annotated[str, Field(description="Whose the jobs are that they submit.")]
    role: Annotated[str | None, Field(description="The most that they are of viewer, operator and admin.")]
    scopes: Annotated[list[str], Field(description="All that they have, those by admin too.")]
    tasks: Annotated[list[str], Field(description="Names that they may run; `*` ends one that stands for more.")]


class AuditEntry(TypedDict):
    """A request to change something that was not refused."""

    at: Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="When it was answered.")]
    key: Annotated[str | None, Field(description="The key's id; None where there are no keys.")]
    owner: str
    login: Login
    ip: str | None
    method: str
    path: str
    target: Annotated[str, Field(description="What was made by it, as a path; else the path.")]
    status: int
    request_id: Annotated[str, Field(description="As in the access log, and in X-Request-Id.")]


class Refused(TypedDict):
    """Requests of a key to change something that were refused alike."""

    key: Annotated[str | None, Field(description="The key's id; None where there are no keys.")]
    status: int
    times: int
    last_at: Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="When the last was counted.")]


class AuditEntries(TypedDict):
    """A page of the audit log, newest first."""

    entries: list[AuditEntry]
    refused: Annotated[list[Refused], Field(description="On the first page: what was refused since the beginning.")]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins.")]


def me(principal: Principal, login: Login) -> Me:
    """Return what whoever asks may do."""
    return {
        "login": login,
        "key": principal.key_id or None,
        "owner": principal.owner,
        "role": principal.role,
        "scopes": [scope for scope in SCOPES if principal.may(scope)],
        "tasks": list(principal.tasks),
    }
