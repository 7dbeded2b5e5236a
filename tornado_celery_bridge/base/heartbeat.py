"""
A sign of life for a supervisor: a file that a process touches as long as its event loop turns.

The supervisor gives each process a path in ``HEARTBEAT_FILE``, and takes one that stops touching it for a hung one. A
file, for it works with every server away. The loop only says that it turns; a thread touches the file, for a disk may
be slow, and a loop may stand still without being hung: as it ends, or waits for a broker that is away. (With Redis
frozen a worker's loop stood still for as long, 70 s, in publishing an event, and went on a second after it was thawed.)
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps
from celery.concurrency import solo

from tornado_celery_bridge.base.repeating import Repeating

__all__ = ("INTERVAL", "Heartbeat", "WorkerHeartbeat", "of_environment", "watch_beat")

#: Seconds between two touches, and the most that a loop may take for one turn without work.
INTERVAL = 2.0
#: Seconds without a tick after which an excuse is looked for.
LATE = 4.0
#: Seconds for a broker to answer.
TIMEOUT = 2


class Heartbeat:
    """
    Touches a file every two seconds if there was a :meth:`tick` since, or if there is an excuse.

    Args:
        path: The file; its folder is there.
        is_excused: Whether there need be no tick now; may take some seconds.

    .. versionadded:: 0.1.0
    """

    def __init__(self, path: Path, is_excused: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_excused = is_excused
        self._ticked = threading.Event()
        self._last_tick = time.monotonic()
        self._thread = Repeating("heartbeat", self._look, pause=INTERVAL / 2)
        self._thread.start()

    def tick(self) -> None:
        """Say that the loop turns. Never blocks."""
        self._ticked.set()

    def stop(self) -> None:
        """Touch it no more."""
        self._thread.stop()

    def _look(self) -> None:
        if self._ticked.is_set():
            self._ticked.clear()
            self._last_tick = time.monotonic()
            self._path.touch()
        elif time.monotonic() - self._last_tick > LATE and self._is_excused():
            self._path.touch()


def of_environment(is_excused: Callable[[], bool] = lambda: False) -> Heartbeat | None:
    """Return the heartbeat that this process' supervisor asks for, if one does; no child of ours inherits it."""
    path = os.environ.pop("HEARTBEAT_FILE", "")
    return Heartbeat(Path(path), is_excused) if path else None


class WorkerHeartbeat(bootsteps.Step):
    """
    Ticks by the worker's timer, which its event loop runs (with threads or gevent a thread of the timer's own).

    Not with the solo pool, whose tasks run in the loop: nobody can tell a long one from a hung one.
    """

    requires = ("celery.worker.components:Timer",)

    def include_if(self, worker: Any) -> bool:
        return not issubclass(worker.pool_cls, solo.TaskPool)

    def create(self, worker: Any) -> None:
        def is_excused() -> bool:
            ends = worker.blueprint.human_state() in ("closing", "terminating")
            return ends or worker.consumer.connection is None or not _answers(worker.app)

        if heartbeat := of_environment(is_excused):
            worker.timer.call_repeatedly(INTERVAL / 2, heartbeat.tick)


def watch_beat(service: Any) -> None:
    """Have a beat that starts tick, whatever its scheduler is, at each turn of its loop; none is longer than 2 s."""
    scheduler = service.scheduler
    heartbeat = of_environment(lambda: _waits_for_broker(scheduler) or not _answers(service.app))
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


def _answers(app: Celery) -> bool:
    """Return whether *app*'s broker lets us in now."""
    options = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    try:
        with app.connection_for_read(connect_timeout=TIMEOUT, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
    except Exception:  # whatever it is, the loop may wait for it as well
        return False
    return True
