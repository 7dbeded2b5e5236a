"""
A sign of life for a supervisor: a file that a process touches as long as its event loop runs.

The supervisor gives each process a path in ``HEARTBEAT_FILE``. It takes a process that stops touching the file for a
hung one. A file works even if every server is away. The loop only calls :meth:`Heartbeat.tick`, and a thread touches
the file. This has two reasons. The disk may be slow. And a loop may stand still without being hung, because the process
ends, or waits for a broker that is away. (When Redis was frozen for 70 s, a worker's loop stood still as long, while it
published an event, and went on a second after Redis did.)
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from tornado_celery_bridge.base.redis import asked_once
from tornado_celery_bridge.base.repeating import Repeating

#: Seconds between two touches, and the longest turn of an idle loop.
INTERVAL = 2.0
#: Seconds without a tick after which the process is asked for an excuse.
LATE = 4.0
#: Seconds to wait for a broker's answer.
TIMEOUT = 2


class Heartbeat:
    """
    Touches a file every two seconds, if there was a :meth:`tick` since the last touch, or if there is an excuse.

    Args:
        path: The file. Its folder must exist.
        is_excused: Whether the loop may stand still now. It may take some seconds.
    """

    def __init__(self, path: Path, is_excused: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_excused = is_excused
        self._ticked = threading.Event()
        self._last_tick = time.monotonic()
        self._thread = Repeating("heartbeat", self._look, pause=INTERVAL / 2)
        self._thread.start()

    def tick(self) -> None:
        """Note that the loop runs. This never blocks."""
        self._ticked.set()

    def stop(self) -> None:
        """Stop touching the file."""
        self._thread.stop()

    def _look(self) -> None:
        if self._ticked.is_set():
            self._ticked.clear()
            self._last_tick = time.monotonic()
            self._path.touch()
        elif time.monotonic() - self._last_tick > LATE and self._is_excused():
            self._path.touch()


def of_environment(is_excused: Callable[[], bool] = lambda: False) -> Heartbeat | None:
    """Return the heartbeat that a supervisor asks this process for, if any. Child processes do not inherit it."""
    path = os.environ.pop("HEARTBEAT_FILE", "")
    return Heartbeat(Path(path), is_excused) if path else None


def watch_beat(service: Any) -> None:
    """Let a beat tick at each turn of its loop, with any scheduler. A turn then takes 2 s at most."""
    scheduler = service.scheduler
    heartbeat = of_environment(lambda: _waits_for_broker(scheduler) or not answers(service.app))
    if heartbeat is None:
        return
    tick = scheduler.tick

    def ticking(*args: Any, **kwargs: Any) -> Any:
        heartbeat.tick()
        pause = tick(*args, **kwargs)
        return min(pause, INTERVAL) if pause else pause

    scheduler.tick = ticking


def _waits_for_broker(scheduler: Any) -> bool:
    connection = vars(scheduler).get("connection")  # made at first use
    return connection is not None and not connection.connected


def answers(app: Celery) -> bool:
    """Return whether *app*'s broker accepts a connection now."""
    try:
        with app.connection_for_read(connect_timeout=TIMEOUT, transport_options=asked_once(app, TIMEOUT)) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
    except Exception:  # whatever the error is, the loop may be waiting because of it
        return False
    return True
