"""The dashboard, the OpenAPI document and the page that shows it, and the files that they load."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tornado_celery_bridge.service.http.endpoint import NOT_MODIFIED, Answer, get
from tornado_celery_bridge.service.http.problems import NOT_FOUND
from tornado_celery_bridge.service.pages import files
from tornado_celery_bridge.service.pages.page import PageEndpoint


def _page(description: str, *media_types: str) -> dict[int, Answer]:
    """Return how a page, or a file of one, is answered."""
    body: Any = str if media_types == ("text/html",) else {}
    return {200: Answer(description, body, media_types=media_types, headers=("ETag",)), 304: NOT_MODIFIED}


class ReadOpenapi(PageEndpoint):
    """
    This document, with the tasks that the caller may run.

    Without a key it names neither tasks nor queues.
    """

    route = get("/openapi.json", is_public=True, tag="service")
    answers: ClassVar = {200: Answer("OpenAPI 3.1.", {"type": "object"}, headers=("ETag",)), 304: NOT_MODIFIED}

    async def answer(self) -> None:
        self.set_header("Vary", "Authorization, Cookie")
        self.write_file(await self.service.openapi(await self.known_caller()))


class FileEndpoint(PageEndpoint):
    """A page, or a file that it loads."""

    async def send(self, place: Path, media_type: str) -> None:
        """Answer with a file, which may load nothing but what is served here."""
        self.set_header("Content-Security-Policy", files.POLICY)
        self.write_file(await asyncio.to_thread(files.read, place, media_type))

    async def send_one_of(self, known: Mapping[str, tuple[Path, str]], name: str) -> None:
        """Answer with the file of this name."""
        if name not in known:
            raise NOT_FOUND("There is nothing at this path.")
        await self.send(*known[name])


class ReadDocs(FileEndpoint):
    """This document, for people."""

    route = get("/docs", is_public=True, tag="service")
    answers: ClassVar = _page("A page.", "text/html")

    async def answer(self) -> None:
        await self.send(files.PAGES / "docs.html", "text/html")


class ReadDocsFile(FileEndpoint):
    """What the page consists of."""

    route = get("/docs/{file}", is_public=True, tag="service")
    answers: ClassVar = _page("A file.", "text/javascript", "text/css")
    problems: ClassVar = (NOT_FOUND,)

    async def answer(
        self, file: Annotated[str, Field(description="A file's name.", json_schema_extra={"enum": [*files.DOCS]})]
    ) -> None:
        await self.send_one_of(files.DOCS, file)


class ReadDashboard(FileEndpoint):
    """The dashboard, for people."""

    route = get("/", is_public=True, tag="service")
    answers: ClassVar = _page("A page.", "text/html")

    async def answer(self) -> None:
        await self.send(files.PAGES / "dashboard.html", "text/html")


class ReadDashboardFile(FileEndpoint):
    """What the dashboard consists of."""

    route = get("/dashboard/{part}", is_public=True, tag="service")
    answers: ClassVar = _page("A file.", "text/javascript", "text/css", "image/svg+xml")
    problems: ClassVar = (NOT_FOUND,)

    async def answer(
        self, part: Annotated[str, Field(description="A file's name.", json_schema_extra={"enum": [*files.DASHBOARD]})]
    ) -> None:
        await self.send_one_of(files.DASHBOARD, part)


class LeadToDashboard(PageEndpoint):
    """The way from the prefix, without a slash at its end, to the dashboard."""

    route = get("", is_public=True)
    answers: ClassVar = {303: Answer("The dashboard.")}

    async def answer(self) -> None:
        self.see_other(self.service.prefix.rpartition("/")[2] + "/")
        self.finish()
