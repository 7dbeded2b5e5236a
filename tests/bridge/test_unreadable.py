"""What can't be read under one key, and what Redis refuses, costs nobody else anything. Nothing here needs a worker."""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.sample import make_app
from tests.servers import Database, Server
from tests.ticker import ticking
from tornado_celery_bridge import Bridge, BridgeConfig, ResultError, ResultTimeout, TaskFailed
from tornado_celery_bridge.base.redis import connection_pool
from tornado_celery_bridge.base.subscriber import BEAT, Subscriber

#: Seconds. What used to hang is to fail within the test's patience.
PATIENCE = 10.0


class CannotTell(Exception):
    """As a client's error of its response: by way of the result backend its argument is text."""

    def __str__(self) -> str:
        return f"HTTP {self.args[0].status}"


def stored(task_id: str, result: Any, status: str = "SUCCESS") -> str:
    return json.dumps({"status": status, "result": result, "traceback": None, "children": [], "task_id": task_id})


CANNOT_TELL = {"exc_type": "CannotTell", "exc_module": __name__, "exc_message": ["a response"]}
UNREADABLE = {
    "not JSON": "{",
    "no state": "{}",
    "a list": "[]",
    "text": '"text"',
    "null": "null",
    "no result": '{"status": "SUCCESS"}',
    "a state that is none": '{"status": 1, "result": 1}',
    "a failure that is none": stored("x", 5, "FAILURE"),
    "a class that is none": stored("x", {"exc_type": "system", "exc_module": "os", "exc_message": "true"}, "FAILURE"),
    "an unknown type": '{"status": "SUCCESS", "result": {"__type__": "mine", "__value__": 1}}',
    "an exception that can't be told": stored("x", CANNOT_TELL, "FAILURE"),
}


async def store(database: Database, task_id: str, payload: str) -> None:
    def put() -> None:
        with database.client() as client:
            client.set(f"celery-task-meta-{task_id}", payload)
            client.publish(f"celery-task-meta-{task_id}", payload)

    await asyncio.to_thread(put)


@pytest.fixture
async def bridge(database: Database) -> AsyncIterator[Bridge]:
    async with Bridge(make_app(database.url, database.url)) as made:
        yield made


async def subscribers(server: Server) -> set[str]:
    """Return the connections that are subscribed to anything."""

    def ask() -> set[str]:
        with server.client() as client:
            return {each["id"] for each in client.client_list(_type="pubsub")}

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("published", [True, False], ids=["published", "stored"])
async def test_one_unreadable_result_ends_one_wait(
    bridge: Bridge, database: Database, payload: str, published: bool
) -> None:
    await store(database, "good", stored("good", 42))
    waiting = asyncio.ensure_future(bridge.get("later", timeout=PATIENCE))
    if not published:
        await store(database, "bad", payload)
    bad = asyncio.ensure_future(bridge.get("bad", timeout=PATIENCE))
    while not (connections := await subscribers(database.server)):
        await asyncio.sleep(0)
    await store(database, "bad", payload)
    with pytest.raises(ResultError) as caught:
        await bad
    assert not isinstance(caught.value, ResultTimeout)
    assert caught.value.task_id == "bad"
    assert await bridge.get("good", timeout=PATIENCE) == 42
    await store(database, "later", stored("later", 43))
    assert await waiting == 43
    assert connections <= await subscribers(database.server)  # others come and go
    with pytest.raises(ResultError):
        await bridge.get("bad", timeout=0)
    if "FAILURE" not in payload:
        with pytest.raises(ResultError):
            await bridge.state("bad")
        with pytest.raises(ResultError):
            [state async for state in bridge.stream("bad", timeout=PATIENCE)]


async def test_an_exception_that_can_not_be_told_is_still_the_cause(bridge: Bridge, database: Database) -> None:
    await store(database, "bad", stored("bad", CANNOT_TELL, "FAILURE"))
    with pytest.raises(TaskFailed, match="CannotTell: a response") as caught:
        await bridge.get("bad", timeout=PATIENCE)
    assert isinstance(caught.value.__cause__, CannotTell)
    error = (await bridge.state("bad")).error
    assert error is not None
    assert error.message == "a response"


@pytest.mark.parametrize("flat", [True, False], ids=["a flat list", "objects"])
async def test_a_large_result_holds_nobody_up(database: Database, flat: bool) -> None:
    value: Any = list(range(1_500_000)) if flat else [{"number": number, "text": "x" * 50} for number in range(200_000)]
    payload = await asyncio.to_thread(stored, "large", value)
    async with Bridge(make_app(database.url, database.url)) as bridge:
        large = asyncio.ensure_future(bridge.get("large", timeout=60))
        later = asyncio.ensure_future(bridge.get("later", timeout=60))
        while not (connections := await subscribers(database.server)):
            await asyncio.sleep(0)
        async with ticking(usual=0.05):
            await store(database, "large", payload)
            await store(database, "small", stored("small", 1))
            assert await bridge.get("small", timeout=PATIENCE) == 1
            assert not large.done()
            got = await large
            await asyncio.sleep(0.3)  # for enough ticks
        assert len(got) == len(value)
        assert connections <= await subscribers(database.server)  # others come and go
        later.cancel()


