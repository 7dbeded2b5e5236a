"""Who waits for whom while messages are sent: each outcome is known as soon as it is, and what is large waits alone."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from celery import chord, group

from tests.sample import make_app
from tests.servers import Database
from tests.ticker import watched
from tornado_celery_bridge import Bridge, BridgeConfig, BrokerUnavailable, DispatchError, GroupResult
from tornado_celery_bridge.base.lane import MAX_BATCH, Call, InDoubt, Lane, NotBegun


@pytest.fixture
async def bridge(database: Database) -> AsyncIterator[Bridge]:
    """A bridge whose messages nobody takes."""
    async with Bridge(make_app(database.url, database.url), BridgeConfig(stuck_after=1.0)) as made:
        yield made


async def sent(database: Database) -> int:
    def count() -> int:
        with database.client() as client:
            return int(client.llen("sample"))

    return await asyncio.to_thread(count)


class Recorder:
    """A runner that notes its batches, and does what is asked of it."""

    def __init__(self) -> None:
        self.progress = 0.0
        self.batches: list[int] = []

    def ready(self) -> bool:
        return True

    def run(self, calls: Sequence[Call]) -> None:
        self.batches.append(len(calls))
        for call in calls:
            if call.begin():
                call.value = call.work(self)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("most", [MAX_BATCH, 1])
async def test_a_batch_has_a_maximum(most: int) -> None:
    runner = Recorder()
    lane = Lane("sample", lambda: runner, max_pending=5_000, stuck_after=5, reset=0.1, max_batch=most)
    lane.start()
    # The first is under way while the others gather, in one turn of the loop.
    outcomes = [lane.submit(lambda _, number=number: number, 10) for number in range(1_000)]
    assert await asyncio.gather(*outcomes) == list(range(1_000))
    assert max(runner.batches) <= most
    assert sum(runner.batches) == 1_000
    await lane.close(1)


async def test_progress_is_no_stall() -> None:
    runner = Recorder()
    lane = Lane("sample", lambda: runner, max_pending=10, stuck_after=1.0, reset=0.1, max_batch=1)
    lane.start()

    def works(runner: Recorder) -> str:
        for _ in range(30):
            time.sleep(0.05)
            runner.progress = time.monotonic()
        return "done"

    assert await lane.submit(works, 10) == "done"
    stuck = lane.submit(lambda _: time.sleep(2.5), 10)
    behind = lane.submit(lambda _: "next", 10)
    with pytest.raises(InDoubt):
        await stuck
    assert await behind == "next"
    late = lane.submit(lambda _: time.sleep(0.15), 10)
    with pytest.raises(NotBegun):
        await lane.submit(lambda _: "never", 0.05)
    await late
    await lane.close(1)


async def test_each_chord_has_its_own_outcome(bridge: Bridge, database: Database) -> None:
    add, total = bridge.app.tasks["sample.add"], bridge.app.tasks["sample.total"]
    await bridge.dispatch(chord([add.s(1, 2)] * 2, total.s()))  # connects
    before = await sent(database)
    outcomes = await asyncio.gather(
        *(bridge.dispatch(chord([add.s(1, 2)] * 2, total.s()), dispatch_timeout=0.4) for _ in range(400)),
        *(bridge.dispatch(add.s(1, 2)) for _ in range(300)),
        return_exceptions=True,
    )
    assert not any(isinstance(outcome, DispatchError) for outcome in outcomes[400:])  # plain ones do not wait for them
    refused = sum(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
    in_doubt = sum(isinstance(outcome, DispatchError) for outcome in outcomes) - refused
    # Whose answer was on its way as the time was up: 0 idle, 14 on a busy machine. A batch would be 256.
    assert in_doubt <= 100
    messages = await sent(database) - before - 300
    assert 2 * (400 - refused - in_doubt) <= messages <= 2 * (400 - refused)


def count(size: int, pause: float = 0.0) -> Iterator[int]:
    for number in range(size):
        time.sleep(pause)
        yield number


@pytest.mark.parametrize(
    ("size", "pause"),
    [(6_000, 0.0), (10, 0.25), pytest.param(40_000, 0.0, marks=pytest.mark.nightly)],
    ids=["many", "slow", "more"],
)
async def test_a_large_canvas_is_sent_while_others_are(
    bridge: Bridge, database: Database, size: int, pause: float
) -> None:
    add = bridge.app.tasks["sample.add"]
    await bridge.dispatch(add.s(0, 0))
    async with watched() as ticker:
        large = asyncio.ensure_future(
            bridge.dispatch(group(add.s(number, 1) for number in count(size, pause)), dispatch_timeout=60)
        )
        others = 0
        while not large.done():
            await bridge.dispatch(group(add.s(1, 2), add.s(3, 4)))
            await bridge.dispatch(add.s(1, 2))
            others += 3
            await asyncio.sleep(0.02)
    if size > 10_000:  # Python's collector looks at the million objects of such a canvas; without it, 1 ms is longest
        assert max(ticker.late) < 0.5
    else:
        ticker.check(usual=0.05)
    result = await large
    assert isinstance(result, GroupResult)
    assert len(result.results) == size
    assert await sent(database) == size + others + 1


async def test_a_generator_beyond_its_deadline_sends_nothing(bridge: Bridge, database: Database) -> None:
    add = bridge.app.tasks["sample.add"]

    def endless() -> Iterator[Any]:
        while True:
            time.sleep(0.01)
            yield add.s(1, 2)

    with pytest.raises(BrokerUnavailable):
        await bridge.dispatch(group(endless()), dispatch_timeout=0.3)
    assert await sent(database) == 0
    await bridge.dispatch(group(add.s(1, 2) for _ in range(3)))
    assert await sent(database) == 3


class Breaks:
    """An argument whose serialization closes all connections of publishers: what comes next finds none."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __json__(self) -> int:
        with self._database.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        return 1


async def test_what_breaks_the_connection_is_nobody_elses_outcome(bridge: Bridge, database: Database) -> None:
    add, total, echo = (bridge.app.tasks[f"sample.{name}"] for name in ("add", "total", "echo"))
    await bridge.dispatch(chord([add.s(1, 2)] * 2, total.s()))
    before = await sent(database)
    outcomes = await asyncio.gather(
        bridge.dispatch(chord([add.s(1, 2)] * 2, total.s())),
        bridge.dispatch(echo.s(1)),
        bridge.dispatch(echo.s(Breaks(database))),
        bridge.dispatch(echo.s(2)),
        return_exceptions=True,
    )
    chord_sent = not isinstance(outcomes[0], BaseException)
    messages = await sent(database) - before
    certain = 2 * chord_sent + sum(not isinstance(outcome, BaseException) for outcome in outcomes[1:])
    doubtful = sum(
        isinstance(outcome, BaseException) and not isinstance(outcome, BrokerUnavailable) for outcome in outcomes
    )
    assert certain <= messages <= certain + 2 * doubtful
