"""One web process: opens the bridge, serves, and ends gracefully."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

import tornado
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from tornado_celery_bridge import Bridge, BridgeConfig, StoreUnavailable
from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.heartbeat import INTERVAL, Heartbeat, of_environment
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable, Store
from tornado_celery_bridge.ledger.checks import check, is_installed
from tornado_celery_bridge.service.access.keys import Keyring
from tornado_celery_bridge.service.pages.flower import Flower
from tornado_celery_bridge.service.process.application import make_app, make_server
from tornado_celery_bridge.service.process.lifecycle import Lifecycle
from tornado_celery_bridge.service.resources.callbacks.deliverer import Deliverer
from tornado_celery_bridge.service.resources.callbacks.receivers import Receivers
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets
from tornado_celery_bridge.service.resources.jobs.service import Jobs
from tornado_celery_bridge.service.resources.tasks.catalogue import Catalogue

__all__ = ("serve",)

_log = logging.getLogger(__name__)

#: Seconds for waits to finish by themselves, then for their answers to be written. `make up` kills after 30.
GRACE = 10.0
REST = 2.0
#: Seconds between two looks for jobs to forget.
SWEEP_INTERVAL = 5.0


async def serve(settings: Settings, *, reuse_port: bool = False, parent: int | None = None) -> None:
    """
    Serve until SIGTERM or SIGINT, then end gracefully.

    Args:
        settings: Where, and which tasks.
        reuse_port: Share the port with other processes that do so too.
        parent: A file descriptor whose end of file stands for SIGTERM: the parent process is gone.

    Raises:
        SettingsError: The Celery app or its backend is not there, something about them is unsafe, the file of API keys
            or of callbacks' secret cannot be used, or who may be called back makes no sense.
        OSError: The port is taken.
    """
    stop = _stop_signal(parent)
    lifecycle = Lifecycle()
    receivers, secrets = Receivers(settings.callback_allow), Secrets(settings.callback_secret_file)
    await asyncio.to_thread(secrets.check)
    keys = None if settings.api_keys_file is None else await asyncio.to_thread(Keyring, settings.api_keys_file)
    cookie_secret = None if keys is None else await asyncio.to_thread(lambda: secrets.of_sessions)
    app = await asyncio.to_thread(load_celery_app, settings.celery_app)
    await asyncio.to_thread(refuse_unsafe, app)
    await asyncio.to_thread(tracing.set_up, "web")
    async with AsyncExitStack() as stack:
        if heartbeat := of_environment():
            stack.callback(asyncio.ensure_future(keep_beating(heartbeat)).cancel)
        if keys is not None:
            stack.callback(asyncio.ensure_future(keys.watch()).cancel)
        try:
            bridge = await stack.enter_async_context(Bridge(app, BridgeConfig(job_ttl=settings.job_ttl)))
            ledger = bridge.ledger
        except (ImportError, ImproperlyConfigured, ValueError) as exc:
            raise SettingsError(f"the Celery app: {exc}") from exc
        stack.callback(asyncio.ensure_future(keep_swept(ledger, bridge.store)).cancel)
        deliverer = Deliverer(ledger, receivers, secrets)
        stack.push_async_callback(deliverer.close)
        stack.callback(asyncio.ensure_future(deliverer.run()).cancel)
        jobs = Jobs(bridge, ledger, await asyncio.to_thread(Catalogue, app), receivers)
        stack.push_async_callback(jobs.close)
        stack.callback(asyncio.ensure_future(jobs.metrics.watch(bridge.ping_broker)).cancel)
        flower = Flower(settings.flower_url, settings.flower_password_file)
        stack.callback(flower.close)
        application = make_app(
            *(bridge, jobs),
            keys=keys,
            lifecycle=lifecycle,
            max_body=settings.max_body,
            cookie_secret=cookie_secret,
            flower=flower,
        )
        server = make_server(application, behind_proxy=settings.behind_proxy)
        server.listen(settings.port, settings.bind, reuse_port=reuse_port)
        _log.info("tornado=%s serving http://%s:%d", tornado.version, _in_url(settings.bind), settings.port)
        stack.push_async_callback(server.close_all_connections)
        await stop.wait()
        _log.info("stopping: no new connections, %.0f s for waits to finish", GRACE)
        server.stop()
        await lifecycle.end(GRACE, REST)
    _log.info("stopped")


def _stop_signal(parent: int | None) -> asyncio.Event:
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


def refuse_unsafe(app: Celery) -> None:
    """
    Log what is unwise about *app* and its servers; blocks.

    Raises:
        SettingsError: Something is unsafe.
    """
    findings = check(app, installed=is_installed(app))
    for finding in findings:
        if not finding.is_unsafe:
            _log.warning("%s", finding)
    if unsafe := [str(finding) for finding in findings if finding.is_unsafe]:
        raise SettingsError("\n     ".join(unsafe))


async def keep_beating(heartbeat: Heartbeat) -> None:
    """Tell the supervisor, for as long as this is not cancelled, that the loop turns."""
    while True:
        heartbeat.tick()
        await asyncio.sleep(INTERVAL / 2)


async def keep_swept(ledger: Ledger, store: Store | None) -> None:
    """Forget, for as long as this is not cancelled, jobs whose time is over; all processes may do so."""
    while True:
        try:
            while await ledger.jobs.sweep():
                pass
            while store is not None and (blobs := await ledger.blobs.orphans()):
                await asyncio.to_thread(store.remove_all, blobs)
                await ledger.blobs.removed(blobs)
        except (LedgerUnavailable, StoreUnavailable) as exc:
            _log.info("%s", exc)
        await asyncio.sleep(SWEEP_INTERVAL)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
