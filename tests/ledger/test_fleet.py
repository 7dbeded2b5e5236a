"""What is wrong between the workers of a deployment is found; what a worker without the ledger ran is seen."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.sample import make_app
from tornado_celery_bridge import Bridge, TaskFailed
from tornado_celery_bridge.base.store import Store
from tornado_celery_bridge.ledger import Job, Ledger, Monitor, fleet, strangers
from tornado_celery_bridge.ledger.blocking import WorkerLedger
from tornado_celery_bridge.ledger.fleet import check_fleet
from tornado_celery_bridge.ledger.strangers import Strangers
from tornado_celery_bridge.worker import install


def tell(worker: WorkerLedger, worker_id: str, **about: Any) -> None:
    known = {"slots": 1, "queues": ["q"], "name": worker_id, "behind": 0.0, "store": ""}
    worker.lease(worker_id, [], [], known | about)


def named(app: Celery) -> dict[str, str]:
    return {each.name: each.what for each in check_fleet(app, ask=False)}


def test_a_fleet_in_order(app: Celery, worker: WorkerLedger) -> None:
    assert named(app) == {}
    tell(worker, "a@x", behind=-1.0)
    tell(worker, "b@x")
    assert named(app) == {}


async def test_two_workers_of_one_name(app: Celery, ledger: Ledger, worker: WorkerLedger) -> None:
    for worker_id in "12":
        await asyncio.to_thread(tell, worker, worker_id, name="w@x", slots=int(worker_id))
    assert [(each.name, each.slots) for each in await Monitor(ledger).workers()] == [("w@x", 1), ("w@x", 2)]
    assert list(await asyncio.to_thread(named, app)) == ["same-name"]


def test_a_clock_that_is_off(app: Celery, worker: WorkerLedger) -> None:
    tell(worker, "a@x", behind=-90.0)
    assert "a@x is 90.0 s ahead of" in named(app)["clock"]


def test_stores(app: Celery, worker: WorkerLedger, tmp_path: Path) -> None:
    """Two names of one folder are one store; a folder elsewhere is another, also if it is named alike."""
    app.conf.job_store_url = f"file://{tmp_path}/one"
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "one")
    tell(worker, "a@x", store=Store(f"file://{tmp_path}/link").identity())
    tell(worker, "new@x", store=None)  # it has not told yet
    assert named(app) == {}
    tell(worker, "b@x", store=Store(f"file://{tmp_path}/two").identity())
    tell(worker, "c@x", store="")
    assert named(app)["store"].startswith("b@x, c@x and this process")


def test_queues_without_a_worker_and_workers_without_a_sender(app: Celery, worker: WorkerLedger) -> None:
    """What a worker takes from is the worker's to say: the misspelt queue of a command line is none of the app's."""
    app.conf.task_routes = {"mail.*": {"queue": "mail"}}
    tell(worker, "a@x", queues=["celery", "mial"])
    found = {each.name: each for each in check_fleet(app, ask=True)}
    assert set(found) == {"no-worker", "no-sender"}
    assert found["no-worker"].what == "no worker takes from mail: what is sent there waits"
    assert found["no-sender"].what == "a@x takes from mial, which no setting, route or task of the app names"
    assert found["no-sender"].remedy == "-Q mail, if that is meant"
    app.conf.task_routes = (lambda name, *_, **__: {"queue": "mail"},)
    app.amqp.flush_routes()
    del app.amqp.router  # which is made anew
    tell(worker, "a@x", queues=["celery", "mial"])  # it is there still
    assert [each.name for each in check_fleet(app, ask=True)] == [], "a function may name any queue"


@pytest.fixture
def change_over(sample_worker: str, monkeypatch: pytest.MonkeyPatch) -> Celery:
    """An app whose web process keeps the ledger, while its worker is still the stock one."""
    monkeypatch.setattr(strangers, "OVERDUE", 0.0)
    monkeypatch.setattr(strangers, "PAUSE", 0.001)
    made = make_app(sample_worker, sample_worker, result_backend_transport_options={})
    install(made)
    return made


@pytest.fixture
async def bridge(change_over: Celery) -> AsyncIterator[Bridge]:
    async with Bridge(change_over) as made:
        yield made
    change_over.close()


async def test_what_a_stock_worker_ran(bridge: Bridge) -> None:
    app = bridge.app
    looks = await asyncio.to_thread(Strangers, app)
    waits = await bridge.submit("sample.add", (1, 2), queue="nobody takes from this")
    done = await bridge.submit("sample.add", (1, 2))
    failed = await bridge.submit("sample.fail")
    assert await bridge.get(done, timeout=10) == 3
    with pytest.raises(TaskFailed):
        await bridge.get(failed, timeout=10)
    assert (await job(bridge, done.id)).state == "PENDING", "nobody has told the ledger"
    assert await asyncio.to_thread(looks.look) == 2
    ended = await job(bridge, done.id)
    assert (ended.state, ended.result) == ("SUCCESS", 3)
    assert (await job(bridge, failed.id)).error == {"type": "ValueError", "module": "builtins", "message": "as asked"}
    assert (await job(bridge, waits.id)).state == "PENDING"
    assert strangers.NAMELESS in await asyncio.to_thread(looks.known)  # others of this server are known by name
    await bridge.ledger.jobs.cancel(waits.id)


async def test_a_result_from_before_is_not_believed(bridge: Bridge) -> None:
    """A job may have the id of a task that was."""
    looks = await asyncio.to_thread(Strangers, bridge.app)
    before = await bridge.dispatch("sample.add", (1, 2))
    assert await before == 3
    await asyncio.sleep(1.1)  # what a result says of its time is no more exact than that
    again = await bridge.submit("sample.add", (3, 4), task_id=before.id, queue="nobody takes from this")
    assert await asyncio.to_thread(looks.look) == 0
    assert (await job(bridge, again.id)).state == "PENDING"
    await bridge.ledger.jobs.cancel(again.id)


async def test_a_stock_worker_is_found_before_it_runs_anything(bridge: Bridge) -> None:
    found = await asyncio.to_thread(check_fleet, bridge.app, ask=True)
    (finding,) = [each for each in found if each.name == "stranger"]
    assert not {"no-worker", "no-sender"} & {each.name for each in found}, "it takes from the app's one queue"
    assert "@" in finding.what
    assert set(fleet.NAMES) >= {each.name for each in found}


async def job(bridge: Bridge, job_id: str) -> Job:
    found = await bridge.ledger.jobs.get(job_id)
    assert isinstance(found, Job)
    return found
