"""``/v1/workflows``: submit, read and cancel workflows."""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tornado_celery_bridge import WaitersSaturated
from tornado_celery_bridge.ledger import LedgerUnavailable, Workflow
from tornado_celery_bridge.service.access.limits import TOO_MANY_FOLLOWED
from tornado_celery_bridge.service.http.conditions import IfNoneMatch
from tornado_celery_bridge.service.http.endpoint import NOT_MODIFIED, Answer, get, post
from tornado_celery_bridge.service.http.idempotency import IdempotencyKey
from tornado_celery_bridge.service.http.prefer import Preferences
from tornado_celery_bridge.service.http.problems import WAITERS_SATURATED, Problem
from tornado_celery_bridge.service.resources.jobs.accepting import AcceptingEndpoint
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint
from tornado_celery_bridge.service.resources.jobs.endpoints import MAX_BATCH_NODES
from tornado_celery_bridge.service.resources.jobs.problems import SUBMISSION
from tornado_celery_bridge.service.resources.workflows import documents
from tornado_celery_bridge.service.resources.workflows.service import (
    EXPIRED_WORKFLOW,
    INVALID_WORKFLOW,
    UNKNOWN_WORKFLOW,
    WORKFLOW_TOO_LARGE,
    Workflows,
)

WORKFLOW = (UNKNOWN_WORKFLOW, EXPIRED_WORKFLOW)

WorkflowId = Annotated[str, Field(description="A workflow's id.")]


class WorkflowEndpoint(ResourceEndpoint):
    """A route of workflows: waits for one, and shows it."""

    @property
    def workflows(self) -> Workflows:
        """The service's workflows."""
        return Workflows(self.jobs)

    async def outcome_of(self, workflow: Workflow, seconds: int) -> Workflow:
        """Return a workflow once it is done, or as it is after so many *seconds*."""
        return await self.outcome(self.workflows.wait(self.caller, workflow, seconds)) or workflow

    async def show_workflow(self, workflow: Workflow) -> documents.Workflow:
        """Return a workflow; if it is not done, say in the header when to ask again."""
        if not workflow.done:
            kinds = {(job.record.task, job.record.queue) for job in workflow.jobs.values() if not job.done}
            seconds = await asyncio.gather(*(self.jobs.retry_after(*kind) for kind in kinds))
            self.set_header("Retry-After", str(max(seconds)))
        return documents.workflow(workflow, self.links)


class SubmitWorkflow(WorkflowEndpoint, AcceptingEndpoint):
    """
    Submit a workflow of up to 1,000 jobs.

    `{"chain": [step…]}`, `{"group": [step…]}` or `{"chord": {"header": [step…], "body": step}}`, with `tags` and
    `on_error`, a step, beside it. A step is `{"task", "input", "options"}`, or again a chain, a group or a chord. A
    step that comes after another gets its result as the first argument.
    """

    route = post("/v1/workflows", scope="submit", tag="submit")
    answers: ClassVar = {
        202: Answer("The workflow was accepted.", headers=("Location",)),
        200: Answer("The workflow, all of it done.", headers=("Location",)),
    }
    problems: ClassVar = (*SUBMISSION, INVALID_WORKFLOW, WORKFLOW_TOO_LARGE)
    max_nodes: ClassVar = MAX_BATCH_NODES

    async def answer(
        self, body: Annotated[dict[str, Any], {"type": "object"}], prefer: Preferences, key: IdempotencyKey
    ) -> documents.Workflow:
        workflow = await self.workflows.submit(self.caller, body, reservation=self.reservation(key))
        self.set_header("Location", self.links.workflow(workflow.record.id))
        with suppress(LedgerUnavailable):  # it is accepted
            await self.pay(owed=len(workflow.jobs) - 1)  # the first is paid for by the request
        if prefer.wait:
            with suppress(LedgerUnavailable, WaitersSaturated, Problem):  # it is accepted: waiting may raise no error
                workflow = await self.outcome_of(workflow, prefer.wait)
        self.set_status(200 if workflow.done else 202)
        return await self.show_workflow(workflow)


class ReadWorkflow(WorkflowEndpoint):
    """Read a workflow, or wait until all of it is done."""

    route = get("/v1/workflows/{id}", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The workflow.", headers=("Retry-After", "ETag")), 304: NOT_MODIFIED}
    problems: ClassVar = (*WORKFLOW, WAITERS_SATURATED, TOO_MANY_FOLLOWED)

    async def answer(self, id: WorkflowId, prefer: Preferences, known: IfNoneMatch) -> documents.Workflow:
        workflow = await self.workflows.get(self.caller, id)
        if prefer.wait:
            workflow = await self.outcome_of(workflow, prefer.wait)
        return await self.show_workflow(workflow)


class CancelWorkflow(WorkflowEndpoint):
    """Cancel a workflow, or a branch of it."""

    route = post("/v1/workflows/{id}/cancel", scope="cancel", tag="jobs")
    answers: ClassVar = {
        200: Answer("The workflow, all of it done."),
        202: Answer("The workflow; what runs of it has been told.", headers=("Retry-After",)),
    }
    problems: ClassVar = WORKFLOW

    async def answer(
        self, id: WorkflowId, body: documents.WorkflowCancellation = documents.WorkflowCancellation()
    ) -> documents.Workflow:
        workflow = await self.workflows.cancel(self.caller, id, body.branch, terminate=body.terminate)
        self.set_status(200 if workflow.done else 202)
        return await self.show_workflow(workflow)
