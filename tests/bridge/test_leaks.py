"""What comes goes: subscriptions, results, threads, connections, memory."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

from celery import chain, chord, group
from celery.result import ResultBase

from tests.sample import make_app
from tests.servers import Server
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.base.subscriber import BEAT


def our_ports(server: Server) -> set[str]:
    """Return where this process's own connections to *server* come from, as the server names them."""
    ports = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(descriptor))) as held:
                    if held.family == socket.AF_INET and held.getpeername()[1] == server.port:
                        ports.add("{}:{}".format(*held.getsockname()))
    return ports


def connections(server: Server) -> int:
    return len(our_ports(server))


def our_threads() -> int:
    """Return how many threads are the bridge's; asyncio's own executor grows as it likes."""
    return sum(thread.name.startswith("tornado_celery_bridge") for thread in threading.enumerate())


def subscriptions(server: Server) -> int:
    """Return how many channels this process is subscribed to. (A stock worker leaks some, canvas by canvas.)"""
    ours = our_ports(server)
    with server.client() as client:
        return sum(int(each["sub"]) for each in client.client_list() if each["addr"] in ours)


def results_held() -> int:
    return sum(issubclass(type(kept), ResultBase) for kept in gc.get_objects())


async def until(condition: Any, timeout: float = 10 * BEAT) -> None:
    async with asyncio.timeout(timeout):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


async def test_mixed_canvases_leak_nothing(bridge: Bridge, server: Server) -> None:
    tasks = bridge.app.tasks
    add, total = tasks["sample.add"], tasks["sample.total"]
    kinds: list[Callable[[], tuple[Any, Any]]] = [
        lambda: (add.s(1, 2), 3),
        lambda: (chain(add.s(1, 2), add.s(3)), 6),
        lambda: (group(add.s(1, 2), add.s(3, 4)), [3, 7]),
        lambda: (chord([add.s(1, 2), add.s(3, 4), add.s(5, 6)], total.s()), 21),
        lambda: (chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s()), 7),
    ]

    async def run(number: int) -> None:
        canvas, expected = kinds[number % len(kinds)]()
        result = await bridge.dispatch(canvas, dispatch_timeout=20)
        assert await bridge.get(result, timeout=60) == expected

    await asyncio.gather(*(run(number) for number in range(10)))  # what is made at first use
    threads, open_connections = our_threads(), await asyncio.to_thread(connections, server)
    gc.collect()
    held = results_held()
    for start in range(0, 400, 40):
        await asyncio.gather(*(run(number) for number in range(start, start + 40)))
    assert our_threads() == threads
    assert await asyncio.to_thread(connections, server) <= open_connections + 2
    assert (len(bridge._parts.listener.watched), bridge._parts.awaiting.waits) == (0, 0)
    await until(lambda: not subscriptions(server))
    gc.collect()
    await until(lambda: gc.collect() >= 0 and results_held() <= held + 5)


async def test_no_wait_is_lost_while_our_connection_is_killed(bridge: Bridge, server: Server) -> None:
    add = bridge.app.tasks["sample.add"]
    done = asyncio.Event()
    kills = 0

    async def kill() -> None:
        nonlocal kills
        client = await asyncio.to_thread(server.client)
        while not done.is_set():
            kills += await asyncio.to_thread(client.client_kill_filter, _type="pubsub", skipme=False)
            await asyncio.sleep(random.uniform(0.01, 0.1))
        await asyncio.to_thread(client.close)

    async def run(number: int) -> float:
        return await bridge.get(await bridge.dispatch(add.s(number, 1), dispatch_timeout=20), timeout=60)

    killer = asyncio.ensure_future(kill())
    values = []
    for start in range(0, 1500, 100):
        values += await asyncio.gather(*(run(number) for number in range(start, start + 100)))
    done.set()
    await killer
    assert values == [number + 1 for number in range(1500)]
    assert kills > 10


async def test_ten_thousand_waiters(server: Server) -> None:
    app = make_app(server.url, server.url)
    sizes: dict[int, int] = {}
    loop = asyncio.get_running_loop()
    gc.collect()
    before = await asyncio.to_thread(connections, server)
    loop.set_debug(False)  # debug mode keeps a traceback for every future and handle
    async with Bridge(app) as bridge:
        threads = our_threads()
        tracing = __import__("tracemalloc")
        tracing.start()
        base = tracing.get_traced_memory()[0]
        waiting = [asyncio.ensure_future(bridge.get(f"nobody-sends-{number}")) for number in range(10_000)]
        await until(lambda: subscriptions(server) == 10_000, 30)
        sizes[0] = tracing.get_traced_memory()[0] - base
        tracing.stop()
        assert sizes[0] / 10_000 <= 6 * 1024
        assert our_threads() == threads
        assert await asyncio.to_thread(connections, server) <= before + 4  # subscriber, reader, and kombu's two
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        assert bridge._parts.listener.watched == ()
        await until(lambda: not subscriptions(server))


async def test_a_result_in_the_garbage_does_nothing(bridge: Bridge) -> None:
    results = [await bridge.dispatch("sample.add", (1, 2)) for _ in range(10)]
    del results
    gc.collect()  # blockbuster would object to a socket used here
    assert bridge._parts.listener.watched == ()


async def test_opening_and_closing_leaves_nothing(sample_worker: str, server: Server) -> None:
    async def once() -> None:
        async with Bridge(make_app(sample_worker, sample_worker)) as bridge:
            assert await (await bridge.dispatch("sample.add", (1, 2))) == 3

    await once()
    gc.collect()
    before = await asyncio.to_thread(connections, server)
    for _ in range(5):
        await once()
    gc.collect()
    await until(lambda: connections(server) <= before)
    assert our_threads() == 0
