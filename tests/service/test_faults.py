"""Redis gone, silent or full: 503 in time, nothing half accepted, and back to work by itself."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.servers import Server, worker
from tests.service.sample import make_app
from tests.service.site import ROOT, Service, problem, running, until
from tornado_celery_bridge import BrokerUnavailable, DispatchUncertain
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.service.access.keys import EVERYBODY

WAIT = {"Prefer": "wait=30"}


@pytest.fixture
async def own_service(own_server: Server) -> AsyncIterator[Service]:
    asyncio.get_running_loop().set_debug(False)  # which takes some 20 ms a request here, and a client's patience
    app = make_app(own_server.url)
    app.conf.broker_transport_options = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
    async with running(app) as made:
        yield made
    app.close()


async def refused_in_time(service: Service) -> None:
    began = time.perf_counter()
    response = await service.submit("s.add", {"input": [1]}, wait=30)
    assert time.perf_counter() - began < 2.5, response.body
    problem(response, 503, json.loads(response.body)["code"])
    assert response.headers["Retry-After"]
    if (document := json.loads(response.body))["code"] == "ledger-unavailable":
        assert "may have been accepted" in document["detail"]
        assert response.headers["Location"] == document["job"]["links"]["self"]


async def test_redis_killed_and_back(own_service: Service, own_server: Server) -> None:
    made = json.loads((await own_service.submit("s.add", {"input": [1]})).body)
    await asyncio.to_thread(own_server.kill)
    await refused_in_time(own_service)
    problem(await own_service.fetch(made["links"]["self"]), 503, "ledger-unavailable")
    not_ready = problem(await own_service.fetch("/readyz"), 503, "not-ready")
    assert not_ready["checks"]["ledger"] != "ok"
    assert (await own_service.fetch("/healthz")).code == 200
    assert (await own_service.fetch("/v1/tasks")).code == 200
    await asyncio.to_thread(own_server.start)
    began = time.perf_counter()
    while (await own_service.submit("s.add", {"input": [1]})).code != 202:
        assert time.perf_counter() - began < 5
        await asyncio.sleep(0.05)
    assert (await own_service.fetch(made["links"]["self"])).code == 200


async def test_redis_frozen(own_service: Service, own_server: Server) -> None:
    assert (await own_service.submit("s.add", {"input": [1]})).code == 202
    own_server.freeze()
    try:
        await asyncio.gather(*(refused_in_time(own_service) for _ in range(10)))
        began = time.perf_counter()
        assert (await own_service.fetch("/healthz")).code == 200
        assert time.perf_counter() - began < 0.1
        problem(await own_service.fetch("/readyz"), 503, "not-ready")
        assert time.perf_counter() - began < 2.6
    finally:
        own_server.thaw()
    async with asyncio.timeout(5):
        while (await own_service.fetch("/readyz")).code != 200:
            await asyncio.sleep(0.05)


async def test_redis_full(own_service: Service) -> None:
    redis = own_service.jobs.ledger.redis.client
    await redis.config_set("maxmemory", "1")
    await refused_in_time(own_service)
    not_ready = problem(await own_service.fetch("/readyz"), 503, "not-ready")
    assert re.search(r"is full: it uses [0-9,]+ of at most 1 bytes", not_ready["checks"]["ledger"])
    await redis.config_set("maxmemory", "0")
    assert (await own_service.fetch("/readyz")).code == 200
    assert (await own_service.submit("s.add", {"input": [1]})).code == 202


async def test_many_at_once(own_service: Service) -> None:
    answers = await asyncio.gather(*(own_service.submit("s.add", {"input": [1]}) for _ in range(500)))
    assert {answer.code for answer in answers} == {202}
    assert len(await records(own_service)) == 500


@asynccontextmanager
async def workers(environment: dict[str, str], log: Path, *options: str) -> AsyncIterator[None]:
    """Run a worker for the block, started and ended in a thread."""
    context = worker("tests.service.sample", environment, log, "-Q", "websample", *options)
    await asyncio.to_thread(context.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def records(service: Service) -> list[str]:
    return [key.decode() async for key in service.jobs.ledger.redis.client.scan_iter("{tcb}job:*", count=10_000)]


async def test_the_broker_alone_is_gone(own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted meanwhile waits in the ledger, and runs in order once the broker is back."""
    broker = await asyncio.to_thread(Server(tmp_path / "broker").start)
    monkeypatch.setenv("SAMPLE_LEDGER", own_server.url)
    app = make_app(broker.url)
    app.conf.result_backend = own_server.url  # type: ignore[misc]
    async with running(app) as service:
        await asyncio.to_thread(broker.kill)
        began, accepted = time.perf_counter(), []
        for number in range(20):
            response = await service.submit("s.add", {"input": [number]})
            assert response.code == 202, response.body
            accepted.append(json.loads(response.body))
        assert time.perf_counter() - began < 5
        not_ready = problem(await service.fetch("/readyz?verbose"), 503, "not-ready")
        assert not_ready["broker"]["server"].startswith("not reachable: ")
        checks = not_ready["checks"]
        assert (checks["ledger"], checks["result_backend"]) == ("ok", "ok")
        monkeypatch.setattr("tornado_celery_bridge.bridge.sending.MAX_OUTBOX", 20)
        problem(response := await service.submit("s.add", {"input": [1]}), 503, "broker-unavailable")
        assert response.headers["Retry-After"]
        assert len(await records(service)) == 20
        await service.fetch(f"{accepted.pop(7)['links']['self']}/cancel", "POST")
        await asyncio.to_thread(broker.start)
        environment = {"SAMPLE_URL": broker.url, "SAMPLE_LEDGER": own_server.url, "PYTHONPATH": str(ROOT)}
        async with workers(environment, tmp_path / "log", "-c", "1"):
            done = [json.loads((await service.fetch(job["links"]["self"], headers=WAIT)).body) for job in accepted]
    assert {(job["state"], job["attempt"]) for job in done} == {("SUCCESS", 1)}
    assert [job["started_at"] for job in done] == sorted(job["started_at"] for job in done)
    app.close()
    await asyncio.to_thread(broker.stop)


