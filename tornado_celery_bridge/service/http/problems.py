"""Errors as RFC 9457 problem documents."""

import http
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tornado.web

from tornado_celery_bridge import (
    BlobLost,
    BridgeError,
    BrokerUnavailable,
    DispatchSaturated,
    DispatchUncertain,
    ResultBackendUnavailable,
    StoreUnavailable,
    WaitersSaturated,
)
from tornado_celery_bridge.ledger import LedgerUnavailable
from tornado_celery_bridge.schedules import BackfillTooLarge, InvalidEntry, ScheduleConflict, ScheduleEntryNotFound
from tornado_celery_bridge.service.http.trace import Trace

__all__ = ("CONTENT_TYPE", "KINDS", "Fault", "Kind", "Problem", "problem_of", "title", "type_uri")

CONTENT_TYPE = "application/problem+json"

#: What of a broken body is worth telling; past this nobody reads on.
MAX_FAULTS = 50

_CODES: dict[type[BridgeError], str] = {
    BlobLost: "blob-lost",
    BrokerUnavailable: "broker-unavailable",
    DispatchSaturated: "dispatch-saturated",
    DispatchUncertain: "dispatch-uncertain",
    LedgerUnavailable: "ledger-unavailable",
    ResultBackendUnavailable: "result-backend-unavailable",
    StoreUnavailable: "store-unavailable",
    WaitersSaturated: "waiters-saturated",
    # Of these, what others change at the same moment.
    InvalidEntry: "invalid-schedule",
    ScheduleConflict: "schedule-conflict",
    ScheduleEntryNotFound: "unknown-schedule",
    BackfillTooLarge: "backfill-too-large",
}
# RFC 9110's names, which Python's http module has from 3.13 on: a title must not depend on that.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
_HTTP_CODES = {400: "bad-request", 403: "forbidden", 404: "not-found", 405: "method-not-allowed"}


class Kind(NamedTuple):
    """What one code stands for."""

    status: int
    when: str  #: for people, in Markdown


