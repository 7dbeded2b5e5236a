"""How the tests of this room start a worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers import wait_for

ROOT = Path(__file__).parents[2]


OPTIONS = ("--concurrency", "2", "--without-gossip", "--without-mingle")

#: Of a worker with the asyncio pool.
ASYNCIO = (*OPTIONS, "--pool", "custom", "--concurrency", "100")

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "CELERY_CUSTOM_WORKER_POOL": "tornado_celery_bridge.worker.asyncio_pool:TaskPool",
}


@contextmanager
def supervised(
    settings: Mapping[str, str], folder: Path, log: Path, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``tcb up`` in a folder, with a worker for the sample app and nothing else, until the block ends."""
    (folder / "Procfile").write_text(f"worker: tcb worker -A tests.worker.sample:app {' '.join(options)}\n")
    command = [sys.executable, "-m", "tornado_celery_bridge", "up"]
    more = {"REDIS_URL": settings["SAMPLE_URL"], "DATA_DIR": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings, **more}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for(lambda: b" ready." in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process
    finally:  # its children are not of its group
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
