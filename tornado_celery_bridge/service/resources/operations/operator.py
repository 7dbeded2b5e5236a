"""The operator: carries on, in each web process, what is to be done with many jobs."""

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from tornado_celery_bridge import BridgeError
from tornado_celery_bridge.ledger import LedgerUnavailable, Operation, Waits
from tornado_celery_bridge.ledger.operations import BY_LEDGER
from tornado_celery_bridge.service.access.keys import EVERYBODY, Keyring, Principal
from tornado_celery_bridge.service.access.limits import take
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.http.turns import Turns
from tornado_celery_bridge.service.resources.jobs.service import Jobs

_log = logging.getLogger(__name__)

#: Seconds between two looks for operations that no process carries on.
LOOK_INTERVAL = 1.0


class OperatingSite(Protocol):
    """What the operator needs of the service."""

    jobs: Jobs
    keys: Keyring | None
    turns: Turns


class Operator:
    """
    Carries on operations, one at a time, each for a second and then the next.

    Args:
        site: The service.
    """

    def __init__(self, site: OperatingSite) -> None:
        self._site = site
        self._working: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Carry on, in the background, what there is to carry on."""
        if self._working is None or self._working.done():
            self._working = asyncio.ensure_future(self._work())

    async def keep_looking(self) -> None:
        """Do so again and again, for as long as this is not cancelled: another process may have died."""
        while True:
            self.wake()
            await asyncio.sleep(LOOK_INTERVAL)

    async def close(self) -> None:
        """End, in the middle of a step: it is done again by another process."""
        if self._working is not None:
            self._working.cancel()
            with suppress(asyncio.CancelledError):
                await self._working

    async def _work(self) -> None:
        operations = self._site.jobs.ledger.operations
        try:
            while (operation := await operations.claim()) is not None:
                principal = self._principal_of(operation)
                if principal is None:
                    await operations.cancel(operation.id, "the key that has asked for it is gone")
                else:
                    await operations.carry(operation, _Submitting(self._site, principal).retry)
        except LedgerUnavailable as exc:
            _log.info("operations wait: %s", exc)
        except Exception:
            _log.exception("an operation waits")

    def note(self, principal: Principal) -> str:
        """Return what an operation keeps of who has asked for it."""
        return "" if self._site.keys is None else self._site.keys.note(principal)

    def _principal_of(self, operation: Operation) -> Principal | None:
        """Return what whoever has asked for it may do now; None if their key is gone."""
        keys = self._site.keys
        return EVERYBODY if keys is None or operation.by == BY_LEDGER else keys.find_noted(operation.by)


class _Submitting:
    """Submits jobs again, with what a key may do."""

    def __init__(self, site: OperatingSite, principal: Principal) -> None:
        self._site = site
        self._principal = principal

    async def retry(self, operation: Operation, job_id: str, made_id: str) -> str | None:
        """Submit a job again under an id; return why it is refused for good. Raises Waits if it can't be done now."""
        await self._pay()
        await self._site.turns.take()
        try:
            await self._site.jobs.retry(self._principal, job_id, {}, made_id=made_id)
        except Problem as exc:
            if exc.status_code in (429, 503, 504):
                raise Waits(str(exc.detail)) from exc
            return exc.code
        except BridgeError as exc:
            raise Waits(str(exc)) from exc
        return None

    async def _pay(self) -> None:
        """Take a request off what the key may make, as each retry would alone."""
        if (rate := self._principal.rate) is None:
            return
        if not (await take(self._site.jobs.ledger, self._principal.key_id, rate, None)).is_granted:
            raise Waits(f"the key may make {rate} requests")
