"""What could never end is refused at the call; what has a deadline ends by it, and interferes with nobody."""

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import ImproperlyConfigured

from tests.sample import make_app
from tests.servers import Server
from tornado_celery_bridge import Bridge, ResultTimeout
from tornado_celery_bridge.worker import install

CALLS: dict[str, Callable[[Bridge, Any], Any]] = {
    "dispatch": lambda bridge, task_id: bridge.dispatch("sample.add", (1, 2), task_id=task_id),
    "dispatch a signature": lambda bridge, task_id: bridge.dispatch(
        bridge.app.tasks["sample.add"].s(1, 2).set(task_id=task_id)
    ),
    "dispatch a group": lambda bridge, task_id: bridge.dispatch(
        group(bridge.app.tasks["sample.add"].s(1, 2)), task_id=task_id
    ),
    "submit": lambda bridge, task_id: bridge.submit("sample.add", (1, 2), task_id=task_id),
    "get": lambda bridge, task_id: bridge.get(task_id, timeout=5),
    "wait": lambda bridge, task_id: bridge.wait(task_id, timeout=5),
    "state": lambda bridge, task_id: bridge.state(task_id),
    "stream": lambda bridge, task_id: anext(bridge.stream(task_id, timeout=5)),
    "revoke": lambda bridge, task_id: bridge.revoke(task_id),
    "forget": lambda bridge, task_id: bridge.forget(task_id),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_an_id_that_is_none(server: Server, call: Callable[[Bridge, Any], Any]) -> None:
    app = make_app(server.url, server.url)
    install(app)
    async with Bridge(app) as bridge:
        for task_id, error in ((uuid.uuid4(), TypeError), (5, TypeError), ("", ValueError), ("\ud800", ValueError)):
            with pytest.raises(error):
                await call(bridge, task_id)
        assert bridge._parts.awaiting.waits == 0
        assert bridge._parts.listener.watched == ()


@pytest.mark.parametrize("eager", [True, False])
async def test_an_empty_chain(sample_worker: str, eager: bool) -> None:
    app = make_app(sample_worker, sample_worker, task_always_eager=eager)
    async with Bridge(app) as bridge:
        with pytest.raises(ValueError, match="empty"):
            await bridge.dispatch(chain(app=app))


async def test_what_stores_no_result_is_not_waited_for(bridge: Bridge) -> None:
    add, ignored = bridge.app.tasks["sample.add"], bridge.app.tasks["sample.ignored"]
    unkept = add.signature((1, 2), ignore_result=True)
    canvases = [
        (chain(add.s(1, 2), ignored.si()), None),
        (group(ignored.s(), add.s(1, 2), unkept), [None, 3, None]),
        (chord([add.s(1, 2), add.s(3, 4)], ignored.si()), None),
        (chain(add.s(1, 2), group(ignored.si(), add.s(3))), [None, 6]),
        (chord([ignored.s(), add.s(1, 2)], bridge.app.tasks["sample.echo"].s()), [1, 3]),  # Redis keeps them for it
    ]
    for canvas, expected in canvases:
        assert await bridge.get(await bridge.dispatch(canvas), timeout=10) == expected


@pytest.mark.parametrize("nested", [False, True])
async def test_a_chord_that_would_wait_for_what_is_not_stored(server: Server, tmp_path: Path, nested: bool) -> None:
    app = make_app(server.url, f"db+sqlite:///{tmp_path}/results.sqlite")
    async with Bridge(app) as bridge:
        add, ignored, total = (app.tasks[f"sample.{name}"] for name in ("add", "ignored", "total"))
        header = [add.s(1, 2), chain(add.s(1, 2), ignored.si())]
        canvas: Any = chord(header, total.s())
        with pytest.raises(ValueError, match=r"sample\.ignored.*ignore_result"):
            await bridge.dispatch(group(add.s(1, 1), canvas) if nested else canvas)


async def test_submit_needs_workers_that_keep_the_ledger(bridge: Bridge) -> None:
    with pytest.raises(ImproperlyConfigured, match="install"):
        await bridge.submit("sample.add", (1, 2))


async def test_an_eager_task_is_no_job(server: Server) -> None:
    app = make_app(server.url, server.url, task_always_eager=True)
    install(app)
    async with Bridge(app) as bridge:
        for send in (bridge.submit, bridge.publish):
            with pytest.raises(ImproperlyConfigured, match="task_always_eager"):
                await send(app.tasks["sample.add"], (1, 2), task_id="a")
        assert await bridge.ledger.jobs.get("a") is None


async def test_a_streams_deadline_is_not_its_consumers(app: Celery) -> None:
    async with Bridge(app) as bridge:
        states = bridge.stream("nobody-sends", timeout=0.1)
        assert (await anext(states)).state == "PENDING"
        following = asyncio.ensure_future(bridge.dispatch("sample.count", (3, 0.1)))
        async for _ in bridge.stream(await following, timeout=0.2):
            await asyncio.sleep(0.5)  # the consumer's own await: nothing of the stream's may end it
            break
        with pytest.raises(ResultTimeout, match="nobody-sends"):
            await anext(states)
        assert bridge._parts.awaiting.waits == 0