@pytest.mark.parametrize("refused", ["subscribe", "ping"])
async def test_a_server_that_refuses_is_asked_seldom(
    database: Database, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tornado_celery_bridge")
    address = f"127.0.0.1:{database.server.port}/{database.number}"
    client = await asyncio.to_thread(database.client)

    def connections() -> int:
        return int(client.info("stats")["total_connections_received"])

    rights: Any = {"keys": ["*"], "channels": ["*"], "commands": ["+@all", f"-{refused}"]}
    await asyncio.to_thread(lambda: client.acl_setuser("few", True, passwords=["+pw"], **rights))
    try:
        app = make_app(database.url, f"redis://few:pw@{address}")
        async with Bridge(app, BridgeConfig(sweep_interval=60)) as bridge:
            waiting = asyncio.ensure_future(bridge.get("later", timeout=PATIENCE))
            before, begun = await asyncio.to_thread(connections), time.process_time()
            await asyncio.sleep(2 * BEAT)
            assert await asyncio.to_thread(connections) - before < 20
            assert time.process_time() - begun < 1.0
            await store(database, "later", stored("later", 1))
            await asyncio.to_thread(client.acl_setuser, "few", True, commands=["+@all"])
            assert await waiting == 1
            lines = [record.message for record in caplog.records if "subscriptions" in record.message]
            while len(lines) < 2:
                await asyncio.sleep(0.05)
                lines = [record.message for record in caplog.records if "subscriptions" in record.message]
    finally:
        await asyncio.to_thread(client.acl_deluser, "few")
        await asyncio.to_thread(client.close)
    assert refused in lines[0]
    assert [line.partition(": ")[2] for line in lines[1:]] == ["it works again"]


async def test_a_channel_is_subscribed_to_if_it_was_wanted_last(database: Database) -> None:
    app = make_app(database.url, database.url)
    pool = connection_pool(await asyncio.to_thread(lambda: app.backend), max_connections=1, socket_timeout=None)
    subscriber = Subscriber(pool, lambda channel: None, lambda channel, message: None)
    channels = [b"channel-%d" % number for number in range(3_000)]
    subscriber.start()

    def wanted() -> int:
        with database.client() as client:
            return len(client.pubsub_channels("channel-*"))

    for channel in channels:
        subscriber.subscribe(channel)
    while await asyncio.to_thread(wanted) < len(channels):
        await asyncio.sleep(0.01)
    for channel in channels:
        subscriber.unsubscribe(channel)
    while subscriber._to_unsubscribe:  # until the beat sends these, in several commands
        await asyncio.sleep(0)
    for channel in channels:
        subscriber.subscribe(channel)
    await asyncio.sleep(2 * BEAT)
    assert await asyncio.to_thread(wanted) == len(channels)
    await subscriber.close()


def sqlite(folder: Path) -> tuple[str, Any]:
    def spoil(task_id: str) -> None:
        with sqlite3.connect(folder / "results.sqlite") as connection:
            connection.execute("UPDATE celery_taskmeta SET result = ? WHERE task_id = ?", (b"rubbish", task_id))
        connection.close()

    return f"db+sqlite:///{folder}/results.sqlite", spoil


def filesystem(folder: Path) -> tuple[str, Any]:
    return f"file://{folder}", lambda task_id: (folder / f"celery-task-meta-{task_id}").write_text("{")


@pytest.mark.parametrize("backend", [sqlite, filesystem])
async def test_one_unreadable_result_starves_nobody(server: Server, tmp_path: Path, backend: Any) -> None:
    url, spoil = backend(tmp_path)

    def prepare(app: Celery) -> None:
        for task_id, value in (("bad", 1), ("good", 42)):
            app.backend.store_result(task_id, value, "SUCCESS")
        spoil("bad")

    app = make_app(server.url, url)
    await asyncio.to_thread(prepare, app)
    async with Bridge(app, BridgeConfig(poll_interval=0.02)) as bridge:
        bad = asyncio.ensure_future(bridge.get("bad", timeout=PATIENCE))
        assert await bridge.get("good", timeout=PATIENCE) == 42
        with pytest.raises(ResultError, match="bad"):
            await bad
        with pytest.raises(ResultError, match="can't be read"):
            await bridge.state("bad")


async def test_a_watcher_that_raises_harms_itself_alone(bridge: Bridge, database: Database) -> None:
    heard: list[Any] = []

    def broken(task_id: str, news: Any) -> None:
        heard.append(news)
        raise ValueError("not mine")

    listener = bridge._parts.listener
    listener.watch(["id"], broken)
    other = asyncio.ensure_future(bridge.get("id", timeout=PATIENCE))
    await asyncio.sleep(0)
    await store(database, "id", stored("id", 1))
    assert await other == 1
    listener.unwatch(["id"], broken)
    assert isinstance(heard[0], dict)
