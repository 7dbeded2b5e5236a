"""What operators need: remote control, purging a queue, forgetting a result. Lanes make these blocking calls."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery import Celery
from celery.backends.rpc import RPCBackend

from tornado_celery_bridge import transports
from tornado_celery_bridge.base.lane import Call, InDoubt, Lane, LaneDown, LaneFull, NotBegun
from tornado_celery_bridge.bridge.arguments import check_texts
from tornado_celery_bridge.bridge.config import RETRY_AFTER, BridgeConfig
from tornado_celery_bridge.exceptions import BridgeError, BrokerUnavailable, ResultBackendUnavailable
from tornado_celery_bridge.ledger import Ledger, Purged

#: The most calls of Celery's remote control under way at once. Each may take its whole timeout.
MAX_CALLS = 1_000
#: Seconds to wait for a worker's answer, and for an operator's call, which may stand behind other calls.
REPLY_TIMEOUT, OPERATION_TIMEOUT = 3.0, 15.0
#: Results that are written in one call. Each takes Celery about 2 ms.
MARKED = 100


class Caller:
    """Makes Celery's own blocking calls in a lane's thread. The work of each is a callable without arguments."""

    progress = 0.0

    def ready(self) -> bool:
        return True

    def run(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.begin():
                try:
                    call.value = call.work()
                except Exception as exc:
                    call.error = exc

    def close(self) -> None:
        """Do nothing: the connections belong to the app, and Celery pools them."""


class Operating:
    """
    Operates for a bridge. Methods and errors are those of :class:`.Bridge`.

    Args:
        caller: The lane for calls that somebody waits for.
        operator: The lane for calls that may take long. They have their own lane so that no revoke waits for them.
    """

    def __init__(self, app: Celery, config: BridgeConfig, caller: Lane, operator: Lane) -> None:
        self._app = app
        self._config = config
        self._caller = caller
        self._operator = operator

    async def revoke(self, task_ids: list[str], terminate: bool, signal: str) -> None:
        revoke = functools.partial(self._app.control.revoke, task_ids, terminate=terminate, signal=signal)
        await self._call(revoke, BrokerUnavailable)

    async def forget(self, task_ids: list[str]) -> None:
        def remove() -> None:
            backend = self._app.backend
            for task_id in task_ids:
                backend.forget(task_id)

        await self._call(remove, ResultBackendUnavailable)

    async def purge(self, ledger: Ledger, queue: str, reason: str) -> Purged:
        check_texts(queue=queue)
        ids = [job_id async for step in ledger.queues.purge(queue, reason) for job_id in step]
        messages = await self._operate(lambda: transports.purge(self._app, queue), BrokerUnavailable)
        for place in range(0, len(ids), MARKED):
            mark = functools.partial(self._mark_revoked, ids[place : place + MARKED], reason)
            await self._operate(mark, ResultBackendUnavailable)
        return Purged(len(ids), messages)

    def _mark_revoked(self, task_ids: Iterable[str], reason: str) -> None:
        backend = self._app.backend
        if isinstance(backend, RPCBackend):  # this backend answers the message of a task, and nobody has it
            return
        for task_id in task_ids:
            backend.mark_as_revoked(task_id, reason)

    async def shut_down_worker(self, name: str) -> None:
        await self._operate(lambda: self._app.control.shutdown(destination=[name]), BrokerUnavailable)

    async def resize_pool(self, name: str, by: int) -> dict[str, str] | None:
        control = self._app.control
        resize = functools.partial(control.pool_grow, by) if by > 0 else functools.partial(control.pool_shrink, -by)
        asked = functools.partial(resize, destination=[name], reply=True, timeout=REPLY_TIMEOUT)
        answers = await self._operate(asked, BrokerUnavailable)
        return answers[0][name] if answers else None

    async def _operate(self, call: Callable[[], Any], error: type[BridgeError]) -> Any:
        return await self._call(call, error, self._operator, OPERATION_TIMEOUT)

    async def _call(
        self, call: Callable[[], Any], error: type[BridgeError], lane: Lane | None = None, timeout: float | None = None
    ) -> Any:
        try:
            return await (lane or self._caller).submit(call, timeout or self._config.dispatch_timeout)
        except (LaneFull, LaneDown, NotBegun, InDoubt) as exc:
            raise error("no answer in time", retry_after=RETRY_AFTER) from exc
        except Exception as exc:  # of any broker's or backend's own client
            raise error(str(exc), retry_after=RETRY_AFTER) from exc
