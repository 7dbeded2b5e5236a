"""What the pages for people share."""

from typing import ClassVar, Protocol

from tornado_celery_bridge.service.access.guard import Endpoint, GuardedSite
from tornado_celery_bridge.service.http.endpoint import Answer
from tornado_celery_bridge.service.http.handler import File


class PagesSite(GuardedSite, Protocol):
    """What the pages need of the service."""

    #: The OpenAPI document.
    openapi: File


class PageEndpoint(Endpoint):
    """A route that people's browsers ask for."""

    service: PagesSite
    answers: ClassVar = {200: Answer("A page.", None)}
    reads_json = False
