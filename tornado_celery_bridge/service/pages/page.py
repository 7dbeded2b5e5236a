"""What the pages for people share."""

from typing import ClassVar, Protocol

from tornado_celery_bridge.service.access.guard import Endpoint, GuardedSite
from tornado_celery_bridge.service.access.keys import Principal
from tornado_celery_bridge.service.http.endpoint import Answer
from tornado_celery_bridge.service.http.handler import File


class PagesSite(GuardedSite, Protocol):
    """What the pages need of the service."""

    async def openapi(self, caller: Principal | None) -> File:
        """Return the OpenAPI document as *caller* may see it; None for whoever has no key."""


class PageEndpoint(Endpoint):
    """A route that people's browsers ask for."""

    service: PagesSite
    answers: ClassVar = {200: Answer("A page.", None)}
    reads_json = False
