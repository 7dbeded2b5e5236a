"""How the tests of this room start a worker."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


OPTIONS = ("--concurrency", "2", "--without-gossip", "--without-mingle")

#: Of a worker with the asyncio pool.
ASYNCIO = (*OPTIONS, "--pool", "custom", "--concurrency", "100")

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "CELERY_CUSTOM_WORKER_POOL": "tornado_celery_bridge.worker.asyncio_pool:TaskPool",
}
