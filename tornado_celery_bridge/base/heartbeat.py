"""
A sign of life for a supervisor, as long as a process's event loop runs: a file that is touched, or systemd's watchdog.

The supervisor gives each process a path in ``HEARTBEAT_FILE``. It takes a process that stops touching the file for a
hung one. A file works even if every server is away. systemd gives a unit with ``WatchdogSec`` a socket, and is told
there: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html (``WATCHDOG=1``).

The loop only calls :meth:`Heartbeat.tick`, and a thread gives the sign. This has two reasons. The disk may be slow. And
a loop may stand still without being hung, because the process ends, or waits for a broker that is away. (When Redis was
frozen for 70 s, a worker's loop stood still as long, while it published an event, and went on a second after Redis
did.)
"""

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
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
    Gives a sign every two seconds, if there was a :meth:`tick` since the last one, or if there is an excuse.

    Args:
        give_sign: Touches the file, or tells systemd.
        is_excused: Whether the loop may stand still now. It may take some seconds.
    """

    def __init__(self, give_sign: Callable[[], None], is_excused: Callable[[], bool] = lambda: False) -> None:
        self._give_sign = give_sign
        self._is_excused = is_excused
        self._ticked = threading.Event()
        self._last_tick = time.monotonic()
        self._thread = Repeating("heartbeat", self._look, pause=INTERVAL / 2)
        self._thread.start()

    def tick(self) -> None:
        """Note that the loop runs. This never blocks."""
        self._ticked.set()

    def stop(self) -> None:
        """Give no more signs."""
        self._thread.stop()

    def _look(self) -> None:
        if self._ticked.is_set():
            self._ticked.clear()
            self._last_tick = time.monotonic()
            self._give_sign()
        elif time.monotonic() - self._last_tick > LATE and self._is_excused():
            self._give_sign()


def of_environment(is_excused: Callable[[], bool] = lambda: False) -> Heartbeat | None:
    """Return the heartbeat that a supervisor asks this process for, if any. Child processes do not inherit its file."""
    path = os.environ.pop("HEARTBEAT_FILE", "")
    place = os.environ.get("NOTIFY_SOCKET") if os.environ.get("WATCHDOG_USEC") else ""
    signs: list[Callable[[], None]] = [Path(path).touch] if path else []
    if place:
        signs.append(functools.partial(_tell_systemd, place))
    return Heartbeat(functools.partial(_give, signs), is_excused) if signs else None


def _give(signs: Sequence[Callable[[], None]]) -> None:
    for sign in signs:
        sign()


def _tell_systemd(place: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection, contextlib.suppress(BlockingIOError):
        connection.setblocking(False)  # it has as many signs as it can hold
        connection.sendto(b"WATCHDOG=1", f"\0{place[1:]}" if place.startswith("@") else place)


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
