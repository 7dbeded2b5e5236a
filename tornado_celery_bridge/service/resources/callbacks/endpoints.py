"""``/v1/jobs/{id}/deliveries``: the outcome of calling a job's receiver, and calling it again."""

from typing import Annotated, ClassVar

from pydantic import Field

from tornado_celery_bridge.service.http.endpoint import Answer, get, post
from tornado_celery_bridge.service.resources.callbacks import documents
from tornado_celery_bridge.service.resources.jobs.endpoint import JobId, ResourceEndpoint
from tornado_celery_bridge.service.resources.jobs.problems import JOB
from tornado_celery_bridge.service.resources.jobs.service import UNKNOWN_DELIVERY


class ListDeliveries(ResourceEndpoint):
    """See the outcome of calling a job's callback_url."""

    route = get("/v1/jobs/{id}/deliveries", scope="read", tag="jobs")
    answers: ClassVar = {200: Answer("The deliveries; none before the job's end.")}
    problems: ClassVar = JOB

    async def answer(self, id: JobId) -> documents.Deliveries:
        job, deliveries = await self.jobs.deliveries(self.caller, id)
        return {"deliveries": [documents.delivery(job, each) for each in deliveries]}


class ReplayDelivery(ResourceEndpoint):
    """Call a callback_url again."""

    route = post("/v1/jobs/{id}/deliveries/{delivery}/replay", scope="submit", tag="jobs")
    answers: ClassVar = {202: Answer("The delivery, which begins anew.")}
    problems: ClassVar = (*JOB, UNKNOWN_DELIVERY)

    async def answer(
        self, id: JobId, delivery: Annotated[str, Field(description="A delivery's id.")]
    ) -> documents.Delivery:
        job, replayed = await self.jobs.replay(self.caller, id, delivery)
        return documents.delivery(job, replayed)
