"""``/v1/tasks``: list the tasks that may be run, read one, and change its limits or switch it off."""

from collections.abc import Sequence
from typing import ClassVar

from tornado_celery_bridge.ledger import LedgerUnavailable
from tornado_celery_bridge.ledger.limits import TaskLimit
from tornado_celery_bridge.service.http.conditions import IfNoneMatch
from tornado_celery_bridge.service.http.endpoint import NOT_MODIFIED, Answer, get, patch
from tornado_celery_bridge.service.http.problems import INVALID_BODY
from tornado_celery_bridge.service.resources.catalogue import UNKNOWN_TASK
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint, TaskName
from tornado_celery_bridge.service.resources.tasks import documents


class TaskEndpoint(ResourceEndpoint):
    """A route of tasks."""

    async def limits_of(self, names: Sequence[str]) -> dict[str, TaskLimit]:
        """Return what is set of the tasks of these names; nothing while the ledger is away."""
        try:
            return await self.jobs.ledger.limits.of_tasks(names)
        except LedgerUnavailable:
            return {}

    async def document(self, name: str) -> documents.Task:
        """Return a task as clients are shown it."""
        task = self.jobs.task(self.caller, name)
        return documents.task(task, self.links, (await self.limits_of([name])).get(name))


class ListTasks(TaskEndpoint):
    """List the tasks that may be run."""

    route = get("/v1/tasks", scope="read", tag="tasks")
    answers: ClassVar = {200: Answer("The tasks.", headers=("ETag",)), 304: NOT_MODIFIED}
    needs_ledger = False

    async def answer(self, known: IfNoneMatch) -> documents.Tasks:
        tasks = [task for task in self.jobs.catalogue if self.caller.may_run(task.name)]
        limits = await self.limits_of([task.name for task in tasks])
        shown = [documents.task_summary(task, self.links, limits.get(task.name)) for task in tasks]
        return {"tasks": shown, "next_cursor": None}


class ReadTask(TaskEndpoint):
    """Read a task, with the schemas of its input and result."""

    route = get("/v1/tasks/{task}", scope="read", tag="tasks")
    answers: ClassVar = {200: Answer("The task.", headers=("ETag",)), 304: NOT_MODIFIED}
    problems: ClassVar = (UNKNOWN_TASK,)
    needs_ledger = False

    async def answer(self, task: TaskName, known: IfNoneMatch) -> documents.Task:
        return await self.document(task)


class ChangeTask(TaskEndpoint):
    """
    Change a task's limits, or switch it off and on.

    It holds at once, in all processes, and until it is taken back by `null`. Jobs that run go on.
    """

    route = patch("/v1/tasks/{task}", scope="admin", tag="tasks")
    answers: ClassVar = {200: Answer("The task.")}
    problems: ClassVar = (UNKNOWN_TASK,)
    body_media_type: ClassVar = "application/merge-patch+json"

    async def answer(self, task: TaskName, body: documents.TaskChange) -> documents.Task:
        self.jobs.task(self.caller, task)
        changes = body.model_dump(include=body.model_fields_set)
        if changes.get("reason") is not None and changes.get("enabled") is not False:
            raise INVALID_BODY.at("/reason", "A reason is told with `enabled: false` alone.")
        await self.jobs.ledger.limits.set_task(task, by=self.caller.owner, **changes)
        return await self.document(task)
