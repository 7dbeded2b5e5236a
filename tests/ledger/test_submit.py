"""``Bridge.submit``: jobs of an app of one's own, without the service."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from celery import Celery, chain, group
from kombu.exceptions import EncodeError

from tests.ledger.sample import make_app
from tests.servers import Server, worker
from tornado_celery_bridge import Bridge, BrokerUnavailable, DispatchUncertain, TaskFailed
from tornado_celery_bridge.ledger import Job, LedgerUnavailable
from tornado_celery_bridge.worker import install

IDS = [f"00000000-0000-0000-0000-00000000000{number}" for number in range(10)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A broker, and what the ledger and the results are in."""
    folder = tmp_path_factory.mktemp("submit")
    broker, ledger = Server(folder / "broker").start(), Server(folder / "ledger").start()
    yield broker, ledger
    broker.stop()
    ledger.stop()


@pytest.fixture
async def bridge(servers: tuple[Server, Server]) -> AsyncIterator[Bridge]:
    broker, ledger = servers
    app = make_app(broker.url, ledger.url)
    async with Bridge(app) as bridge:
        await bridge.ledger.redis.call("FLUSHALL")
        yield bridge


@pytest.fixture
def own_worker(servers: tuple[Server, Server], tmp_path: Path) -> Iterator[int]:
    broker, ledger = servers
    environment = {"SAMPLE_URL": broker.url, "SAMPLE_LEDGER": ledger.url}
    with worker("tests.ledger.sample", environment, tmp_path / "log", "-c", "1", "-Q", "sample") as process:
        yield process.pid


async def job(bridge: Bridge, job_id: str) -> Job:
    found = await bridge.ledger.jobs.get(job_id)
    assert isinstance(found, Job)
    return found


async def known_to_be_away(bridge: Bridge) -> None:
    """Return once the bridge has found that its broker is away."""
    async with asyncio.timeout(20):
        with pytest.raises(BrokerUnavailable):
            while True:
                await asyncio.sleep(0.02)
                await bridge.ping_broker()


async def test_it_runs_and_is_awaited(bridge: Bridge, own_worker: int) -> None:
    add = bridge.app.tasks["sample.add"]
    result = await bridge.submit(add.s(2), (1,), owner="me", tags=["a"])
    assert await result == 3
    named = await bridge.submit("sample.add", kwargs={"x": 1, "y": 5}, countdown=0.5, priority=9, queue="sample")
    assert await named == 6
    first, second = await job(bridge, result.id), await job(bridge, named.id)
    assert (first.state, first.record.owner, first.record.tags, first.result) == ("SUCCESS", "me", ["a"], 3)
    assert second.record.options == {"queue": "sample", "priority": 0}  # 9 is the least urgent, to kombu on Redis
    assert (second.record.eta or 0) > second.record.created_at
    assert await bridge.ledger.jobs.input_of(named.id) == b'{"x":1,"y":5}'


async def test_of_one_id_there_is_one_job(bridge: Bridge, own_worker: int) -> None:
    for _ in range(3):
        assert await (await bridge.submit("sample.add", (1,), task_id=IDS[1])) == 2
    assert (await job(bridge, IDS[1])).attempt == 1


