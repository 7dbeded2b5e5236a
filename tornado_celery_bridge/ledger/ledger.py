"""
The ledger: what is known of a job from before its message is published to long after its end.

A result backend cannot tell a queued task from one that never was. The ledger can: a job's record is written first,
so an id without a record is not a job.

Knows no HTTP. Redis only, whatever the broker is.
"""

from celery import Celery
from redis.exceptions import OutOfMemoryError

from tornado_celery_bridge.base.redis import connection_pool
from tornado_celery_bridge.ledger.blobs import Blobs
from tornado_celery_bridge.ledger.callbacks import Callbacks
from tornado_celery_bridge.ledger.changes import Changes
from tornado_celery_bridge.ledger.connection import Connection, ledger_backend, prefix_of
from tornado_celery_bridge.ledger.events import Events
from tornado_celery_bridge.ledger.failures import Failures
from tornado_celery_bridge.ledger.idempotency import IdempotencyKeys
from tornado_celery_bridge.ledger.jobs import Jobs
from tornado_celery_bridge.ledger.limits import Limits
from tornado_celery_bridge.ledger.operations import Operations
from tornado_celery_bridge.ledger.queues import Queues
from tornado_celery_bridge.ledger.records import LedgerUnavailable
from tornado_celery_bridge.ledger.schema import AnotherSchema, compare
from tornado_celery_bridge.ledger.workflows import Workflows


class Ledger:
    """
    The jobs in Redis, for one event loop, subject by subject. Never blocks the loop, and answers or fails in time.

    Args:
        app: The Celery app whose ledger it is; see :func:`ledger_backend`. (Its result backend is made here, which may
            block for some milliseconds.)
        ttl: Seconds for which a job is kept after its end.

    .. versionadded:: 0.1.0
    """

    def __init__(self, app: Celery, *, ttl: float = 86_400.0) -> None:
        #: The connection that all subjects share; each batch of calls has its deadline.
        backend = ledger_backend(app)
        self.redis = Connection(connection_pool(backend, socket_timeout=None), prefix=prefix_of(app))
        self.jobs = Jobs(self.redis, ttl)
        self.changes = Changes(self.redis)
        self.workflows = Workflows(self.redis, ttl)
        self.idempotency_keys = IdempotencyKeys(self.redis)
        self.queues = Queues(self.redis)
        self.limits = Limits(self.redis)
        self.failures = Failures(self.redis)
        self.operations = Operations(self.redis)
        self.callbacks = Callbacks(self.redis)
        self.blobs = Blobs(self.redis)
        pool = connection_pool(backend, max_connections=1, socket_timeout=None, health_check_interval=0)
        self.events = Events(self.redis, pool)

    async def close(self) -> None:
        """Close the connections, once the calls under way have ended: each has its timeout."""
        await self.events.close()
        await self.redis.close()

    async def ping(self) -> None:
        """
        Return if the ledger takes changes now, and is this version's.

        Raises:
            LedgerUnavailable: It does not, as it is away or full; or it is another version's.
        """
        try:
            compare(await self.redis.call("GET", f"{self.redis.prefix}schema"))
            await self.redis.call("SET", f"{self.redis.prefix}ready", 1, "PX", 1000)
        except AnotherSchema as exc:
            raise LedgerUnavailable(str(exc)) from exc
        except LedgerUnavailable as exc:
            if not isinstance(exc.__cause__, OutOfMemoryError):
                raise
            told = await self.redis.call("INFO", "memory")
            used, most = told["used_memory"], told["maxmemory"]
            raise LedgerUnavailable(f"the ledger's Redis is full: it uses {used:,} of at most {most:,} bytes") from exc
