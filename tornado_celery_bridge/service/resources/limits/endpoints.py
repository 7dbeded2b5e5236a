"""``/v1/limits``: what limits the jobs of tasks now, and limits over several tasks together."""

from typing import Annotated, ClassVar

from pydantic import Field

from tornado_celery_bridge.ledger.limits import LimitTaken
from tornado_celery_bridge.service.http.endpoint import Answer, delete, get, put
from tornado_celery_bridge.service.http.problems import Kind
from tornado_celery_bridge.service.resources.jobs.endpoint import ResourceEndpoint
from tornado_celery_bridge.service.resources.limits import documents

UNKNOWN_LIMIT = Kind("unknown-limit", 404, "There is no limit of this name.")
LIMIT_TAKEN = Kind("limit-taken", 409, "One of the tasks is under another limit: `detail` says which.")

LimitName = Annotated[str, Field(description="A limit's name: up to 100 printable characters.")]


class ListLimits(ResourceEndpoint):
    """
    List the limits of tasks, and how many jobs run and wait under each.

    A task is here if its code limits it, or if something is set of it at run time.
    """

    route = get("/v1/limits", scope="monitor", tag="tasks")
    answers: ClassVar = {200: Answer("The limits.")}

    async def answer(self) -> documents.Limits:
        return documents.limits(await self.jobs.ledger.limits.all(), self.jobs.catalogue)


class PutLimit(ResourceEndpoint):
    """
    Limit several tasks together, or change such a limit.

    It holds at once, in all processes, beside each task's own. Jobs that run count, and go on if they are too many.
    """

    route = put("/v1/limits/{name}", scope="admin", tag="tasks")
    answers: ClassVar = {200: Answer("The limit.")}
    problems: ClassVar = (UNKNOWN_LIMIT, LIMIT_TAKEN)

    async def answer(self, name: LimitName, body: documents.LimitChange) -> documents.Limit:
        limits = self.jobs.ledger.limits
        if not name.isprintable() or len(name) > 100:
            raise UNKNOWN_LIMIT("A limit's name has up to 100 printable characters.")
        try:
            await limits.set_named(name, body.tasks, max_concurrency=body.max_concurrency, max_rate=body.max_rate)
        except LimitTaken as exc:
            raise LIMIT_TAKEN(f"{exc}.") from None
        return documents.limit(next(each for each in (await limits.all()).named if each.name == name))


class DeleteLimit(ResourceEndpoint):
    """Remove a limit over several tasks. Whatever waits for it goes on."""

    route = delete("/v1/limits/{name}", scope="admin", tag="tasks")
    answers: ClassVar = {204: Answer("It is gone.")}
    problems: ClassVar = (UNKNOWN_LIMIT,)

    async def answer(self, name: LimitName) -> None:
        if not await self.jobs.ledger.limits.remove_named(name):
            raise UNKNOWN_LIMIT("There is no limit of this name.")
