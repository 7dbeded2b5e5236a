"""
Workflows: jobs that come after one another and beside one another, as Celery's chain, group and chord have it.

Theory of operation. A body is read once, into a *sequence*: what happens one after the other, each element a leaf (a
job) or a fork (sequences side by side). A chain is a sequence; a group is a fork; a chord is its header's fork and then
its body. From that come three things: Celery's canvas (a fork with something after it is a chord, one without is a
group, and Celery need not rearrange anything), what waits for what (the ledger ends the jobs that come after one that
failed, as Celery never runs them), and the tree of the jobs' ids.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from celery import chain, chord, group
from celery.canvas import Signature
from celery.exceptions import QueueNotFound
from kombu.exceptions import EncodeError

from tornado_celery_bridge import BridgeError, DispatchUncertain, Stored
from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.ledger import (
    Gone,
    Job,
    JobRecord,
    LedgerUnavailable,
    Reservation,
    Step,
    Workflow,
    WorkflowRecord,
    error_mark,
)
from tornado_celery_bridge.ledger.destinations import Destination
from tornado_celery_bridge.ledger.submission import expiry
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.documents import milliseconds
from tornado_celery_bridge.service.http.faults import Fault, escape
from tornado_celery_bridge.service.http.idempotency import job_id_of
from tornado_celery_bridge.service.http.problems import INVALID_BODY, Kind, Problem
from tornado_celery_bridge.service.http.trace import message_headers
from tornado_celery_bridge.service.resources.catalogue import Arguments, ExposedTask
from tornado_celery_bridge.service.resources.jobs.options import JobOptions, parse_options
from tornado_celery_bridge.service.resources.jobs.problems import INVALID_OPTIONS
from tornado_celery_bridge.service.resources.jobs.service import (
    CANCEL_GRACE,
    Blob,
    Jobs,
    not_accepted,
    unpublishable,
)

UNKNOWN_WORKFLOW = Kind("unknown-workflow", 404, "There is no workflow of this id, or it is somebody else's.")
EXPIRED_WORKFLOW = Kind("expired-workflow", 410, "There was a workflow of this id, and its time is over.")
INVALID_WORKFLOW = Kind(
    "invalid-workflow", 422, "The workflow is not built of steps, chains, groups and chords as it should be."
)
WORKFLOW_TOO_LARGE = Kind("workflow-too-large", 422, "Too much comes after jobs that are side by side.")

_log = logging.getLogger(__name__)

MAX_JOBS = 1_000
#: Bytes of what the jobs of a workflow have returned that are shown with it.
MAX_SHOWN = 1024 * 1024
#: Chains, groups and chords inside each other.
MAX_NESTING = 10
#: Bytes, about, that Celery may send of steps in the messages of others: each job of a chord's header carries all that
#: comes after it, so 500 of them before a body of 1 MB would be 500 MB in the broker.
MAX_CARRIED = 32 * 1024 * 1024
#: About what a signature takes in a message beside its input.
SIGNATURE_SIZE = 500
#: Seconds that publishing a job of a canvas may take more than a job alone.
DISPATCH_EACH = 0.005

#: What Celery says of a canvas that it does not take; a result backend that can't do chords is not implemented.
_REFUSALS = (TypeError, EncodeError, QueueNotFound, NotImplementedError)

_KINDS = ("chain", "group", "chord")


@dataclass(slots=True, kw_only=True)
class _Leaf:
    """A job that will be made."""

    id: str
    task: ExposedTask
    #: The input, or where it is.
    given: dict[str, Any] | list[Any] | Stored
    arguments: Arguments
    options: JobOptions
    #: What they are to Celery.
    celery_options: dict[str, Any]
    goes_to: Destination
    #: The options as they were sent, without tags.
    asked: dict[str, Any]
    #: Whether it gets a result of what comes before it.
    receives: bool
    #: About how many bytes it takes in a message.
    size: int
    #: Names what comes after it.
    before: str | None = None


class _Fork(NamedTuple):
    """Sequences that run side by side."""

    branches: list["_Sequence"]


_Sequence = list[_Leaf | _Fork]


class Workflows:
    """The workflows of one Celery app. Errors are as of :class:`Jobs`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._ledger = jobs.ledger

    async def submit(
        self, principal: Principal, body: dict[str, Any], *, reservation: Reservation | None = None
    ) -> Workflow:
        """
        Accept a workflow: write it and its jobs down, then publish it. A request that was sent before changes nothing.

        Args:
            principal: Whose it will be.
            body: The request's body.
            reservation: Of the request's idempotency key.
        """
        plan = _Plan(self._jobs, principal, job_id_of(reservation))
        await asyncio.to_thread(plan.read, body)  # a thousand schemas: too long for the loop
        kept = {job_id: await self._jobs.keep(blob) for job_id, blob in plan.blobs.items()}
        begun = time.monotonic()
        link = self._jobs.links.workflow(plan.id)
        reference = {"workflow": {"id": plan.id, "links": {"self": link}}}
        accepting = self._ledger.workflows.accept(
            plan.record,
            plan.steps,
            plan.after,
            message=plan.canvas,
            max_unfinished=principal.max_unfinished,
            reservation=reservation,
        )
        try:
            accepted = await accepting
        except LedgerUnavailable as exc:
            raise self._jobs.unanswered(exc, link, reference) from exc
        await self._jobs.settle(accepted.kind, kept)
        if accepted.kind in ("replay", "exists"):
            return await self.get(principal, plan.id)
        if accepted.kind not in ("accepted", "taken-over"):
            raise not_accepted(accepted.kind, reference)
        await self._dispatch(plan, begun, reservation)
        await self._keep(plan.id, reservation)
        return Workflow(plan.record, {step.record.id: Job(record=step.record) for step in plan.steps})

    async def _dispatch(self, plan: "_Plan", begun: float, reservation: Reservation | None) -> None:
        try:
            left = self._jobs.bridge.time_left(begun) + DISPATCH_EACH * len(plan.steps)
            first = plan.steps[0].record.id
            await self._jobs.metrics.dispatch(
                self._jobs.bridge.publish(plan.canvas, job_id=first, dispatch_timeout=left)
            )
        except DispatchUncertain as exc:
            raise self._jobs.uncertain(plan.steps[0].record.id) from exc
        except BridgeError:
            await self._jobs.undo(f"workflow {plan.id}", self._ledger.workflows.withdraw(plan.id, reservation))
            raise
        except Exception as exc:
            # Celery's own complaint, which may come of a later message than the first: those before it are under way,
            # so the jobs have to stay there, cancelled, for the workers to drop them.
            ids = [step.record.id for step in plan.steps]
            await self._jobs.undo(f"workflow {plan.id}", self._ledger.workflows.cancel(plan.id, ids, whole=True))
            if not isinstance(exc, _REFUSALS):
                raise
            _log.warning("workflow %s could not be published: %r", plan.id, exc)
            raise unpublishable() from exc

    async def _keep(self, workflow_id: str, reservation: Reservation | None) -> None:
        """Note that the request was answered: the same request is then shown the workflow as it is at that time."""
        if reservation is None:
            return
        try:
            await self._ledger.idempotency_keys.respond(reservation, b"")
        except LedgerUnavailable as exc:
            _log.warning("that workflow %s is published is not kept: %s", workflow_id, exc)

    # Reading.

    async def get(self, principal: Principal, workflow_id: str) -> Workflow:
        """Return a workflow as it is now. 404 for an unknown one and for another owner's; 410 if there was one."""
        found = await self._ledger.workflows.get(workflow_id, most_bytes=MAX_SHOWN)
        if found is None or not principal.may_see(found):
            raise UNKNOWN_WORKFLOW("There is no workflow of this id.")
        if isinstance(found, Gone):
            raise EXPIRED_WORKFLOW("The workflow is no longer kept.")
        return found

    async def wait(self, principal: Principal, workflow: Workflow, timeout: float) -> Workflow:
        """Return a workflow once all its jobs are done, or as it is after *timeout* seconds."""
        if workflow.done:
            return workflow
        with self._jobs.follows(principal):
            await self._jobs.wait_for_end(workflow.record.id, 0, timeout)
        return await self.get(principal, workflow.record.id)

    # Cancelling.

    async def cancel(self, principal: Principal, workflow_id: str, branch: str, *, terminate: bool) -> Workflow:
        """
        Cancel the unfinished jobs of a workflow for good, each as :meth:`Jobs.cancel` does.

        Args:
            principal: Who asks.
            workflow_id: The workflow's id.
            branch: JSON Pointer to a part of the tree; empty for all of it. 422 if there is no such part.
            terminate: Whether to end the processes of those that run.
        """
        workflow = await self.get(principal, workflow_id)
        record = workflow.record
        ids = list(_ids(_branch(record.tree, branch)))
        if not branch and record.on_error is not None:
            ids.append(record.on_error)
        await self._ledger.workflows.cancel(
            workflow_id, ids, whole=not branch, grace=CANCEL_GRACE if terminate else None
        )
        workflow = await self.get(principal, workflow_id)
        for each in ids if terminate else ():
            if not workflow.jobs[each].done:
                self._jobs.terminate(principal, workflow.jobs[each])
        return workflow


