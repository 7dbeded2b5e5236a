"""
A process with a loop, and a Kafka broker whose name is looked up for seconds, in vain; run by test_kafka_ends.py.

It prints how late its loop was at most, in seconds, and how many threads it had at most; then it waits for TERM.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from typing import Any

from celery import Celery
from kombu import Connection

from tests.ticker import Ticker
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.transports import register


def connect(url: str) -> None:
    """Fail to connect, and leave what was made for it to the collector."""
    connection: Any = Connection(url, connect_timeout=0.5)
    transport = connection.transport
    transport.writer.send_and_forget  # noqa: B018  # it is made
    transport.myself = transport  # only the collector finds it
    try:
        connection.connect()
    except Exception as exc:
        print(type(exc).__name__, file=sys.stderr)


async def main(url: str, seconds: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gc.disable()  # the loop's thread collects, and no other
    app = Celery("unresolved", broker=url, backend="redis://127.0.0.1:1", set_as_current=False)
    async with Bridge(app):
        ticker, threads = Ticker(), 0
        task = asyncio.ensure_future(ticker.run())
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            thread = threading.Thread(target=connect, args=(url,), daemon=True)
            thread.start()
            await asyncio.to_thread(thread.join, 2)
            gc.collect()
            threads = max(threads, len(os.listdir("/proc/self/task")))
        task.cancel()
        print(max(ticker.late), threads, flush=True)
        await stop.wait()


url = sys.argv[1]
register(url)
asyncio.run(main(url, float(sys.argv[2])))
