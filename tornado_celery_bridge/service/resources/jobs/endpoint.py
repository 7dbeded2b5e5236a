"""What the endpoints of all resources share: the jobs, where things are, and waiting."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field

from tornado_celery_bridge.handlers import ClientLeft
from tornado_celery_bridge.ledger import Job
from tornado_celery_bridge.service.access.guard import Endpoint, GuardedSite
from tornado_celery_bridge.service.http.problems import SHUTTING_DOWN
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.jobs.service import Jobs
from tornado_celery_bridge.service.resources.links import Links

T = TypeVar("T")

#: Seconds for a client to take what was written.
WRITE_TIMEOUT = 30.0

JobId = Annotated[str, Field(description="A job's id.")]
TaskName = Annotated[str, Field(description="A task's name.")]


class JobsSite(GuardedSite, Protocol):
    """What the resources need of the service."""

    jobs: Jobs
    links: Links


class ResourceEndpoint(Endpoint):
    """A route of a resource."""

    service: JobsSite

    @property
    def jobs(self) -> Jobs:
        """The service's jobs."""
        return self.service.jobs

    @property
    def links(self) -> Links:
        """Where things are."""
        return self.service.links

    def check_accepting(self) -> None:
        """Raise a Problem if the process is about to end."""
        if self.service.lifecycle.closing.is_set():
            raise SHUTTING_DOWN("This process is about to end.", headers={"Retry-After": "1"})

    async def outcome(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """Return what *waiting* returns; None if the process has to end before. ClientLeft if the client hung up."""
        return await self.unless_client_leaves(self.service.lifecycle.unless_expired(waiting))

    async def send(self, pieces: AsyncGenerator[bytes]) -> None:
        """Write *pieces*; each one is with the client before the next is looked for. ClientLeft if it is too slow."""
        if self.request.method == "HEAD":
            await pieces.aclose()
            await self.flush()
            self.finish()
            return
        try:
            await self.unless_client_leaves(self._send(pieces))
        except TimeoutError:
            self._client_left = True
            raise ClientLeft from None

    async def _send(self, pieces: AsyncGenerator[bytes]) -> None:
        async with aclosing(pieces):
            async for piece in pieces:
                self.write(piece)
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await self.flush()

    async def show(self, job: Job) -> documents.Job:
        """Return a job as the caller may see it; if it is not done, say in the header when to ask again."""
        if not job.done:
            self.set_header("Retry-After", str(await self.jobs.retry_after(job.record.task, job.record.queue)))
        return documents.job(job, self.links, traceback=self.caller.sees_tracebacks)
