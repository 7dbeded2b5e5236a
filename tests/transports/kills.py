"""
What is lost when the whole tree of a worker is killed, again and again: ``python -m tests.transports.kills``.

Every task appends its number to a list on another server. At the end each number has to be there, and the queue and
`unacked` empty. Half of the kills fall on a worker with more to do than it can, half on one whose queue is empty most
of the time.
"""

import argparse
import collections
import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.servers import Server, wait_for, worker
from tests.transports.sample import make_app

VISIBILITY = 5.0


@dataclass(frozen=True)
class Count:
    tasks: int
    kills: int
    lost: int
    #: Starts beyond the first that came to their end.
    again: int
    #: Seconds from the last kill until all was done.
    recovery: float


def run(transport: str, folder: Path, *, tasks: int, kills: int, seed: int) -> Count:
    """Kill a worker with *transport* (``ours`` or ``stock``) *kills* times while it runs *tasks*, and count."""
    chance = random.Random(seed)
    broker, marks = Server(folder / "broker").start(), Server(folder / "marks").start()
    environment = {
        "SAMPLE_TRANSPORT": transport,
        "SAMPLE_BROKER": broker.url,
        "SAMPLE_MARKS": marks.url,
        "SAMPLE_VISIBILITY": str(VISIBILITY),
    }
    options = ("-c", "2", "-Q", "plain", "--without-gossip", "--without-mingle", "--without-heartbeat")
    numbers = iter(range(tasks))
    try:
        with broker.client() as client, marks.client() as seen:
            for kill in range(kills):
                share = tasks // kills if kill < kills - 1 else tasks
                with (
                    worker("tests.transports.sample", environment, folder / f"{kill}.log", *options) as process,
                    feeding(broker, numbers, share, pause=0.003 if kill % 2 else 0.0),
                ):
                    time.sleep(chance.uniform(0.1, 0.6))
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            begun = time.monotonic()
            with worker("tests.transports.sample", environment, folder / "last.log", *options):
                wait_for(lambda: is_done(client), timeout=120)
            recovery = time.monotonic() - begun
            counts = collections.Counter(int(number) for number in seen.lrange("marks", 0, -1))
    finally:
        broker.stop()
        marks.stop()
    assert set(counts) <= set(range(tasks))
    return Count(tasks, kills, tasks - len(counts), sum(counts.values()) - len(counts), recovery)


@contextlib.contextmanager
def feeding(broker: Server, numbers: Iterator[int], share: int, pause: float) -> Iterator[None]:
    """Publish *share* of the *numbers* beside the block, by kombu's own transport."""

    def publish() -> None:
        app = make_app(broker.url)
        with app.connection_for_write() as connection, connection.Producer() as producer:
            for _, number in zip(range(share), numbers, strict=False):
                app.tasks["mark"].apply_async((number,), producer=producer)
                time.sleep(pause)
        app.close()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def is_done(client: redis.Redis) -> bool:
    return not client.exists("plain", "unacked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transports", nargs="+", default=["stock", "ours"])
    options = parser.parse_args()
    for transport in options.transports:
        with tempfile.TemporaryDirectory() as folder:
            count = run(transport, Path(folder), tasks=options.tasks, kills=options.kills, seed=options.seed)
            print(transport, count, flush=True)


if __name__ == "__main__":
    main()
