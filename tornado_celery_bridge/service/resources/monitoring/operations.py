"""What admins do to queues and workers: pause, resume and purge the ones, resize and shut down the others."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from tornado_celery_bridge.ledger import WorkerState
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.resources import documents
from tornado_celery_bridge.service.resources.monitoring.endpoints import MonitorHandler
from tornado_celery_bridge.service.resources.schedules.fields import parse

__all__ = (
    "GrowHandler",
    "PauseQueueHandler",
    "Purge",
    "PurgeHandler",
    "Resize",
    "ResumeQueueHandler",
    "ShrinkHandler",
    "ShutdownHandler",
)


class Purge(BaseModel):
    """That a queue is really to be emptied."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    confirm: Annotated[str, Field(description="The queue's name, once more.")]


class Resize(BaseModel):
    """By how many tasks at once a worker is to grow or shrink."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    by: Annotated[int, Field(ge=1, le=100)] = 1


class QueueHandler(MonitorHandler):
    """What handlers of one queue share. As it is everybody's, only admins may."""

    scopes: ClassVar = {"POST": "admin"}

    async def find(self, name: str) -> documents.Queue:
        """
        Return a queue as it is.

        Raises:
            Problem: 404, there is none of this name.
        """
        for queue in await self.queues():
            if queue["name"] == name:
                return queue
        raise Problem(404, "unknown-queue", "There is no queue of this name.")


class PauseQueueHandler(QueueHandler):
    """``/v1/queues/{queue}/pause``"""

    async def post(self, name: str) -> None:
        await self.read_nothing()
        await self.find(name)
        await self.jobs.ledger.queues.pause(name)
        self.write_json(await self.find(name))


class ResumeQueueHandler(QueueHandler):
    """``/v1/queues/{queue}/resume``"""

    async def post(self, name: str) -> None:
        await self.read_nothing()
        await self.find(name)
        await self.jobs.ledger.queues.resume(name)
        self.write_json(await self.find(name))


class PurgeHandler(QueueHandler):
    """``/v1/queues/{queue}/purge``"""

    async def post(self, name: str) -> None:
        await self.find(name)
        asked = parse(Purge, await self.read_json(), "invalid-body")
        if asked.confirm != name:
            raise Problem(409, "unconfirmed", "`confirm` should be the queue's name: nothing was done.")
        by = f"{self.principal.owner} (key {self.principal.key_id})" if self.principal.key_id else "somebody"
        done = await self.jobs.bridge.purge(name, f"queue {name} was purged by {by}")
        self.write_json({"name": name, "jobs": done.jobs, "messages": done.messages})


class WorkerHandler(MonitorHandler):
    """What handlers of one worker share."""

    scopes: ClassVar = {"POST": "admin"}

    async def find(self, name: str) -> WorkerState:
        """
        Return a living worker.

        Raises:
            Problem: 404, there is none of this name.
        """
        for worker in await self.monitor.workers():
            if worker.name == name and worker.is_alive:
                return worker
        raise Problem(404, "unknown-worker", "There is no living worker of this name.")

    async def resize(self, name: str, by: int) -> None:
        """Answer with what a worker says to running *by* more tasks at once."""
        worker = await self.find(name)
        if worker.slots + by < 1:
            raise Problem(409, "worker-refused", f"It runs {worker.slots} at once, and would run none: shut it down.")
        answer = await self.jobs.bridge.resize_pool(name, by)
        if answer is None:
            raise Problem(504, "worker-timeout", "The worker did not answer; it may do so all the same.")
        if "ok" not in answer:
            raise Problem(409, "worker-refused", f"The worker says: {answer.get('error', answer)}")
        self.write_json({"name": name, "answer": answer["ok"]})


class ShutdownHandler(WorkerHandler):
    """``/v1/workers/{worker}/shutdown``"""

    async def post(self, name: str) -> None:
        await self.read_nothing()
        await self.find(name)
        await self.jobs.bridge.shut_down_worker(name)
        self.write_json({"name": name, "answer": "told to end once its tasks have"}, 202)


class GrowHandler(WorkerHandler):
    """``/v1/workers/{worker}/grow``"""

    async def post(self, name: str) -> None:
        await self.resize(name, parse(Resize, await self.read_json(optional=True), "invalid-body").by)


class ShrinkHandler(WorkerHandler):
    """``/v1/workers/{worker}/shrink``"""

    async def post(self, name: str) -> None:
        await self.resize(name, -parse(Resize, await self.read_json(optional=True), "invalid-body").by)
