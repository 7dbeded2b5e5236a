"""``/v1/operations``: cancel, try again or delete all jobs that a filter fits."""

import asyncio
from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from tornado_celery_bridge import ledger
from tornado_celery_bridge.service.access.guard import FORBIDDEN_SCOPE
from tornado_celery_bridge.service.http.endpoint import Answer, get, post
from tornado_celery_bridge.service.http.prefer import Preferences
from tornado_celery_bridge.service.http.problems import SHUTTING_DOWN, Kind
from tornado_celery_bridge.service.resources.jobs.endpoint import JobsSite, ResourceEndpoint
from tornado_celery_bridge.service.resources.operations import documents
from tornado_celery_bridge.service.resources.operations.operator import Operator

UNKNOWN_OPERATION = Kind("unknown-operation", 404, "There is no operation of this id, or it is somebody else's.")
TOO_MANY_OPERATIONS = Kind("too-many-operations", 429, "A hundred operations of the owner are under way.")

#: The scope that each action needs.
SCOPES = {"cancel": "cancel", "retry": "submit", "delete": "cancel"}
#: Seconds that a cancelled job has to end by itself before its process is ended.
GRACE = 1.0
#: Seconds between two looks at an operation that a request waits for.
LOOK = 0.1

OperationId = Annotated[str, Field(description="An operation's id.")]


class OperationsSite(JobsSite, Protocol):
    """What the operations need of the service."""

    operator: Operator


class OperationsEndpoint(ResourceEndpoint):
    """A route of operations. An admin sees all of them, and others see their own."""

    service: OperationsSite

    @property
    def operations(self) -> ledger.Operations:
        """The operations in the ledger."""
        return self.jobs.ledger.operations

    async def known(self, operation_id: str) -> ledger.Operation:
        """Return an operation; 404 if there is none, or it is another's."""
        found = await self.operations.get(operation_id)
        if found is None or not (self.caller.is_admin or found.owner == self.caller.owner):
            raise UNKNOWN_OPERATION("There is no operation of this id.")
        return found

    async def ended(self, operation: ledger.Operation, seconds: int | None) -> ledger.Operation:
        """Return an operation once it has ended, or as it is after so many *seconds*."""
        if seconds and operation.state == "RUNNING":
            await self.outcome(self._wait(operation.id, seconds))
            return await self.known(operation.id)
        return operation

    async def _wait(self, operation_id: str, seconds: int) -> None:
        for _ in range(round(seconds / LOOK)):
            found = await self.operations.get(operation_id)
            if found is None or found.state != "RUNNING":
                return
            await asyncio.sleep(LOOK)

    def show(self, operation: ledger.Operation) -> documents.Operation:  # type: ignore[override]
        """Return an operation as it is shown."""
        return documents.operation(operation, self.links)


class Operate(OperationsEndpoint):
    """
    Cancel, try again or delete all jobs that a filter fits.

    It is done in the background, step by step, by whichever process of the service is there. Jobs that are accepted
    later are left alone. Without `"dry_run": false` the jobs are only counted. With it, the key also needs the scope
    that the same would need for one job: `cancel` to cancel and to delete, `submit` to try again.
    """

    route = post("/v1/operations", scope="read", tag="jobs")
    answers: ClassVar = {
        202: Answer("The operation, which is under way.", headers=("Location",)),
        200: Answer(
            "The operation, which has ended within the time that the request would wait.", headers=("Location",)
        ),
    }
    problems: ClassVar = (SHUTTING_DOWN, TOO_MANY_OPERATIONS)

    async def admit(self, **path: str) -> None:
        self.check_accepting()

    async def answer(self, body: documents.NewOperation, prefer: Preferences) -> documents.Operation:
        needed = SCOPES[body.action]
        if not body.dry_run and not self.caller.may(needed):
            raise FORBIDDEN_SCOPE(f"This key lacks the scope {needed}.")
        operation = await self.operations.begin(
            body.action,
            body.filter.for_principal(self.caller),
            owner=self.caller.owner,
            by=self.service.operator.note(self.caller),
            dry_run=body.dry_run,
            grace=GRACE if body.terminate else None,
        )
        if operation is None:
            detail = "A hundred operations of yours are under way: wait for one, or cancel one."
            raise TOO_MANY_OPERATIONS(detail, headers={"Retry-After": "5"})
        self.service.operator.wake()
        self.set_header("Location", self.links.operation(operation.id))
        operation = await self.ended(operation, prefer.wait)
        self.set_status(202 if operation.state == "RUNNING" else 200)
        return self.show(operation)


class ListOperations(OperationsEndpoint):
    """
    List the last operations, newest first.

    Of each owner the last 100 are kept, for a week after their ends.
    """

    route = get("/v1/operations", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The operations: your own, or for an admin everybody's.")}

    async def answer(self) -> documents.Operations:
        found = await self.operations.last(None if self.caller.is_admin else self.caller.owner)
        return {"operations": [self.show(each) for each in found], "next_cursor": None}


class ReadOperation(OperationsEndpoint):
    """Read an operation, or wait until it has ended."""

    route = get("/v1/operations/{id}", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The operation; `done` tells whether it has ended.")}
    problems: ClassVar = (UNKNOWN_OPERATION,)

    async def answer(self, id: OperationId, prefer: Preferences) -> documents.Operation:
        return self.show(await self.ended(await self.known(id), prefer.wait))


class CancelOperation(OperationsEndpoint):
    """End an operation before it has come to all jobs. What it has done stays done."""

    route = post("/v1/operations/{id}/cancel", scope="cancel", tag="jobs")
    answers: ClassVar = {200: Answer("The operation. One that had ended stays as it is.")}
    problems: ClassVar = (UNKNOWN_OPERATION,)

    async def answer(self, id: OperationId) -> documents.Operation:
        await self.known(id)
        await self.operations.cancel(id, f"cancelled by {self.caller.owner or 'somebody'}")
        return self.show(await self.known(id))