async def test_perhaps_sent_it_is_a_job_all_the_same(own_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def uncertain(*args: object, task_id: str, **options: object) -> None:
        raise DispatchUncertain("who knows", task_id=task_id, retry_after=1)

    monkeypatch.setattr(own_service.bridge, "dispatch", uncertain)
    response = await own_service.submit("s.add", {"input": [1]})
    assert response.code == 202
    link = json.loads(response.body)["links"]["self"]
    assert json.loads((await own_service.fetch(link)).body)["state"] == "PENDING"


async def test_the_ledger_goes_away_before_a_job_is_put_aside(
    own_service: Service, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*args: object, task_id: str, **options: object) -> None:
        await asyncio.to_thread(own_server.kill)
        raise BrokerUnavailable("gone", task_id=task_id, retry_after=3)

    monkeypatch.setattr(own_service.bridge, "dispatch", unavailable)
    response = await own_service.submit("s.add", {"input": [1]})
    document = problem(response, 503, "dispatch-uncertain")
    assert document["job"]["id"] in document["detail"]
    assert response.headers["Location"] == document["job"]["links"]["self"]


async def test_a_bug_leaves_no_record_and_tells_nothing(
    own_service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object, **options: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(own_service.bridge, "dispatch", broken)
    response = await own_service.submit("s.add", {"input": [1]})
    document = problem(response, 500, "internal-error")
    assert "secret" not in json.dumps(document)
    traces = [record.trace.request_id for record in caplog.records if hasattr(record, "trace")]
    assert document["request_id"] in traces
    assert "unexpected" in caplog.text
    assert await records(own_service) == []


async def test_an_accepted_job_is_202_even_if_waiting_for_it_fails(own_service: Service, own_server: Server) -> None:
    waiting = asyncio.ensure_future(own_service.submit("s.add", {"input": [1]}, wait=2))
    await until(lambda: own_service.jobs.ledger.events.following)
    await asyncio.to_thread(own_server.kill)
    response = await waiting
    assert response.code == 202
    await asyncio.to_thread(own_server.start)


async def test_a_job_is_forgotten_after_its_time_and_remembered_to_have_been(own_server: Server) -> None:
    app = make_app(own_server.url)
    ledger = await asyncio.to_thread(Ledger, app, ttl=0.3)
    async with running(app, ledger) as service:
        made = json.loads((await service.submit("s.add", {"input": [1], "options": {"tags": ["t"]}})).body)
        link = made["links"]["self"]
        assert json.loads((await service.fetch(f"{link}/cancel", "POST")).body)["done"]
        assert await ledger.jobs.sweep() == 0
        async with asyncio.timeout(5):
            while not await ledger.jobs.sweep():
                await asyncio.sleep(0.05)
        problem(await service.fetch(link), 410, "expired-job")
        problem(await service.fetch(f"{link}/events"), 410, "expired-job")
        problem(await service.fetch(f"{link}/retry", "POST"), 410, "expired-job")
        left = [key async for key in ledger.redis.client.scan_iter("{tcb}*")]
        of_nobody = (b"{tcb}audit", b"{tcb}history", b"{tcb}schema")  # of bounded size, whatever becomes of jobs
        assert [key for key in left if not key.startswith(of_nobody)] == [b"{tcb}gone:" + made["id"].encode()]
        assert 0 < await ledger.redis.client.ttl(f"{{tcb}}gone:{made['id']}") <= 7 * 86_400
    app.close()


async def test_a_ledger_that_is_away_for_a_while_holds_tasks_up_and_loses_none(
    own_server: Server, tmp_path: Path
) -> None:
    """Broker and results are elsewhere, and go on."""
    broker = await asyncio.to_thread(Server(tmp_path / "broker").start)
    environment = {"SAMPLE_URL": broker.url, "SAMPLE_LEDGER": own_server.url, "PYTHONPATH": str(ROOT)}
    options = ("--concurrency", "2", "--queues", "websample", "--without-gossip", "--without-mingle")
    working = worker("tests.service.sample", environment, tmp_path / "log", *options)
    app = make_app(broker.url)
    app.conf.job_ledger_url = own_server.url
    await asyncio.to_thread(working.__enter__)
    try:
        async with running(app) as service:
            made = json.loads((await service.submit("s.nap", {"input": [0.5]})).body)
            async with asyncio.timeout(10):
                while (await service.jobs.get(EVERYBODY, made["id"])).state != "STARTED":
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(own_server.kill)
            other = await service.bridge.dispatch("s.add", (1, 2))  # begins while the ledger is away
            await asyncio.sleep(1.0)  # the time that it is away
            await asyncio.to_thread(own_server.start)
            assert await service.bridge.get(other, timeout=20) == 3
            done = await service.fetch(made["links"]["self"], headers={"Prefer": "wait=20"})
            assert json.loads(done.body)["state"] == "SUCCESS"
    finally:
        await asyncio.to_thread(working.__exit__, None, None, None)
        await asyncio.to_thread(broker.stop)
        app.close()
