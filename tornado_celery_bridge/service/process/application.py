"""
The service as a part of a Tornado application: yours, or the one that ``tcb serve`` makes.

All its state is in a :class:`Service`, which each rule gives to its handler. The application's own settings are
neither needed nor changed.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from celery import Celery
from tornado.routing import PathMatches, Rule

from tornado_celery_bridge import Bridge, StoreUnavailable
from tornado_celery_bridge.base import tracing
from tornado_celery_bridge.base.app import why_none_exposed
from tornado_celery_bridge.base.heartbeat import INTERVAL, Heartbeat, of_environment
from tornado_celery_bridge.base.logs import hide, hide_passwords
from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable, Store
from tornado_celery_bridge.ledger.checks import refuse_unsafe
from tornado_celery_bridge.ledger.fleet import check_fleet
from tornado_celery_bridge.ledger.strangers import Strangers
from tornado_celery_bridge.schedules import Schedules
from tornado_celery_bridge.service.access.audit import Audit
from tornado_celery_bridge.service.access.guard import MethodNotAllowed, NotFound
from tornado_celery_bridge.service.access.keys import Keyring, Principal
from tornado_celery_bridge.service.access.receivers import Receivers
from tornado_celery_bridge.service.http.endpoint import rules
from tornado_celery_bridge.service.http.handler import MAX_BODY, File
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.http.lifecycle import Lifecycle
from tornado_celery_bridge.service.http.turns import Turns
from tornado_celery_bridge.service.pages.files import make_file
from tornado_celery_bridge.service.pages.flower import Flower
from tornado_celery_bridge.service.process.routes import ENDPOINTS, openapi_of
from tornado_celery_bridge.service.resources.callbacks.deliverer import Deliverer
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets
from tornado_celery_bridge.service.resources.catalogue import Catalogue
from tornado_celery_bridge.service.resources.jobs.service import Jobs
from tornado_celery_bridge.service.resources.links import Links
from tornado_celery_bridge.service.resources.operations.operator import Operator

_log = logging.getLogger(__name__)

#: Seconds for waits to finish by themselves, then for their answers to be written. `make up` kills after 30.
GRACE = 10.0
#: Seconds between two words to beat of whose schedules may run: so long a revoked key's go on.
TELL_INTERVAL = 2.0
#: Seconds between two looks for jobs to forget.
SWEEP_INTERVAL = 5.0
#: Seconds between two looks for what workers without the ledger have run.
LOOK_INTERVAL = 2.0
#: Seconds between two looks for jobs that have expired.
EXPIRY_INTERVAL = 1.0

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")


class Service:
    """
    Jobs over HTTP, for a Tornado application::

        async with Bridge(celery_app) as bridge, Service(bridge) as service:
            application = Application([*my_routes, *service.routes(prefix="/jobs")])
            application.listen(8888, "127.0.0.1")
            await asyncio.Event().wait()

    Leaving the block lets the requests under way end, for up to 12 seconds. Stop your server first, so that no new ones
    come.

    Args:
        bridge: An open bridge. Handlers of your own may use it, too.
        settings: Without any, those of the environment.

    .. versionadded:: 0.1.0
    """

    jobs: Jobs

    def __init__(self, bridge: Bridge, settings: Settings | None = None) -> None:
        self._settings = settings
        self.bridge = bridge
        self.links = Links()
        self.lifecycle = Lifecycle()
        self.turns = Turns()
        self.max_body = MAX_BODY
        self.keys: Keyring | None = None
        self.any_host = False
        self.cookie_secret = secrets.token_hex(32)  # without keys nobody has a session
        self.flower: Flower | None = None
        self._deliverer: Deliverer | None = None
        self._openapi: dict[frozenset[str] | None, File] = {}
        self._describing = asyncio.Lock()
        self._running: list[asyncio.Future[None]] = []

    # Mounting.

    @property
    def prefix(self) -> str:
        """What all paths begin with; empty at the root."""
        return self.links.prefix

    def routes(self, prefix: str = "", *, any_host: bool = False) -> list[Rule]:
        """
        Return the rules of all routes, for a Tornado application. A service is mounted once.

        Args:
            prefix:
                What all paths begin with, such as ``/jobs``; empty for the root. Below a prefix the service answers
                every path, at the root only its own.
            any_host:
                Without API keys, answer requests from anywhere, and not those from this machine alone. Only for
                whoever sees to it in another way that no stranger gets here.

        Raises:
            ValueError: The prefix is not a path that begins with a slash and ends without one.

        .. versionadded:: 0.1.0
        """
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix={prefix!r} should begin with a slash and end without one, as in /jobs")
        self.links.prefix, self.any_host = prefix, any_host
        made = rules(ENDPOINTS, prefix, MethodNotAllowed, service=self)
        if prefix:
            made.append(Rule(PathMatches(f"{re.escape(prefix)}/.*"), NotFound, {"service": self}))
        return [Rule(PathMatches(f"{re.escape(prefix)}(/.*)?"), made)] if prefix else made

    # What the handlers need of it.

    @property
    def ledger(self) -> Ledger:
        """Where jobs, rates and the audit log are."""
        return self.jobs.ledger

    async def openapi(self, caller: Principal | None) -> File:
        """Return the OpenAPI document as *caller* may see it; None for whoever has no key."""
        catalogue = self.jobs.catalogue
        tasks = None if caller is None else frozenset(task.name for task in catalogue if caller.may_run(task.name))
        async with self._describing:  # a document takes some tenths of a second of a thread, and is made once
            if tasks not in self._openapi:
                self._openapi[tasks] = await asyncio.to_thread(
                    lambda: make_file(encode(openapi_of(catalogue, caller)), "application/json")
                )
            return self._openapi[tasks]

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.jobs.metrics.request(method, route, status, seconds)

    # Its life.

    async def start(self) -> None:
        """
        Check the app, read the keys and the tasks, and begin to call receivers back and to forget old jobs.

        Traces are exported if ``OTEL_TRACES_EXPORTER`` asks for it, and a supervisor that set ``HEARTBEAT_FILE`` is
        told that the loop turns.

        Raises:
            SettingsError: Something about the app or its servers is unsafe, the file of API keys or of callbacks'
                secret cannot be used, or a receiver makes no sense.
        """
        settings = self._settings
        if settings is None:
            settings = await asyncio.to_thread(Settings.from_environment)
        await asyncio.to_thread(refuse_unsafe, self.bridge.app, "serve")
        await asyncio.to_thread(tracing.set_up, "web")
        if heartbeat := of_environment():
            self._run(keep_beating(heartbeat))
        hide_passwords(self.bridge.app)
        self.max_body = settings.max_body
        receivers, signing = Receivers(settings.callback_allow), Secrets(settings.callback_secret_file)
        await asyncio.to_thread(signing.check)
        if settings.api_keys_file is not None:
            self.keys = keys = await asyncio.to_thread(Keyring, settings.api_keys_file)
            self.cookie_secret = await asyncio.to_thread(lambda: signing.of_sessions)
            hide(self.cookie_secret)
            self._run(keys.watch())
        bridge = self.bridge
        catalogue = await asyncio.to_thread(Catalogue, bridge.app)
        if why := await asyncio.to_thread(why_none_exposed, bridge.app):
            _log.warning("%s", why)
        jobs = Jobs(bridge, bridge.ledger, catalogue, receivers, self.links)
        self.use(jobs)
        self.flower = Flower(settings.flower_url, settings.flower_password_file)
        self._deliverer = Deliverer(bridge.ledger, receivers, signing, self.links)
        self._run(self._deliverer.run())
        self._run(self._keep_owners_told())
        self._run(keep_swept(bridge.ledger, bridge.store))
        self._run(keep_expired(bridge.ledger))
        self._run(keep_seen(bridge.app))
        self._run(self.operator.keep_looking())
        self._run(self.jobs.metrics.watch(bridge.ping_broker))

    def use(self, jobs: Jobs) -> None:
        """Serve these jobs."""
        self.jobs = jobs
        self.audit = Audit(jobs.ledger)
        self.operator = Operator(self)
        self._openapi = {}

    async def tell_owners(self) -> None:
        """Tell beat whose schedules may run, by the keys that there are now."""
        owners = None if self.keys is None else self.keys.owners()
        await Schedules(self.ledger, self.bridge.app).tell_owners(owners)

    async def _keep_owners_told(self) -> None:
        """Do so again and again, for as long as this is not cancelled: keys change, and Redis may be emptied."""
        while True:
            try:
                await self.tell_owners()
            except LedgerUnavailable as exc:
                _log.info("%s", exc)
            await asyncio.sleep(TELL_INTERVAL)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._running.append(asyncio.ensure_future(work))

    async def close(self) -> None:
        """Let the requests under way end, then end all else. The bridge stays open."""
        await self.lifecycle.end(GRACE)
        for each in self._running:
            each.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self.flower is not None:
            self.flower.close()
        if self._deliverer is not None:
            await self._deliverer.close()
        if hasattr(self, "jobs"):
            await asyncio.gather(self.jobs.close(), self.audit.close(), self.operator.close())

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def keep_beating(heartbeat: Heartbeat) -> None:
    """Tell the supervisor, for as long as this is not cancelled, that the loop turns."""
    while True:
        heartbeat.tick()
        await asyncio.sleep(INTERVAL / 2)


async def keep_expired(ledger: Ledger) -> None:
    """End, for as long as this is not cancelled, jobs that have expired: a worker may be busy, or not be there."""
    while True:
        try:
            while await ledger.jobs.expire():
                pass
        except LedgerUnavailable as exc:
            _log.info("%s", exc)
        await asyncio.sleep(EXPIRY_INTERVAL)


async def keep_seen(app: Celery) -> None:
    """Say, for as long as this is not cancelled, what workers do that are not as they should be."""
    for finding in await asyncio.to_thread(check_fleet, app, ask=False):
        _log.warning("%s", finding)
    strangers = await asyncio.to_thread(Strangers, app)
    while True:
        try:
            await asyncio.to_thread(strangers.look)
        except Exception as exc:  # of any result backend, or of the ledger, which is away
            _log.info("what workers without the ledger ran is not looked for: %s", exc)
        await asyncio.sleep(LOOK_INTERVAL)


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
