"""With the broker and backend in every bad state the loop goes on, dispatches fail in time, and service resumes."""

import asyncio
import ctypes
import socket
import time
from pathlib import Path

import pytest

from tests.sample import make_app
from tests.servers import Server, free_port
from tests.ticker import ticking
from tornado_celery_bridge import (
    Bridge,
    BridgeConfig,
    BrokerUnavailable,
    DispatchError,
    ResultBackendUnavailable,
    ResultTimeout,
)

pytestmark = pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="needs Linux's schedstat")

#: Seconds: the deadline of a dispatch, and what the machine's noise may add to it.
DEADLINE = 2.0
SLACK = 0.5


async def refusals(bridge: Bridge, count: int = 20) -> list[BaseException | None]:
    """Dispatch side by side and one after another; check that each one ends by its deadline."""

    async def attempt() -> BaseException | None:
        begun = time.monotonic()
        try:
            await bridge.dispatch(bridge.app.tasks["sample.add"].s(1, 2))
        except DispatchError as exc:
            return exc
        finally:
            assert time.monotonic() - begun < DEADLINE + SLACK
        return None

    together = await asyncio.gather(*(attempt() for _ in range(count)))
    return [*together, await attempt(), await attempt()]


async def resumes(bridge: Bridge, within: float = 5.0) -> None:
    begun = time.monotonic()
    while True:
        try:
            await bridge.dispatch(bridge.app.tasks["sample.add"].s(1, 2))
            return
        except DispatchError:
            assert time.monotonic() - begun < within
            await asyncio.sleep(0.05)


def bridge_to(url: str) -> Bridge:
    return Bridge(make_app(url, url, broker_connection_timeout=2.0), BridgeConfig(dispatch_timeout=DEADLINE))


@pytest.mark.parametrize("library", [ctypes.CDLL, ctypes.PyDLL], ids=["blocked", "busy"])
async def test_a_loop_that_stands_still_is_noticed(library: type[ctypes.CDLL]) -> None:
    """Blocked by what blockbuster does not find, and by what keeps the GIL."""
    libc = library(None)
    with pytest.raises(AssertionError):
        async with ticking():
            await asyncio.sleep(0.5)
            libc.usleep(200_000)
            await asyncio.sleep(0.1)


async def test_refused_from_the_start_and_then_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    port = free_port()
    async with ticking(), bridge_to(f"redis://127.0.0.1:{port}/0") as bridge:
        outcomes = await refusals(bridge)
        assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
        assert all("the broker is not reachable: " in str(outcome) for outcome in outcomes)
        assert outcomes[-1].retry_after  # type: ignore[union-attr]
        server = await asyncio.to_thread(Server(tmp_path / "redis", port=port).start)
        try:
            await resumes(bridge)
        finally:
            await asyncio.to_thread(server.stop)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("the broker: ")]
    assert told[0].endswith("it tries again")
    assert told[1] == "the broker: it works again"  # nothing at the other attempts to connect


async def test_black_hole() -> None:
    # A full backlog drops further SYNs: to the client, an address that never answers.
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        async with ticking(), bridge_to(f"redis://127.0.0.1:{port}/0") as bridge:
            assert all(isinstance(outcome, BrokerUnavailable) for outcome in await refusals(bridge))
            with pytest.raises(ResultBackendUnavailable):
                await bridge.get("some-id", timeout=0.2)
        for filler in fillers:
            filler.close()


async def test_accepts_and_says_nothing() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(100)
        async with ticking(), bridge_to(f"redis://127.0.0.1:{mute.getsockname()[1]}/0") as bridge:
            assert all(isinstance(outcome, BrokerUnavailable) for outcome in await refusals(bridge))
            with pytest.raises(ResultBackendUnavailable):
                await bridge.state("some-id")


