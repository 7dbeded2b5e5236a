"""
Two processes of a pool that die at once: ``python -m tests.worker.dying_together FILE``.

Writes how many lines FILE has in the end: one for each time that a job began. Then, whether a process that lives is
still watched when the event of another one was taken for its own.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kombu.asynchronous import Hub, set_event_loop

from tornado_celery_bridge.worker.pool import Processes


def begin(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("begun\n")
    time.sleep(60)


def main(path: str) -> None:
    hub = Hub()
    set_event_loop(hub)
    pool: Any = Processes(2, threads=False)
    pool.register_with_event_loop(hub)

    def tick() -> None:
        hub.call_later(0.05, tick)

    def turn(until: Callable[[], object]) -> None:
        loop, deadline = hub.create_loop(), time.monotonic() + 30
        while not until():
            next(loop)
            assert time.monotonic() < deadline

    tick()
    turn(lambda: len(pool._all_inqueues) == 2)
    jobs = [pool.apply_async(begin, (path,)) for _ in range(2)]
    turn(lambda: all(job._write_to for job in jobs))
    while not Path(path).exists() or len(Path(path).read_text().splitlines()) < 2:
        time.sleep(0.01)  # and what they say is not read

    first, last = pool._pool
    flush = pool.process_flush_queues

    def flush_and_kill(process: Any) -> None:
        """The pool has found the last process alive, and clears the first one away: now the last one dies."""
        flush(process)
        if process is first:
            os.kill(last.pid, signal.SIGKILL)
            last._popen.wait(10)

    pool.process_flush_queues = flush_and_kill
    os.kill(first.pid, signal.SIGKILL)
    first._popen.wait(10)
    pool.maintain_pool()
    turn(lambda: all(job.ready() for job in jobs))
    print(len(Path(path).read_text().splitlines()))

    turn(lambda: len(pool._all_inqueues) == 2)
    lives = pool._pool[0]
    descriptor = lives._sentinel_poll
    pool._event_process_exit(hub, lives)
    print(lives._sentinel_poll == descriptor and descriptor in hub.readers)
    pool.register_with_event_loop(hub)  # as when the broker was lost
    pool.terminate()


if __name__ == "__main__":
    main(sys.argv[1])
