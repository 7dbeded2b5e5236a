"""``/v1/jobs/{id}/deliveries``: the outcome of calling a job's receiver, and calling it again."""

from typing import Annotated, ClassVar

from pydantic import Field

from tornado_celery_bridge.service.http.endpoint import Answer, get, post
from tornado_celery_bridge.service.http.problems import Kind
from tornado_celery_bridge.service.resources.callbacks import documents
from tornado_celery_bridge.service.resources.jobs.endpoint import JobId, ResourceEndpoint
from tornado_celery_bridge.service.resources.jobs.problems import JOB

UNKNOWN_DELIVERY = Kind("unknown-delivery", 404, "The job has no delivery of this id.")


class DeliveriesEndpoint(ResourceEndpoint):
    """A route of deliveries."""

    async def deliveries(self, job_id: str) -> list[documents.Delivery]:
        """Return the state of telling a job's receiver that it has ended: one delivery, or none."""
        job = await self.jobs.get(self.caller, job_id)
        delivery = await self.jobs.ledger.callbacks.delivery(job_id)
        return [] if delivery is None else [documents.delivery(job, delivery)]


class ListDeliveries(DeliveriesEndpoint):
    """See the outcome of calling a job's callback_url."""

    route = get("/v1/jobs/{id}/deliveries", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The deliveries; none before the job's end.")}
    problems: ClassVar = JOB

    async def answer(self, id: JobId) -> documents.Deliveries:
        return {"deliveries": await self.deliveries(id)}


class ReplayDelivery(DeliveriesEndpoint):
    """Call a callback_url again."""

    route = post("/v1/jobs/{id}/deliveries/{delivery}/replay", scope="submit", tag="jobs")
    answers: ClassVar = {202: Answer("The delivery, which begins anew.")}
    problems: ClassVar = (*JOB, UNKNOWN_DELIVERY)

    async def answer(
        self, id: JobId, delivery: Annotated[str, Field(description="A delivery's id.")]
    ) -> documents.Delivery:
        if delivery not in [each["id"] for each in await self.deliveries(id)]:
            raise UNKNOWN_DELIVERY("This job has no delivery of this id.")
        await self.jobs.ledger.callbacks.replay(id)
        [replayed] = await self.deliveries(id)
        return replayed