async def test_frozen_and_thawed(own_server: Server) -> None:
    async with ticking(), bridge_to(own_server.url) as bridge:
        await resumes(bridge)
        own_server.freeze()
        assert all(isinstance(outcome, DispatchError) for outcome in await refusals(bridge))
        with pytest.raises(BrokerUnavailable):  # by now the breaker is open
            await asyncio.wait_for(bridge.dispatch("sample.add", (1, 2)), 0.5)
        with pytest.raises((ResultBackendUnavailable, ResultTimeout)):
            await bridge.get("some-id", timeout=0.5)
        own_server.thaw()
        await resumes(bridge)


async def test_killed_and_restarted(own_server: Server) -> None:
    async with ticking(), bridge_to(own_server.url) as bridge:
        await resumes(bridge)
        waiting = asyncio.ensure_future(bridge.get("written-later", timeout=20))
        await asyncio.to_thread(own_server.kill)
        assert all(isinstance(outcome, DispatchError) for outcome in await refusals(bridge))
        await asyncio.to_thread(own_server.start)
        await resumes(bridge)
        meta = '{"status": "SUCCESS", "result": 42, "traceback": null, "children": [], "task_id": "written-later"}'
        client = await asyncio.to_thread(own_server.client)
        await asyncio.to_thread(client.set, "celery-task-meta-written-later", meta)
        await asyncio.to_thread(client.publish, "celery-task-meta-written-later", meta)
        assert await waiting == 42
        await asyncio.to_thread(client.close)


async def test_backend_gone_broker_fine(own_server: Server, server: Server) -> None:
    app = make_app(server.url, own_server.url)
    async with ticking(), Bridge(app) as bridge:
        await resumes(bridge)
        own_server.freeze()
        begun = time.monotonic()
        assert [outcome for outcome in await refusals(bridge) if outcome] == []  # publishing needs no backend
        assert time.monotonic() - begun < DEADLINE
        with pytest.raises(ResultBackendUnavailable):
            await bridge.ping_backend()
        own_server.thaw()


async def test_nothing_is_sent_once_it_was_refused(own_server: Server) -> None:
    """What was said not to be sent never arrives."""
    async with bridge_to(own_server.url) as bridge:
        await resumes(bridge)
        client = await asyncio.to_thread(own_server.client)
        await asyncio.to_thread(client.flushall)
        own_server.freeze()
        outcomes = await refusals(bridge)
        own_server.thaw()
        await resumes(bridge)
        sent = await asyncio.to_thread(client.llen, "sample")
        in_doubt = sum(not isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
        assert sent <= in_doubt + 1  # the one that resumed
        await asyncio.to_thread(client.close)


async def test_a_broker_that_is_away_is_tried_again_as_often_as_is_told(tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    async with (
        Bridge(make_app(url, url), BridgeConfig(breaker_reset=600)) as rarely,
        Bridge(make_app(url, url), BridgeConfig(breaker_reset=0.05)) as often,
    ):
        for bridge in (rarely, often):
            assert all(isinstance(outcome, BrokerUnavailable) for outcome in await refusals(bridge, 1))
        server = await asyncio.to_thread(Server(tmp_path / "redis", port=port).start)
        try:
            await resumes(often, within=30)
            with pytest.raises(BrokerUnavailable, match="not reachable"):
                await rarely.dispatch("sample.add", (1, 2))
        finally:
            await asyncio.to_thread(server.stop)


@pytest.mark.parametrize("patience", [0.1, 60])
async def test_a_bridge_that_closes_waits_so_long_for_what_is_under_way(own_server: Server, patience: float) -> None:
    config = BridgeConfig(dispatch_timeout=120, close_timeout=patience, stuck_after=120)
    bridge = await Bridge(make_app(own_server.url, own_server.url), config).start()
    await resumes(bridge)
    own_server.freeze()
    under_way = asyncio.ensure_future(bridge.dispatch("sample.add", (1, 2)))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(bridge.close())
    if patience > 1:
        await asyncio.sleep(0.5)
        assert not closing.done()
        own_server.thaw()
        assert (await under_way).id
        await closing
    else:
        await closing
        assert not under_way.done()
        under_way.cancel()
        own_server.thaw()
