"""``/v1/tasks``: list the tasks that may be run, and read one."""

from typing import ClassVar

from tornado_celery_bridge.service.http.conditions import IfNoneMatch
from tornado_celery_bridge.service.http.endpoint import NOT_MODIFIED, Answer, get
from tornado_celery_bridge.service.resources.catalogue import UNKNOWN_TASK
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint, TaskName
from tornado_celery_bridge.service.resources.tasks import documents


class ListTasks(ResourceEndpoint):
    """List the tasks that may be run."""

    route = get("/v1/tasks", scope="read", tag="tasks")
    answers: ClassVar = {200: Answer("The tasks.", headers=("ETag",)), 304: NOT_MODIFIED}
    needs_ledger = False

    async def answer(self, known: IfNoneMatch) -> documents.Tasks:
        tasks = [task for task in self.jobs.catalogue if self.caller.may_run(task.name)]
        return {"tasks": [documents.task_summary(task, self.links) for task in tasks], "next_cursor": None}


class ReadTask(ResourceEndpoint):
    """Read a task, with the schemas of its input and result."""

    route = get("/v1/tasks/{task}", scope="read", tag="tasks")
    answers: ClassVar = {200: Answer("The task.", headers=("ETag",)), 304: NOT_MODIFIED}
    problems: ClassVar = (UNKNOWN_TASK,)
    needs_ledger = False

    async def answer(self, task: TaskName, known: IfNoneMatch) -> documents.Task:
        return documents.task(self.jobs.task(self.caller, task), self.links)
