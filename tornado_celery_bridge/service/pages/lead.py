"""The way from a prefix to what is below it."""

from typing import ClassVar

from tornado_celery_bridge.service.http.endpoint import Answer, get
from tornado_celery_bridge.service.pages.page import PageEndpoint

__all__ = ("LeadToDashboard",)


class LeadToDashboard(PageEndpoint):
    """The way from the prefix, without a slash at its end, to the dashboard."""

    route = get("", is_public=True)
    answers: ClassVar = {303: Answer("The dashboard.")}

    async def answer(self) -> None:
        self.see_other(self.service.prefix.rpartition("/")[2] + "/")
        self.finish()
