"""
A bridge for unit tests, which needs no broker, no backend and no worker process.

It is the real :class:`Bridge` with a real Celery worker, in threads of this process, over Celery's own in-memory
broker and backend. It passes the same conformance suite as every other bridge (``tests/conformance``). It has no
processes to end, so ``revoke(terminate=True)`` and time limits do not work in it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.worker import state as worker_state

from tornado_celery_bridge.bridge.bridge import Bridge
from tornado_celery_bridge.bridge.config import BridgeConfig

__all__ = ("bridge",)

IN_MEMORY = {
    "broker_url": "memory://",
    "broker_read_url": None,
    "broker_write_url": None,
    "broker_transport_options": {"polling_interval": 0.01},
    "result_backend": "cache+memory://",
    "task_always_eager": False,
}
#: Seconds between two reads of the in-memory backend.
POLL_INTERVAL = 0.01


@asynccontextmanager
async def bridge(app: Celery, *, concurrency: int = 4) -> AsyncIterator[Bridge]:
    """
    Open a bridge that runs *app*'s tasks in this process. It closes at the end of the block.

    ::

        async with testing.bridge(app) as bridge:
            assert await (await bridge.dispatch(add.s(2, 2))) == 4

    While the bridge is open, the app's broker and backend are in memory. Afterwards the app has its own settings again.
    Only one such bridge may be open at a time.

    Args:
        app: The app whose tasks are run.
        concurrency: How many tasks run at once, each in a thread.

    .. versionadded:: 0.1.0
    """
    before = await asyncio.to_thread(_configure, app, IN_MEMORY)
    try:
        async with _worker(app, concurrency), Bridge(app, BridgeConfig(poll_interval=POLL_INTERVAL)) as opened:
            yield opened
    finally:
        await asyncio.to_thread(_configure, app, before)


def _configure(app: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Change the app's *settings*, drop the objects that it made with the old ones, and return the old ones."""
    before = {name: app.conf.get(name) for name in settings}
    app.conf.update(settings)
    app._pool = None
    app._local = threading.local()
    app._backend_cache = None
    app.__dict__.pop("amqp", None)
    app.__dict__.pop("control", None)
    app.__dict__.pop("events", None)
    return before


@asynccontextmanager
async def _worker(app: Celery, concurrency: int) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    started: asyncio.Future[None] = loop.create_future()
    ended: asyncio.Future[None] = loop.create_future()
    stop = threading.Event()

    def finish(future: "asyncio.Future[None]", error: BaseException | None) -> None:
        if error is None:
            future.set_result(None)
        elif not future.done():
            future.set_exception(error)

    def tell(future: "asyncio.Future[None]", error: BaseException | None = None) -> None:
        loop.call_soon_threadsafe(finish, future, error)

    threading.Thread(target=_work, args=(app, concurrency, stop, started, ended, tell), daemon=True).start()
    await started
    try:
        yield
    finally:
        stop.set()
        await ended


def _work(
    app: Celery,
    concurrency: int,
    stop: threading.Event,
    started: "asyncio.Future[None]",
    ended: "asyncio.Future[None]",
    tell: Callable[..., None],
) -> None:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]  # the worker replaces them, so they are set again below
    try:
        with start_worker(app, concurrency=concurrency, pool="threads", perform_ping_check=False, loglevel="ERROR"):
            root.setLevel(level)
            root.handlers[:] = handlers
            tell(started)
            stop.wait()
            # The worker checks after each message whether it has to end, and without messages every 2 s: send it some.
            worker_state.should_terminate = 0  # type: ignore[assignment]
            for _ in range(3):
                app.control.broadcast("ping")
                time.sleep(0.05)
    except Exception as exc:
        tell(ended if stop.is_set() else started, exc)
    else:
        tell(ended)
