"""Handlers that run Celery tasks: one for each way to wait for a task, or not to wait."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from tornado import gen
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from tasks.data import profile_csv
from tasks.text import count_words
from tornado_celery_bridge import Bridge, TaskFailed
from tornado_celery_bridge.handlers import ClientLeft, TaskHandlerMixin

PAGE = Path(__file__).parent / "page.html"


class PageHandler(RequestHandler):
    """The page that tries the other handlers."""

    def get(self) -> None:
        self.render(str(PAGE))


class WordsHandler(TaskHandlerMixin, RequestHandler):
    """Counts the words of a text, and answers with the result of the task."""

    async def post(self) -> None:
        """Await a result. If the broker is away or the task takes too long, the mixin answers 503 or 504."""
        result = await self.bridge.dispatch(count_words.s(text_of(self), top=5))
        self.write(await self.bridge.get(result, timeout=10.0))

    @gen.coroutine
    def get(self) -> Generator[Any, Any, None]:
        """Do the same in the older style of Tornado: yield what is awaited above."""
        result = yield self.bridge.dispatch(count_words.s(self.get_query_argument("text"), top=5))
        counts = yield result
        self.write(counts)


class ProfileHandler(TaskHandlerMixin, RequestHandler):
    """Profiles a table, and revokes the task if the client leaves before the answer."""

    async def post(self) -> None:
        result = await self.bridge.dispatch(profile_csv.s(text_of(self)))
        try:
            self.write(await self.unless_client_leaves(self.bridge.get(result, timeout=60.0)))
        except ClientLeft:
            await self.bridge.revoke(result, terminate=True)
        except TaskFailed as failure:  # the task raises ValueError for a broken table: that is the client's error
            self.set_status(422)
            self.write({"error": str(failure.__cause__)})


class ProgressHandler(WebSocketHandler):
    """Profiles the tables that come in over a WebSocket, and sends each state of the task: progress, then the end."""

    async def on_message(self, message: str | bytes) -> None:
        bridge: Bridge = self.settings["bridge"]
        result = await bridge.dispatch(profile_csv.s(message))
        try:
            async for state in bridge.stream(result, timeout=60.0):
                progress = state.progress and {"current": state.progress.current, "total": state.progress.total}
                await self.write_message(
                    {
                        "state": state.state,
                        "progress": progress,
                        "result": state.result,
                        "error": state.error and state.error.message,
                    }
                )
        except WebSocketClosedError:
            await bridge.revoke(result, terminate=True)


class JobHandler(TaskHandlerMixin, RequestHandler):
    """Submits a job, which no crash loses, and answers at once with where the service shows it."""

    async def post(self) -> None:
        job = await self.bridge.submit(count_words.s(text_of(self)), tags=["sample"])
        self.set_status(202)
        self.set_header("Location", f"/v1/jobs/{job.id}")
        self.write({"id": job.id})


def text_of(handler: RequestHandler) -> str:
    """Return the body of a request as text."""
    try:
        return handler.request.body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise HTTPError(400, reason="The body should be text in UTF-8") from exc


ROUTES: list[tuple[str, type[RequestHandler]]] = [
    ("/sample", PageHandler),
    ("/sample/words", WordsHandler),
    ("/sample/profile", ProfileHandler),
    ("/sample/progress", ProgressHandler),
    ("/sample/jobs", JobHandler),
]
