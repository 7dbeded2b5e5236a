"""
Problems: errors as RFC 9457 documents.

A :class:`Kind` is declared once, where it is raised, and called to make a :class:`Problem`::

    UNKNOWN_JOB = Kind("unknown-job", 404, "There is no job of this id, or it is somebody else's.")
    raise UNKNOWN_JOB("There is no job of this id.")

An endpoint lists the kinds that it may answer with. The OpenAPI document and the docs' table follow from these lists.
"""

import http
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tornado.web
from redis.exceptions import NoPermissionError

from tornado_celery_bridge import (
    BlobLost,
    BridgeError,
    BrokerUnavailable,
    DispatchSaturated,
    DispatchUncertain,
    ResultBackendUnavailable,
    StoreUnavailable,
    TaskSwitchedOff,
    WaitersSaturated,
)
from tornado_celery_bridge.base.redis import OF_CLUSTER, refusal
from tornado_celery_bridge.ledger import LedgerUnavailable
from tornado_celery_bridge.schedules import BackfillTooLarge, InvalidEntry, ScheduleConflict, ScheduleEntryNotFound
from tornado_celery_bridge.service.http.faults import MAX_FAULTS, Fault
from tornado_celery_bridge.service.http.trace import Trace

CONTENT_TYPE = "application/problem+json"

# RFC 9110's names. Python's http module has them from 3.13 on, and a title must not depend on the version.
_TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}


class Problem(tornado.web.HTTPError):
    """An error that a client is told about. Its :class:`Kind` makes it."""

    def __init__(
        self,
        kind: "Kind",
        detail: str,
        faults: Sequence[Fault],
        headers: Mapping[str, str],
        members: Mapping[str, Any],
    ) -> None:
        super().__init__(kind.status)
        self.code = kind.code
        self.detail = detail
        self.faults = faults
        self.headers = headers
        self.members = members

    def document(self, instance: str, trace: Trace) -> dict[str, Any]:
        """Return the problem's body for one request."""
        document: dict[str, Any] = {
            "type": type_uri(self.code),
            "title": title(self.status_code),
            "status": self.status_code,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "request_id": trace.request_id,
            "trace_id": trace.trace_id,
            **self.members,
        }
        if self.faults:
            document["errors"] = [{"pointer": each.pointer, "detail": each.detail} for each in self.faults[:MAX_FAULTS]]
        return document


@dataclass(frozen=True)
class Kind:
    """A kind of problem. Call it to make one."""

    code: str  #: short name, for programs; it never changes
    status: int  #: HTTP status
    when: str  #: when it is answered: for people, in Markdown

    def __call__(
        self,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] = {},
        members: Mapping[str, Any] = {},
    ) -> Problem:
        """
        Return a problem of this kind.

        Args:
            detail: What happened this time, for people.
            faults: Where in the body.
            headers: For the response.
            members: More members of the document.
        """
        return Problem(self, detail, faults, headers, members)

    def at(self, pointer: str, detail: str) -> Problem:
        """Return a problem whose detail is its one fault."""
        return self(detail, faults=[Fault(pointer, detail)])


# What any request may be answered.
BAD_REQUEST = Kind("bad-request", 400, "The path is not UTF-8.")
BODY_TOO_LARGE = Kind("body-too-large", 413, "The body is larger than the service takes.")
URI_TOO_LONG = Kind("uri-too-long", 414, "The path with its query is longer than 8,000 characters.")
HEADER_TOO_LARGE = Kind("header-too-large", 431, "The header's fields have more than 16 KiB.")
FORBIDDEN = Kind("forbidden", 403, "Sent by another site's page.")
INTERNAL_ERROR = Kind("internal-error", 500, "A bug; the service's log has the request's id.")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "The path has no such method; `Allow` says which it has.")
NOT_FOUND = Kind("not-found", 404, "There is nothing at this path.")
SHUTTING_DOWN = Kind("shutting-down", 503, "This process is about to end.")

# Bodies and queries.
INVALID_JSON = Kind("invalid-json", 400, "The body is not UTF-8, not JSON, or not an object.")
UNACCEPTABLE_JSON = Kind(
    "unacceptable-json", 400, "The body has something that Celery's JSON does not carry: docs/http.md lists it."
)
TOO_DEEP = Kind("too-deep", 400, "The body has more than 32 levels.")
TOO_LARGE = Kind("too-large", 400, "The body has more than 10,000 values.")
UNSUPPORTED_MEDIA_TYPE = Kind(
    "unsupported-media-type", 415, "`Content-Type` is there and is not JSON, or the body is compressed."
)
INVALID_BODY = Kind("invalid-body", 422, "The body has the wrong members.")
INVALID_QUERY = Kind("invalid-query", 400, "The query has the wrong members.")
INVALID_CURSOR = Kind("invalid-cursor", 400, "The cursor is not one that this list gave out.")

