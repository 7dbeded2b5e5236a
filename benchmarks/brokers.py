"""
Measure the brokers side by side, in one run: ``python -m benchmarks.brokers`` (``--rounds 3 --seconds 5``).

Each broker is a private server with the settings that we deliver, one worker of two processes, and a bridge in this
process. All results are in one Redis. It measures a dispatch, and a dispatch whose result is awaited: one after another
(the median latency) and 64 at once (the number per second). The brokers take turns, and a figure is the median of its
rounds.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from tests.conformance.brokers import KINDS, Kind
from tests.conformance.sample import make_app
from tests.faults.harness import Broker
from tests.servers import Server, worker
from tornado_celery_bridge import Bridge, BridgeConfig
from tornado_celery_bridge.transports import describe

ROOT = Path(__file__).parents[1]
SAMPLE = "tests.conformance.sample"
AT_ONCE = 64
COLUMNS = ("dispatch, ms", "dispatches a second", "and await, ms", "awaited a second")


async def measure(url: str, redis_url: str, seconds: float) -> list[float]:
    """Return the figures of one round, in the order of the columns."""
    app = await asyncio.to_thread(make_app, redis_url, url)
    async with Bridge(app, BridgeConfig(dispatch_timeout=30)) as bridge:

        async def send() -> None:
            await bridge.dispatch(app.tasks["c.add"].s(1, 1), ignore_result=True)

        async def call() -> None:
            await bridge.get(await bridge.dispatch(app.tasks["c.add"].s(1, 1)), timeout=60)

        await call()  # connected, declared
        found = [await latency(send, seconds), await throughput(send, seconds)]
        await call()  # after all that waits before it
        return [*found, await latency(call, seconds), await throughput(call, seconds)]


async def latency(once: Callable[[], Awaitable[None]], seconds: float) -> float:
    """Return the median time of calls that follow one another, in ms."""
    took, end = [], time.perf_counter() + seconds / 2
    while time.perf_counter() < end:
        begun = time.perf_counter()
        await once()
        took.append((time.perf_counter() - begun) * 1000)
    return statistics.median(took)


async def throughput(once: Callable[[], Awaitable[None]], seconds: float) -> float:
    """Return how many calls are done per second, with so many at once."""
    begun = time.perf_counter()
    end, done = begun + seconds / 2, 0

    async def repeat() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await once()
            done += 1

    await asyncio.gather(*(repeat() for _ in range(AT_ONCE)))
    return done / (time.perf_counter() - begun)


def start(kind: Kind, folder: Path, redis_url: str, stack: ExitStack) -> Broker:
    """Start a broker and its worker. They end with *stack*."""
    broker = kind.make(folder / "broker")
    broker.start()
    stack.callback(broker.stop)
    settings = {"REDIS_URL": redis_url, "BROKER_URL": broker.url, "DATA_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    settings |= {"FAULTS_JOURNAL": redis_url}
    options = ("--concurrency", "2", "--without-gossip", "--without-mingle", "--queues", "faults")
    stack.enter_context(worker(SAMPLE, settings, folder / "worker.log", *options))
    return broker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure of a round, about")
    parser.add_argument("brokers", nargs="*", default=[*KINDS], help=f"of {', '.join(KINDS)}; or all that can be had")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        redis = Server(folder / "redis").start()
        stack.callback(redis.stop)
        kinds = {kind: KINDS[kind] for kind in options.brokers if KINDS[kind].is_available()}
        rounds: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
        brokers = {
            kind: start(made, folder / kind, redis.url.removesuffix("0") + str(number), stack)
            for number, (kind, made) in enumerate(kinds.items())
        }
        for _ in range(options.rounds):
            for number, (kind, broker) in enumerate(brokers.items()):
                redis_url = redis.url.removesuffix("0") + str(number)
                rounds[kind].append(asyncio.run(measure(broker.url, redis_url, options.seconds)))
        print(f"| broker | {' | '.join(COLUMNS)} |\n" + "| --- " * (1 + len(COLUMNS)) + "|")
        for number, (kind, broker) in enumerate(brokers.items()):
            app = make_app(redis.url.removesuffix("0") + str(number), broker.url)
            figures = [statistics.median(column) for column in zip(*rounds[kind], strict=True)]
            print(f"| {describe(app).server} | {' | '.join(f'{each:,.1f}' for each in figures)} |")
        print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
