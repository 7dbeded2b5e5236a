"""What is read and shown of workflows."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from tornado_celery_bridge import ledger
from tornado_celery_bridge.base.states import SUCCEEDED
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Moment, Path, rfc3339
from tornado_celery_bridge.service.resources.jobs.documents import Job, job
from tornado_celery_bridge.service.resources.links import Links


class WorkflowLinks(TypedDict):
    """More about a workflow."""

    self: Path
    cancel: Path


class Workflow(TypedDict):
    """Jobs that come after one another and beside one another."""

    id: str
    state: Annotated[str, Field(description="PENDING, STARTED, SUCCESS, FAILURE or REVOKED.")]
    done: Annotated[int, Field(description="Jobs that have ended.")]
    total: int
    finished: bool
    tags: list[str]
    created_at: Moment
    tree: Annotated[dict[str, Any], Field(description="The tree that was sent, with a Job instead of each step.")]
    on_error: NotRequired[Annotated[Job, Field(description="What runs when a step does not succeed.")]]
    links: WorkflowLinks


class WorkflowCancellation(Body):
    """Which part of a workflow to cancel, and how."""

    terminate: Annotated[bool, Field(description="End the processes that run its jobs, too.")] = False
    branch: Annotated[str, Field(description="JSON Pointer into the tree; without one, the whole workflow.")] = ""


def workflow(shown: ledger.Workflow, links: Links) -> Workflow:
    """Return a workflow: its tree as it was sent, with a job in the place of each step."""
    record, jobs = shown.record, _steps_of(shown)
    path = links.workflow(record.id)
    ended = sum(job.done for job in jobs)
    document: Workflow = {
        "id": record.id,
        "state": _state_of(shown),
        "done": ended,
        "total": len(jobs),
        "finished": shown.done,
        "tags": record.tags,
        "created_at": rfc3339(record.created_at),
        "tree": _tree(record.tree, shown.jobs, links)[0],
        "links": {"self": path, "cancel": f"{path}/cancel"},
    }
    if record.on_error is not None:
        document["on_error"] = job(shown.jobs[record.on_error], links)
    return document


def _steps_of(shown: ledger.Workflow) -> list[ledger.Job]:
    """Return the jobs that are in the tree."""
    return [each for name, each in shown.jobs.items() if name != shown.record.on_error]


def _state_of(shown: ledger.Workflow) -> str:
    if not shown.done:
        return "STARTED" if any(job.attempt for job in shown.jobs.values()) else "PENDING"
    if all(job.state in SUCCEEDED for job in _steps_of(shown)):
        return "SUCCESS"
    return "REVOKED" if shown.cancelled else "FAILURE"


def _tree(node: Any, jobs: Mapping[str, ledger.Job], links: Links) -> tuple[Any, int, int]:
    """Return a node with jobs in the places of their ids; how many of them are done, and how many there are."""
    if isinstance(node, str):
        return job(jobs[node], links), int(jobs[node].done), 1
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    parts = {key: _tree(child, jobs, links) for key, child in pairs}
    done, total = (sum(part[place] for part in parts.values()) for place in (1, 2))
    if isinstance(node, list):
        return [part[0] for part in parts.values()], done, total
    shown = {key: part[0] for key, part in parts.items()}
    if "header" in node:  # what a chord is made of, and no node of its own
        return shown, done, total
    return shown | {"done": done, "total": total}, done, total
