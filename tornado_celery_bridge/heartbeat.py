"""
A sign of life for a supervisor: a file that a process touches as long as its event loop turns.

The supervisor gives each process a path in ``HEARTBEAT_FILE``, and takes one that stops touching it for a hung one. A
file, for it works with every server away. The loop only says that it turns; a thread touches the file, for a disk may
be slow, and for two reasons that a loop stands still without being hung: it waits for a broker that is away, or ends.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import bootsteps

__all__ = ("INTERVAL", "Heartbeat", "WorkerHeartbeat", "of_environment", "watch_beat")

#: Seconds between two touches, and the most that a loop may take for one turn without work.
INTERVAL = 2.0


class Heartbeat:
    """
    Touches a file every two seconds if there was a :meth:`tick` since, or an excuse.

    Args:
        path: The file; its folder is there.
        is_excused: Whether there need be no tick now.

    .. versionadded:: 0.1.0
    """

    def __init__(self, path: Path, is_excused: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_excused = is_excused
        self._ticked = threading.Event()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def tick(self) -> None:
        """Say that the loop turns. Never blocks."""
        self._ticked.set()

    def stop(self) -> None:
        """Touch it no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL / 2):
            if self._ticked.is_set() or self._is_excused():
                self._ticked.clear()
                self._path.touch()


def of_environment(is_excused: Callable[[], bool] = lambda: False) -> Heartbeat | None:
    """Return the heartbeat that this process' supervisor asks for, if one does; no child of ours inherits it."""
    path = os.environ.pop("HEARTBEAT_FILE", "")
    return Heartbeat(Path(path), is_excused) if path else None


class WorkerHeartbeat(bootsteps.Step):
    """Ticks by the worker's timer, which its event loop runs (with threads or gevent a thread of the timer's own)."""

    requires = ("celery.worker.components:Timer",)

    def create(self, worker: Any) -> None:
        def is_excused() -> bool:
            is_running = worker.blueprint.human_state() == "running"
            return not is_running or worker.consumer is None or worker.consumer.connection is None

        if heartbeat := of_environment(is_excused):
            worker.timer.call_repeatedly(INTERVAL / 2, heartbeat.tick)


def watch_beat(service: Any) -> None:
    """Have a beat that starts tick, whatever its scheduler is, at each turn of its loop; none is longer than 2 s."""
    scheduler = service.scheduler
    heartbeat = of_environment(lambda: _waits_for_broker(scheduler))
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