#: Every code that there is. docs/http.md has the same table, and the OpenAPI document is made of it.
KINDS = {
    "invalid-json": Kind(400, "The body is not UTF-8, not JSON, or not an object."),
    "unacceptable-json": Kind(400, "The body has something that Celery's JSON does not carry: docs/http.md lists it."),
    "too-deep": Kind(400, "The body has more than 32 levels."),
    "too-large": Kind(400, "The body has more than 10,000 values."),
    "bad-request": Kind(400, "The path is not UTF-8."),
    "key-in-query": Kind(400, "A key belongs into `Authorization`, not into the query."),
    "invalid-query": Kind(400, "The query has the wrong members."),
    "invalid-cursor": Kind(400, "The cursor is none of ours."),
    "invalid-event-id": Kind(400, "That is the id of no event."),
    "invalid-idempotency-key": Kind(400, "The key is empty, longer than 255 characters, or not printable."),
    "not-a-websocket": Kind(400, "The request is no WebSocket's handshake."),
    "unauthorized": Kind(401, "There is no valid key in `Authorization`."),
    "forbidden": Kind(403, "Sent by another site's page."),
    "forbidden-scope": Kind(403, "The key lacks the scope that this needs."),
    "unknown-task": Kind(404, "There is no task of this name."),
    "unknown-job": Kind(404, "There is no job of this id, or it is somebody else's."),
    "unknown-delivery": Kind(404, "The job has no delivery of this id."),
    "unknown-failure": Kind(404, "There is no group of failures of this id, or it is somebody else's."),
    "unknown-queue": Kind(404, "There is no queue of this name."),
    "unknown-worker": Kind(404, "There is no living worker of this name."),
    "unknown-schedule": Kind(404, "There is no schedule of this name, or it is somebody else's."),
    "unknown-workflow": Kind(404, "There is no workflow of this id, or it is somebody else's."),
    "not-found": Kind(404, "There is nothing at this path."),
    "method-not-allowed": Kind(405, "`Allow` says which methods are."),
    "idempotency-key-in-flight": Kind(409, "A request with this key is being answered; `job` names its job."),
    "job-unfinished": Kind(409, "The job has not ended."),
    "no-result": Kind(409, "The job ended without a result: `error` in the job says why."),
    "unconfirmed": Kind(409, "`confirm` is not the queue's name. Nothing was done."),
    "worker-refused": Kind(409, "The worker can't: `detail` says why."),
    "schedule-exists": Kind(409, "The name is taken: by a schedule of yours, or somebody else's."),
    "schedule-conflict": Kind(409, "Others changed the schedule at the same moment, several times: try again."),
    "static-schedule": Kind(409, "The configuration has this schedule: change it there, or pause it."),
    "schedule-quarantined": Kind(409, "What is stored by this name is malformed: PUT or DELETE it."),
    "blob-lost": Kind(410, "The job's large input or result is no longer in the store."),
    "expired-job": Kind(410, "There was a job of this id, and its time is over."),
    "expired-workflow": Kind(410, "There was a workflow of this id, and its time is over."),
    "precondition-failed": Kind(412, "`If-Match` or `If-None-Match` does not hold of what is there."),
    "body-too-large": Kind(413, "The body is larger than the service takes."),
    "unsupported-media-type": Kind(415, "`Content-Type` is there and is not JSON, or the body is compressed."),
    "invalid-body": Kind(422, "The body has the wrong members."),
    "invalid-input": Kind(422, "The input does not fit the task."),
    "invalid-options": Kind(422, "The options do not fit."),
    "invalid-workflow": Kind(422, "The workflow is not built of steps, chains, groups and chords as it should be."),
    "workflow-too-large": Kind(422, "Too much comes after jobs that are side by side."),
    "invalid-schedule": Kind(422, "The schedule does not fit, or can't be meant."),
    "backfill-too-large": Kind(422, "There are more than 1,000 slots in this time."),
    "unpublishable": Kind(422, "Celery itself refused it."),
    "idempotency-key-reused": Kind(422, "The key was used for another request."),
    "upgrade-required": Kind(426, "This path speaks WebSocket, version 13."),
    "rate-limited": Kind(429, "More requests than the key may make."),
    "too-many-unfinished-jobs": Kind(429, "The key's owner has as many unfinished jobs as they may."),
    "internal-error": Kind(500, "A bug; the service's log has the request's id."),
    "flower-unavailable": Kind(502, "Flower cannot be reached, or has another password."),
    "ledger-unavailable": Kind(503, "The job records cannot be reached. Nothing was accepted."),
    "store-unavailable": Kind(503, "Where large inputs and results are kept does not work. Nothing was accepted."),
    "broker-unavailable": Kind(503, "The broker cannot be reached. Nothing was accepted."),
    "result-backend-unavailable": Kind(503, "The queue was purged; not all who wait for results by Celery were told."),
    "dispatch-saturated": Kind(503, "Too many jobs wait to be published. Nothing was accepted."),
    "dispatch-uncertain": Kind(503, "Broker and ledger went away: `Location` and `job` name the job, which may run."),
    "waiters-saturated": Kind(503, "Too many requests wait already; the job is not affected."),
    "not-ready": Kind(503, "`checks` says what cannot be reached."),
    "shutting-down": Kind(503, "This process is about to end."),
    "worker-timeout": Kind(504, "The worker did not answer in time; it may do so all the same."),
    "flower-timeout": Kind(504, "Flower does not answer."),
}


class Fault(NamedTuple):
    """One thing that is wrong with a body."""

    pointer: str  #: JSON Pointer (RFC 6901) into the body
    detail: str


class Problem(tornado.web.HTTPError):
    """
    An error that a client is told about.

    Args:
        status: HTTP status.
        code: Short name, for programs; it never changes.
        detail: What happened this time, for people.
        faults: Where in the body.
        headers: For the response.
        members: More members of the document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status)
        self.code = code
        self.detail = detail
        self.faults = faults
        self.headers = dict(headers or {})
        self.members = dict(members or {})

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
            document["errors"] = [fault._asdict() for fault in self.faults[:MAX_FAULTS]]
        return document


def title(status: int) -> str:
    """Return what RFC 9110 calls a status."""
    return _TITLES.get(status) or http.HTTPStatus(status).phrase


def type_uri(code: str) -> str:
    """Return the URI that names a kind of problem."""
    return f"urn:problem:tornado-celery-bridge:{code}"


def problem_of(error: BaseException | None, status: int = 500) -> Problem:
    """Return what a client is told of *error*; of one that nobody expected, nothing but that it happened."""
    match error:
        case Problem():
            return error
        case BridgeError():
            return _problem_of_bridge(error)
        case tornado.web.HTTPError():
            return _problem_of_http(error.status_code, error.log_message)
        case None:
            return _problem_of_http(status, None)
    return Problem(500, "internal-error", "Something went wrong in the service; its log has the request's id.")


def _problem_of_bridge(error: BridgeError) -> Problem:
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
    code = _CODES.get(type(error), "internal-error")
    return Problem(error.http_status_hint, code, str(error), headers=headers)


def _problem_of_http(status: int, reason: str | None) -> Problem:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        status, phrase = 500, "Internal Server Error"
    return Problem(status, _HTTP_CODES.get(status, "http-error"), f"{phrase}.")