async def test_a_killed_worker(bridge: Bridge, own_worker: int, servers: tuple[Server, Server]) -> None:
    """The lease of its job ends, and another runs it."""
    result = await bridge.submit("sample.nap", (3,))
    async with asyncio.timeout(20):
        while (await job(bridge, result.id)).state != "STARTED":
            await asyncio.sleep(0.05)
    os.killpg(own_worker, signal.SIGKILL)
    broker, ledger = servers
    environment = {"SAMPLE_URL": broker.url, "SAMPLE_LEDGER": ledger.url}
    context = worker("tests.ledger.sample", environment, broker.folder / "other", "-c", "1", "-Q", "sample")
    await asyncio.to_thread(context.__enter__)
    try:
        assert await bridge.get(result.id, timeout=60) == 3
        assert (await job(bridge, result.id)).attempt == 2
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def test_while_the_broker_is_away(
    bridge: Bridge, servers: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, ledger = servers
    await asyncio.to_thread(broker.kill)
    result = await bridge.submit("sample.add", (3,))
    assert (await job(bridge, result.id)).state == "PENDING"
    await known_to_be_away(bridge)  # until then, what is published may be in doubt, and not in the outbox
    kept = await bridge.submit("sample.add", (4,))
    with monkeypatch.context() as patch:
        patch.setattr("tornado_celery_bridge.bridge.sending.MAX_OUTBOX", 1)
        with pytest.raises(BrokerUnavailable):
            await bridge.submit("sample.add", (3,), task_id=IDS[2])
    assert await bridge.ledger.jobs.get(IDS[2]) is None
    stranger = Celery("stranger", broker=broker.url, backend=broker.url, set_as_current=False)
    stranger.conf.update(job_ledger_url=ledger.url, task_default_queue="sample")
    install(stranger)
    async with Bridge(stranger) as other:  # which can't know what the task takes
        misfit = await other.submit("sample.add", kwargs={"z": 1})
    stranger.close()
    await asyncio.to_thread(broker.start)
    environment = {"SAMPLE_URL": broker.url, "SAMPLE_LEDGER": ledger.url}
    context = worker("tests.ledger.sample", environment, tmp_path / "log", "-c", "1", "-Q", "sample")
    await asyncio.to_thread(context.__enter__)
    try:
        assert await bridge.get(result.id, timeout=60) == 4
        assert await bridge.get(kept.id, timeout=60) == 5
        with pytest.raises(TaskFailed, match="unexpected keyword argument"):
            await bridge.get(misfit.id, timeout=60)
        assert (await job(bridge, misfit.id)).state == "FAILURE"
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def test_when_all_is_away(
    bridge: Bridge, servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was accepted, could not be published, and nobody can be told so."""
    broker, ledger = servers
    accept = bridge.ledger.jobs.accept

    async def accepted_in_time(*args: object, **options: object) -> object:
        answer = await accept(*args, **options)  # type: ignore[arg-type]
        ledger.freeze()
        return answer

    await asyncio.to_thread(broker.kill)
    monkeypatch.setattr(bridge.ledger.jobs, "accept", accepted_in_time)
    try:
        with pytest.raises(DispatchUncertain) as caught:
            await bridge.submit("sample.add", (3,), task_id=IDS[3])
        assert caught.value.task_id == IDS[3]
    finally:
        ledger.thaw()
        await asyncio.to_thread(broker.start)


async def test_a_ledger_that_does_not_answer_may_have_accepted(bridge: Bridge, servers: tuple[Server, Server]) -> None:
    _, ledger = servers
    ledger.freeze()
    try:
        with pytest.raises(LedgerUnavailable, match="may have been accepted all the same") as caught:
            await bridge.submit("sample.add", (1,), queue="quiet", task_id=IDS[5])
        assert caught.value.task_id == IDS[5]
    finally:
        ledger.thaw()
    async with asyncio.timeout(10):  # it has
        while await bridge.ledger.jobs.get(IDS[5]) is None:
            await asyncio.sleep(0.05)


async def test_what_is_refused_leaves_nothing(bridge: Bridge) -> None:
    add = bridge.app.tasks["sample.add"]
    for canvas in (chain(add.s(1), add.s()), group(add.s(1), add.s(2)), add.chunks([(1, 2)], 1)):
        with pytest.raises(TypeError, match="not a single job"):
            await bridge.submit(canvas)
    with pytest.raises(TypeError, match="missing"):
        await bridge.submit(add.s())
    with pytest.raises(TypeError, match="can't be named"):
        await bridge.submit("unknown.task", (1,), {"y": 2})
    with pytest.raises((TypeError, EncodeError)):
        await bridge.submit("sample.add", (object(),))
    assert await bridge.ledger.redis.call("KEYS", "{tcb}job:*") == []


async def test_positional_and_named_arguments(bridge: Bridge) -> None:
    made = await bridge.submit("sample.add", (1,), {"y": 2}, queue="quiet")
    assert await bridge.ledger.jobs.input_of(made.id) == b'{"x":1,"y":2}'