# What the bridge and the ledger raise.
BLOB_LOST = Kind("blob-lost", 410, "The job's large input or result is no longer in the store.")
LEDGER_UNAVAILABLE = Kind(
    "ledger-unavailable", 503, "The job records do not answer. What was asked for may have been done."
)
STORE_UNAVAILABLE = Kind(
    "store-unavailable", 503, "Where large inputs and results are kept does not work. Nothing was accepted."
)
BROKER_UNAVAILABLE = Kind("broker-unavailable", 503, "The broker cannot be reached. Nothing was accepted.")
RESULT_BACKEND_UNAVAILABLE = Kind(
    "result-backend-unavailable",
    503,
    "The queue was purged; not all who wait for results by Celery were told.",
)
TASK_SWITCHED_OFF = Kind(
    "task-switched-off", 503, "An operator has switched the task off: `detail` says why. Nothing was accepted."
)
DISPATCH_SATURATED = Kind("dispatch-saturated", 503, "Too many jobs wait to be published. Nothing was accepted.")
DISPATCH_UNCERTAIN = Kind(
    "dispatch-uncertain", 503, "Broker and ledger went away: `Location` and `job` name the job, which may run."
)
WAITERS_SATURATED = Kind("waiters-saturated", 503, "Too many requests wait already; the job is not affected.")
INVALID_SCHEDULE = Kind("invalid-schedule", 422, "The schedule does not fit, or it could never be due.")
SCHEDULE_CONFLICT = Kind(
    "schedule-conflict", 409, "Others changed the schedule at the same moment, several times: try again."
)
UNKNOWN_SCHEDULE = Kind("unknown-schedule", 404, "There is no schedule of this name, or it is somebody else's.")
BACKFILL_TOO_LARGE = Kind("backfill-too-large", 422, "There are more than 1,000 slots in this time.")

_OF_ERRORS: dict[type[BridgeError], Kind] = {
    BlobLost: BLOB_LOST,
    BrokerUnavailable: BROKER_UNAVAILABLE,
    DispatchSaturated: DISPATCH_SATURATED,
    DispatchUncertain: DISPATCH_UNCERTAIN,
    LedgerUnavailable: LEDGER_UNAVAILABLE,
    ResultBackendUnavailable: RESULT_BACKEND_UNAVAILABLE,
    StoreUnavailable: STORE_UNAVAILABLE,
    TaskSwitchedOff: TASK_SWITCHED_OFF,
    WaitersSaturated: WAITERS_SATURATED,
    # Of a schedule that others change at the same moment.
    InvalidEntry: INVALID_SCHEDULE,
    ScheduleConflict: SCHEDULE_CONFLICT,
    ScheduleEntryNotFound: UNKNOWN_SCHEDULE,
    BackfillTooLarge: BACKFILL_TOO_LARGE,
}
_OF_STATUSES = {kind.status: kind for kind in (BAD_REQUEST, FORBIDDEN, NOT_FOUND, METHOD_NOT_ALLOWED)}


def title(status: int) -> str:
    """Return what RFC 9110 calls a status."""
    return _TITLES.get(status) or http.HTTPStatus(status).phrase


def type_uri(code: str) -> str:
    """Return the URI that names a kind of problem."""
    return f"urn:problem:tornado-celery-bridge:{code}"


def problem_of(error: BaseException | None, status: int = 500) -> Problem:
    """Return what a client is told of *error*. Of an error that nobody expected, it is only that there was one."""
    match error:
        case Problem():
            return error
        case BridgeError():
            headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
            return _OF_ERRORS.get(type(error), INTERNAL_ERROR)(str(error), headers=headers)
        case _ if isinstance(error, (NoPermissionError, *OF_CLUSTER)):  # of the ledger's Redis, or of another
            return LEDGER_UNAVAILABLE(refusal(error))
        case tornado.web.HTTPError():
            return _problem_of_status(error.status_code)
        case None:
            return _problem_of_status(status)
    return INTERNAL_ERROR("Something went wrong in the service; its log has the request's id.")


def _problem_of_status(status: int) -> Problem:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        status, phrase = 500, "Internal Server Error"
    return _OF_STATUSES.get(status, Kind("http-error", status, "Tornado refused the request."))(f"{phrase}.")
