"""Celery's own blocking calls are refused where a loop runs, with the line to write instead, and nowhere else."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from blockbuster import BlockBuster
from celery import Celery, chain, chord, group
from celery.result import AsyncResult, GroupResult

from tornado_celery_bridge import Bridge, BridgeConfig, WouldBlock

pytestmark = pytest.mark.usefixtures("collected")  # what was refused has left results of Celery's own

CALLS: dict[str, tuple[Callable[[Celery], Any], str]] = {
    "delay": (lambda app: app.tasks["sample.add"].delay(1, 2), r"await bridge\.dispatch\(add\.s\(…\)\)"),
    "apply_async": (lambda app: app.tasks["sample.add"].s(1, 2).apply_async(), r"bridge\.dispatch"),
    "send_task": (lambda app: app.send_task("sample.add", (1, 2)), r"bridge\.dispatch"),
    "chain": (lambda app: chain(app.tasks["sample.add"].s(1, 2), app.tasks["sample.add"].s(1))(), r"bridge\.dispatch"),
    "group": (lambda app: group(app.tasks["sample.add"].s(1, 2))(), r"bridge\.dispatch"),
    "chord": (lambda app: chord([app.tasks["sample.add"].s(1, 2)])(app.tasks["sample.echo"].s()), r"bridge\.dispatch"),
    "get": (lambda app: app.AsyncResult("id").get(timeout=1), r"await bridge\.get\(result\)"),
    "state": (lambda app: app.AsyncResult("id").state, r"bridge\.state"),
    "ready": (lambda app: AsyncResult("id", app=app).ready(), r"bridge\.state"),
    "forget": (lambda app: app.AsyncResult("id").forget(), r"bridge\.forget"),
    "join": (lambda app: GroupResult("g", [AsyncResult("id", app=app)], app=app).get(timeout=1), r"bridge\.get"),
    "restore": (lambda app: GroupResult.restore("g", app=app), "to_thread"),
    "ping": (lambda app: app.control.ping(timeout=0.1), "to_thread"),
    "inspect": (lambda app: app.control.inspect(timeout=0.1).active(), "to_thread"),
    "revoke": (lambda app: app.AsyncResult("id").revoke(), r"bridge\.revoke"),
    "purge": (lambda app: app.control.purge(), r"bridge\.purge"),
}


@pytest.mark.parametrize(("call", "instead"), CALLS.values(), ids=CALLS)
async def test_a_blocking_call_on_the_loop(
    app: Celery, call: Callable[[Celery], Any], instead: str, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()  # nothing else is to find the call, or what makes a backend: it reads files
    async with Bridge(app):  # asyncio's debug mode is on
        with pytest.raises(WouldBlock, match=instead):
            call(app)
    assert not {"send_task", "_get_backend"} & set(vars(app))


async def test_in_a_thread_it_does_as_before(app: Celery) -> None:
    def blocking() -> Any:
        result = app.tasks["sample.add"].delay(1, 2)
        return result.get(timeout=30), result.state, len(app.control.ping(timeout=30, limit=1) or ())

    async with Bridge(app), Bridge(app):
        assert await asyncio.to_thread(blocking) == (3, "SUCCESS", 1)


async def test_it_is_for_debug_mode_or_as_told(app: Celery, blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()
    async with Bridge(app, BridgeConfig(refuse_blocking_calls=False)):
        assert app.tasks["sample.add"].delay(1, 2).id
        async with Bridge(app):
            with pytest.raises(WouldBlock):
                app.tasks["sample.add"].delay(1, 2)
        assert app.tasks["sample.add"].delay(1, 2).id
    asyncio.get_running_loop().set_debug(False)
    async with Bridge(app):
        assert app.tasks["sample.add"].delay(1, 2).id
    async with Bridge(app, BridgeConfig(refuse_blocking_calls=True)):
        with pytest.raises(WouldBlock):
            app.tasks["sample.add"].delay(1, 2)