class _Plan:
    """
    What is done for one request: the records, the canvas, and what comes after what.

    Args:
        jobs: Knows the tasks.
        principal: Whose it will be.
        workflow_id: The jobs' ids are made from it, so that they are the same when the request is sent again.
    """

    record: WorkflowRecord
    canvas: Signature[Any]

    def __init__(self, jobs: Jobs, principal: Principal, workflow_id: str) -> None:
        self.id = workflow_id
        self.steps: list[Step] = []
        #: Ids of jobs, by the name that what they come after knows them by.
        self.after: dict[str, list[str]] = {}
        #: Large inputs, by the ids of their jobs.
        self.blobs: dict[str, Blob] = {}
        self._jobs = jobs
        self._principal = principal
        self._leaves: list[_Leaf] = []
        self._faults: list[Fault] = []
        self._size = 0
        self._carried = 0
        self._now = datetime.now(UTC)

    def read(self, body: dict[str, Any]) -> None:
        """Take a body apart; 422 for everything that does not fit."""
        tags = self._read_tags(body)
        beside = ("tags", "on_error")
        sequence, tree = self._read_node({key: body[key] for key in body if key not in beside}, "", 1, receives=False)
        on_error = self._read_on_error(body["on_error"]) if "on_error" in body else None
        if self._faults:
            raise INVALID_WORKFLOW("The workflow does not fit.", faults=self._faults)
        self._connect(sequence, None)
        self.canvas, _, _ = self._canvas(sequence)
        if isinstance(self.canvas, chord):
            # Published twice, it is one chord all the same: Celery counts the parts of its header by this.
            self.canvas.set(task_id=str(uuid.uuid5(uuid.UUID(self.id), "header")))
        if self._carried > MAX_CARRIED:
            detail = "Too much comes after jobs that go on side by side: each of their messages carries all of it."
            raise WORKFLOW_TOO_LARGE(detail)
        created_at = milliseconds(self._now)
        self.record = WorkflowRecord(
            id=self.id,
            owner=self._principal.owner,
            tags=tags,
            created_at=created_at,
            tree=tree,
            on_error=None if on_error is None else on_error.id,
        )
        self.steps = [self._step(leaf) for leaf in self._leaves]
        if on_error is not None:
            signature = self._signature(on_error)
            message = {**signature, "args": [error_mark(self.id), *signature.args]}
            self.steps[-1] = self.steps[-1]._replace(message=message)

    # Reading the body.

    def _read_tags(self, body: dict[str, Any]) -> list[str]:
        try:
            return parse_options({"tags": body.get("tags", [])}, (), self._jobs.receivers).tags
        except Problem as exc:
            self._faults += [Fault(fault.pointer.removeprefix("/options"), fault.detail) for fault in exc.faults]
            return []

    def _read_node(self, node: Any, pointer: str, nesting: int, *, receives: bool) -> tuple[_Sequence, Any]:
        """Return what a node stands for, and the same with ids in the places of its steps."""
        if pointer and isinstance(node, dict) and "task" in node:
            leaf = self._read_leaf(node, pointer, receives=receives)
            return ([leaf], leaf.id) if leaf else ([], None)
        kinds = [key for key in node if key in _KINDS] if isinstance(node, dict) else []
        if len(kinds) != 1:
            shapes = "one of chain, group, chord and task" if pointer else "one of chain, group and chord"
            return self._fault(pointer, f"This should have {shapes}.")
        if len(node) > 1:
            self._faults += [
                Fault(f"{pointer}/{escape(key)}", "This is not known here.") for key in node.keys() - kinds
            ]
        if nesting > MAX_NESTING:
            return self._fault(pointer, f"Chains, groups and chords are nested more than {MAX_NESTING} deep.")
        kind, content = kinds[0], node[kinds[0]]
        if kind == "chord":
            sequence, tree = self._read_chord(content, f"{pointer}/chord", nesting, receives=receives)
        else:
            parts, tree = self._read_list(content, f"{pointer}/{kind}", nesting, receives=receives, kind=kind)
            sequence = [each for part in parts for each in part] if kind == "chain" else [_fork(parts)]
        return sequence, {kind: tree}

    def _read_chord(self, content: Any, pointer: str, nesting: int, *, receives: bool) -> tuple[_Sequence, Any]:
        if not isinstance(content, dict) or content.keys() != {"header", "body"}:
            return self._fault(pointer, "This should have a header and a body.")
        parts, header = self._read_list(content["header"], f"{pointer}/header", nesting, receives=receives)
        after, body = self._read_node(content["body"], f"{pointer}/body", nesting + 1, receives=True)
        return [_fork(parts), *after], {"header": header, "body": body}

    def _read_list(
        self, content: Any, pointer: str, nesting: int, *, receives: bool, kind: str = "group"
    ) -> tuple[list[_Sequence], Any]:
        """Return the steps of a list; in a chain, all but the first get a result of the one before."""
        if not isinstance(content, list) or not content:
            return self._fault(pointer, "This should be a list of at least one step.")
        read = [
            self._read_node(
                node, f"{pointer}/{place}", nesting + 1, receives=receives or (kind == "chain" and place > 0)
            )
            for place, node in enumerate(content)
        ]
        return [sequence for sequence, _ in read], [tree for _, tree in read]

    def _read_on_error(self, node: Any) -> _Leaf | None:
        if isinstance(node, dict) and "task" in node:
            return self._read_leaf(node, "/on_error", receives=True)
        self._fault("/on_error", "This should be a step: a task with its input.")
        return None

    def _read_leaf(self, node: dict[str, Any], pointer: str, *, receives: bool) -> _Leaf | None:
        if len(self._leaves) >= MAX_JOBS:
            detail = f"A workflow has at most {MAX_JOBS:,} jobs."
            raise INVALID_WORKFLOW.at(pointer, detail)
        try:
            leaf = self._leaf(node, receives=receives)
        except Problem as exc:
            faults = exc.faults or [Fault("/task", exc.detail)]
            self._faults += [Fault(pointer + fault.pointer, fault.detail) for fault in faults]
            return None
        self._leaves.append(leaf)
        return leaf

    def _leaf(self, node: dict[str, Any], *, receives: bool) -> _Leaf:
        if not isinstance(node["task"], str):
            raise INVALID_BODY("This should be the name of a task.")
        task = self._jobs.task(self._principal, node["task"])
        given, options = self._jobs.parse(task, {key: value for key, value in node.items() if key != "task"})
        asked = node.get("options", {})
        if "on_disconnect" in asked:
            detail = "A workflow goes on when its client hangs up."
            raise INVALID_OPTIONS.at("/options/on_disconnect", detail)
        job_id = str(uuid.uuid5(uuid.UUID(self.id), str(len(self._leaves))))
        arguments = task.arguments(given, receives=receives)
        blob = self._jobs.set_apart(given)
        if blob is not None:
            self.blobs[job_id] = blob
            arguments = task.called_with(blob.stored.in_place_of(given))
        celery_options = self._celery_options(task, options, receives=receives)
        goes_to = self._destination(task, arguments, celery_options, receives=receives)
        return _Leaf(
            id=job_id,
            celery_options=celery_options if receives else celery_options | goes_to.options,
            goes_to=goes_to,
            task=task,
            given=given if blob is None else blob.stored,
            arguments=arguments,
            size=SIGNATURE_SIZE + len(encoding.dumps(arguments)),
            options=options,
            asked={name: value for name, value in asked.items() if name != "tags"},
            receives=receives,
        )

    def _fault(self, pointer: str, detail: str) -> tuple[list[Any], None]:
        self._faults.append(Fault(pointer, detail))
        return [], None

    # What comes of it.

    def _connect(self, sequence: _Sequence, before: str | None) -> list[str]:
        """Tell the leaves of a sequence what comes after them, at its end *before*; return whom it begins with."""
        entries: list[str] = []
        for number, element in enumerate(reversed(sequence)):
            if number:
                before = str(len(self.after))
                self.after[before] = entries
            if isinstance(element, _Leaf):
                element.before = before
                entries = [element.id]
            else:
                entries = [each for branch in element.branches for each in self._connect(branch, before)]
        return entries

    def _canvas(self, sequence: _Sequence) -> tuple[Signature[Any], int, int]:
        """Return a sequence as Celery's canvas, how many jobs it has, and about how many bytes."""
        after: deque[Signature[Any]] = deque()
        jobs = size = 0
        for element in reversed(sequence):
            if isinstance(element, _Leaf):
                after.appendleft(self._signature(element))
                jobs, size = jobs + 1, size + element.size
                continue
            branches = [self._canvas(branch) for branch in element.branches]
            header = [branch for branch, _, _ in branches]
            beside = sum(count for _, count, _ in branches)
            self._carried += beside * size
            after = deque([chord(header, _chained(after)) if after else group(header)])
            jobs, size = jobs + beside, size + sum(length for _, _, length in branches)
        return _chained(after), jobs, size

    def _signature(self, leaf: _Leaf) -> Signature[Any]:
        args, kwargs = leaf.arguments
        made: Signature[Any] = leaf.task.task.signature(tuple(args), kwargs).set(task_id=leaf.id, **leaf.celery_options)
        return made

    def _celery_options(self, task: ExposedTask, options: JobOptions, *, receives: bool) -> dict[str, Any]:
        # A countdown begins when the step before has ended.
        made = options.for_celery(None if receives else self._now, self._jobs.catalogue.priorities)
        made["headers"] = message_headers()
        if task.task.ignore_result:
            made["ignore_result"] = False  # a worker says nothing of the end of a task without a result
        expires = expiry(self._jobs.bridge.app, task.name, made, self._now)
        if expires is not None and not receives:
            made["expires"] = expires
        return made

    def _destination(
        self, task: ExposedTask, arguments: Arguments, options: dict[str, Any], *, receives: bool
    ) -> Destination:
        """Return where a job goes. Of one that gets a result, the worker that publishes it may find another queue."""
        try:
            return self._jobs.destination(task, arguments, options)
        except Problem:
            raise
        except Exception:  # a router of the app's own, that looks at the result which is to come
            if not receives:
                raise
            return Destination(task.queue, {}, task.priority)

    def _step(self, leaf: _Leaf) -> Step:
        options = leaf.options
        due = options.eta if leaf.receives else options.due(self._now)
        expires = leaf.celery_options.get("expires")  # of a later step, seconds are counted once its turn has come
        record = JobRecord(
            id=leaf.id,
            task=leaf.task.name,
            owner=self._principal.owner,
            options=leaf.asked,
            tags=options.tags,
            queue=leaf.goes_to.queue,
            priority=leaf.goes_to.priority,
            created_at=milliseconds(self._now),
            eta=None if due is None else milliseconds(due),
            expires=milliseconds(expires) if isinstance(expires, datetime) else None,
            workflow=self.id,
            traceparent=message_headers().get("traceparent") if options.callback_url else None,
        )
        delay = max(0.0, (due - self._now).total_seconds()) if due else 0.0
        return Step(record, leaf.given, None if leaf.receives else delay, leaf.before)


def _fork(branches: list[_Sequence]) -> _Fork:
    """Return a fork of branches; one that is nothing but a fork is as well part of this one, as Celery has it."""
    flat: list[_Sequence] = []
    for branch in branches:
        match branch:
            case [_Fork(inner)]:
                flat += inner
            case _:
                flat.append(branch)
    return _Fork(flat)


def _chained(signatures: deque[Signature[Any]]) -> Signature[Any]:
    made: Signature[Any] = signatures[0] if len(signatures) == 1 else chain(*signatures)
    return made


def _branch(tree: Any, pointer: str) -> Any:
    """Return the part of a tree that a JSON Pointer leads to."""
    first, *keys = pointer.split("/")
    node = tree if not first else None
    for key in keys:
        match node:
            case dict():
                node = node.get(key)
            case list() if key.isascii() and key.isdigit() and len(key) < 6:
                node = node[int(key)] if int(key) < len(node) else None
            case _:
                node = None
    if node is None:
        detail = "There is no such branch in the tree."
        raise INVALID_BODY.at("/branch", detail)
    return node


def _ids(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
        return
    for child in node.values() if isinstance(node, dict) else node:
        yield from _ids(child)
