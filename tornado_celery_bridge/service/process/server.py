"""One web process: opens the bridge, serves, and ends gracefully."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

import tornado
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from tornado.web import Application

from tornado_celery_bridge import Bridge, BridgeConfig
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.handlers import drain
from tornado_celery_bridge.service.access.guard import NotFound
from tornado_celery_bridge.service.http.server import KEPT_BY_KERNEL, Server, raise_descriptors
from tornado_celery_bridge.service.process.application import GRACE, Service

_log = logging.getLogger(__name__)

#: New objects after which Python's collector looks at the young ones, and how often it does that before it looks at
#: older ones, and at all.
GENERATIONS = (5_000, 10, 20)


async def serve(
    settings: Settings, load: Callable[[], Celery], *, reuse_port: bool = False, parent: int | None = None
) -> None:
    """
    Serve until SIGTERM or SIGINT, then end gracefully.

    Args:
        settings: Where.
        load: Returns the app whose tasks are served; it may block.
        reuse_port: Share the port with other processes that do so too.
        parent: A file descriptor whose end of file stands for SIGTERM: the parent process is gone.

    Raises:
        SettingsError: The Celery app or its backend is not there, something about them is unsafe, the file of API keys
            or of callbacks' secret cannot be used, or who may be called back makes no sense.
        OSError: The port is taken.
    """
    raise_descriptors()
    stop = stop_signal(parent)
    app = await asyncio.to_thread(load)
    async with AsyncExitStack() as stack:
        try:
            bridge = await stack.enter_async_context(Bridge(app, BridgeConfig(job_ttl=settings.job_ttl)))
            service = await stack.enter_async_context(Service(bridge, settings))
        except (ImportError, ImproperlyConfigured, ValueError) as exc:
            raise SettingsError(f"the Celery app: {exc}") from exc
        server = make_server(service, behind_proxy=settings.behind_proxy)
        spare_the_collector()
        server.listen(settings.port, settings.bind, reuse_port=reuse_port, backlog=KEPT_BY_KERNEL)
        _log.info("tornado=%s serving http://%s:%d", tornado.version, _in_url(settings.bind), settings.port)
        stack.push_async_callback(server.close_all_connections)
        await stop.wait()
        _log.info("stopping: no new connections, %.0f s for waits to finish", GRACE)
        await drain(server, GRACE, service.lifecycle)
    _log.info("stopped")


def make_server(service: Service, *, behind_proxy: bool = False) -> Server:
    """
    Return a server of *service* alone.

    Args:
        service: What answers.
        behind_proxy:
            Whether a proxy alone can connect. Then the client's address and scheme are those of ``X-Real-IP`` and
            ``X-Forwarded-Proto``, and without API keys it is the proxy that decides for which names it asks.
    """
    # BIND decides who may connect, but a page of another site connects from this machine, too (DNS rebinding).
    routes = service.routes(any_host=behind_proxy)
    application = Application(routes, default_handler_class=NotFound, default_handler_args={"service": service})
    return Server(application, behind_proxy=behind_proxy)


def spare_the_collector() -> None:
    """
    Have Python's collector stop this process less often, and for less long.

    A full collection goes through all objects between two turns of the loop. What was imported is some 0.1 s of it, and
    stays for good. And with Python's own bounds requests that are under way, some 200 objects each, count as old after
    a few others, and soon are so many that all is gone through again.
    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GENERATIONS)


def stop_signal(parent: int | None = None) -> asyncio.Event:
    """Return what SIGTERM and SIGINT set, and the end of the file of *parent*."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:

        def parent_is_gone() -> None:
            loop.remove_reader(parent)
            stop.set()

        loop.add_reader(parent, parent_is_gone)
    return stop


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
