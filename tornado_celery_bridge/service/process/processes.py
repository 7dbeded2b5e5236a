"""``--processes N``: a parent that starts N web processes on one port, and starts again the one that dies."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile

from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.service.process.server import stop_signal
from tornado_celery_bridge.service.resources.metrics import FOLDER, forget_process

_log = logging.getLogger(__name__)

#: Exit status of a process that would fail in the same way again; EX_CONFIG of sysexits.h.
CONFIGURATION_ERROR = 78
#: Seconds: how soon a process that died is started again, at first and at most.
FIRST_DELAY, LONGEST_DELAY = 0.5, 15.0
#: A process that lived for as many seconds died of something new.
LIVED = 10.0


async def run_processes(settings: Settings, count: int) -> int:
    """
    Run *count* web processes until SIGTERM or SIGINT, which they get, too; return the exit status.

    Each is a fresh interpreter with a listening socket of its own (SO_REUSEPORT). It inherits nothing but one end of a
    pipe: when this parent is gone, for whatever reason, the processes end.

    Raises:
        OSError: The port is taken.
    """
    _check_port(settings)
    stop = stop_signal()
    child_end, own_end = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="web-metrics-", ignore_cleanup_errors=True) as folder:
            keepers = [asyncio.ensure_future(_keep_running(child_end, stop, folder)) for _ in range(count)]
            statuses = await asyncio.gather(*keepers)
    finally:
        os.close(own_end)
        os.close(child_end)
    return max(statuses)


def _check_port(settings: Settings) -> None:
    """Check that nobody else listens on the port: with SO_REUSEPORT we would silently share it."""
    family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((settings.bind, settings.port))


async def _keep_running(child_end: int, stop: asyncio.Event, folder: str) -> int:
    """Run one process after the other until *stop*; return 0, or its status if none can ever run."""
    delay, has_run = FIRST_DELAY, False
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        started = loop.time()
        status = await _run(child_end, stop, folder)
        if stop.is_set():
            break
        if status == CONFIGURATION_ERROR and not has_run:  # later it is a file that was edited, and may be corrected
            stop.set()
            return status
        has_run = True
        delay = FIRST_DELAY if loop.time() - started > LIVED else min(2 * delay, LONGEST_DELAY)
        _log.error("a web process ended with status %d; another starts in %.1f s", status, delay)
        try:
            async with asyncio.timeout(delay):
                await stop.wait()
        except TimeoutError:
            continue
    return 0


async def _run(child_end: int, stop: asyncio.Event, folder: str) -> int:
    """Run one process, which counts in *folder*, to its end; return its status."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tornado_celery_bridge", "serve", "--child", str(child_end)),
        pass_fds=(child_end,),
        env={**os.environ, FOLDER: folder},
    )
    ended = asyncio.ensure_future(process.wait())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            process.terminate()
    status = await ended
    forget_process(process.pid, folder)
    return status
