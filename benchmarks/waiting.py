"""
Measure what waiting costs: ``python -m benchmarks.waiting``. All figures are of one run:

- the memory per waiter and the lag of the event loop, with 10,000 results awaited at once,
- the latency of another request beside 2,000 requests that wait over HTTP, and of the same request alone,
- the time of one dispatch, and the lag of the loop, while the broker is frozen.
"""

import asyncio
import resource
import tempfile
import time
import tracemalloc
from pathlib import Path

import tornado.web
from celery import Celery
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from tests.servers import Server
from tornado_celery_bridge import Bridge, DispatchError


class Health(tornado.web.RequestHandler):
    def get(self) -> None:
        self.finish("{}")


class Waiting(tornado.web.RequestHandler):
    async def get(self) -> None:
        await self.settings["bridge"].get(self.get_argument("id"), timeout=60)


async def lag(seconds: float) -> list[float]:
    """Return by how many ms each 1 ms tick came late, sorted by size."""
    late = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - begun - 0.001) * 1000)
    return sorted(late)


def show(what: str, values: list[float]) -> None:
    values = sorted(values)
    p = {share: values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.99, 0.999)}
    print(f"| {what} | {p[0.5]:.1f} | {p[0.99]:.1f} | {p[0.999]:.1f} | {values[-1]:.1f} |")


async def ask(port: int, path: str) -> float:
    """Return the time of one request on a connection of its own, in ms."""
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    await reader.read()
    writer.close()
    return (time.perf_counter() - begun) * 1000


async def main(server: Server) -> None:
    app = Celery("bench", broker=server.url, backend=server.url)
    app.conf.broker_transport_options = {"socket_timeout": 2, "socket_connect_timeout": 2}
    print("| ms | p50 | p99 | p99.9 | max |\n| --- | --- | --- | --- | --- |")
    async with Bridge(app) as bridge:
        show("lag of the loop, nothing to do", await lag(3))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        waiting = [asyncio.ensure_future(bridge.get(f"nobody-{number}")) for number in range(10_000)]
        await asyncio.sleep(3)
        memory = (tracemalloc.get_traced_memory()[0] - before) / 10_000
        tracemalloc.stop()
        show("lag of the loop, 10,000 waiters", await lag(3))
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)

        sockets = bind_sockets(0, "127.0.0.1", backlog=4096)
        http = HTTPServer(tornado.web.Application([("/", Health), ("/wait", Waiting)], bridge=bridge, log_function=id))
        http.add_sockets(sockets)
        port = sockets[0].getsockname()[1]
        show("a request, alone", [await ask(port, "/") for _ in range(1000)])
        waiting = [asyncio.ensure_future(ask(port, f"/wait?id=w{number}")) for number in range(2000)]
        await asyncio.sleep(3)
        show("a request beside 2,000 that wait", [await ask(port, "/") for _ in range(1000)])
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        http.stop()
        await http.close_all_connections()

        server.freeze()
        lagging = asyncio.ensure_future(lag(5))
        begun = time.perf_counter()
        try:
            await bridge.dispatch("bench.add", (1, 2))
        except DispatchError as exc:
            refused = type(exc).__name__
        blocked = time.perf_counter() - begun
        show("lag of the loop, broker frozen", await lagging)
        server.thaw()
    print(
        f"\nMemory per waiter: {memory / 1024:.1f} KB. A dispatch to a frozen broker: {refused} after {blocked:.1f} s."
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    with tempfile.TemporaryDirectory() as folder:
        started = Server(Path(folder)).start()
        try:
            asyncio.run(main(started))
        finally:
            started.stop()
