"""
Workers that do not keep the ledger: what they ran is seen from what Celery's result backend has.

Any change-over has such workers: the app's own, from before ``install(app)``. They know no job. So a job that one of
them runs stays PENDING in the ledger, and would be published again. A worker that keeps the ledger, or a web process,
looks at the results of jobs that have been due for some seconds. A result from after the job was accepted ends it.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Any

from celery import Celery, states
from celery.backends.base import BaseKeyValueStoreBackend

from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.blocking import ending
from tornado_celery_bridge.ledger.connection import BlockingConnection, ms

log = logging.getLogger(__name__)

#: Seconds that a job has been due before its result is looked for: before a copy of its message would be published.
OVERDUE = 4.0
#: Jobs of one queue that one look is about, and seconds in which no other process looks.
MOST, PAUSE = 100, 1.5
#: Seconds for which a worker without the ledger is remembered.
REMEMBERED = 86_400
#: What is said of a worker that did not tell its name: Celery's setting ``result_extended`` has it do so.
NAMELESS = "(its name is not in the result)"


class Strangers:
    """
    The workers of an app that do not keep its ledger. Every call blocks, and raises redis-py's errors.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._ledger = BlockingConnection(app)

    def look(self) -> int:
        """End the jobs that such workers have run; return how many."""
        backend: Any = self._app.backend
        if not isinstance(backend, BaseKeyValueStoreBackend):  # others make exceptions of what they read
            return 0
        overdue = self._ledger.run(calls.overdue(after=ms(OVERDUE), most=MOST, pause=ms(PAUSE)))
        if not overdue:
            return 0
        keys = [backend.get_key_for_task(job_id) for job_id, _ in overdue]
        seen = 0
        for (job_id, created_at), stored in zip(overdue, backend.mget(keys), strict=True):
            meta = {} if stored is None else backend.decode(stored)
            if meta.get("status") in states.READY_STATES and _done_at(meta) >= int(created_at) / 1000 - 1:
                seen += self._end(job_id, meta)
        return seen

    def _end(self, job_id: str, meta: dict[str, Any]) -> bool:
        state, result = meta["status"], meta.get("result")
        value = result if state == states.SUCCESS else _error(result)
        is_its_end: bool = self._ledger.run(ending(job_id, state, value, traceback=meta.get("traceback")))
        if is_its_end:
            worker = meta.get("worker") or NAMELESS
            self.note(worker)
            log.warning("job %s was run by a worker that does not keep the ledger: %s", job_id, worker)
        return is_its_end

    def note(self, worker: str) -> None:
        """Note that a worker does not keep the ledger."""
        self._ledger.client.zadd(f"{self._ledger.prefix}strangers", {worker: time.time()})

    def known(self) -> list[str]:
        """Return the names of the workers that were noted within a day."""
        key, since = f"{self._ledger.prefix}strangers", time.time() - REMEMBERED
        self._ledger.client.zremrangebyscore(key, "-inf", since)
        found: Any = self._ledger.client.zrange(key, 0, -1)
        return [name.decode() for name in found]


def _done_at(meta: dict[str, Any]) -> float:
    """Return when a task has ended, in seconds since 1970; 0 if the result does not say that."""
    try:
        done = datetime.fromisoformat(meta.get("date_done") or "")
    except (TypeError, ValueError):
        return 0.0
    return (done if done.tzinfo else done.replace(tzinfo=UTC)).timestamp()


def _error(result: Any) -> dict[str, str]:
    """Return an error as ``Job.error`` has it, of what Celery has stored of an exception, which is not made again."""
    if not isinstance(result, dict):
        return {"type": "Exception", "module": "builtins", "message": str(result)}
    message = result.get("exc_message", "")
    text = ", ".join(map(str, message)) if isinstance(message, list | tuple) else str(message)
    return {
        "type": str(result.get("exc_type", "Exception")),
        "module": str(result.get("exc_module") or "builtins"),
        "message": text,
    }
