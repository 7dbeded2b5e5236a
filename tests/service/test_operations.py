"""Queues that are paused, resumed and purged, workers that grow, shrink and end: of a real worker, as admins ask."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery.result import AsyncResult
from redis import Redis

from tests.servers import Database, free_port, worker
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, Service, problem, running
from tornado_celery_bridge.bridge import operating

#: Seconds: what takes two on a quiet machine.
PATIENCE = 40


@asynccontextmanager
async def a_worker(
    url: str, log: Path, queues: str = "websample,quiet", name: str = "ours"
) -> AsyncIterator[subprocess.Popen[bytes]]:
    options = ("--concurrency", "2", "--queues", queues, "--without-gossip", "--without-mingle")
    environment = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
    process = worker("tests.service.sample", environment, log, *options, "--hostname", f"{name}@%h")
    running = await asyncio.to_thread(process.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(process.__exit__, None, None, None)


@pytest.fixture
def url(database: Database) -> str:
    """A database with nobody else's jobs."""
    return database.url


@pytest.fixture
async def ours(url: str) -> AsyncIterator[Service]:
    app = make_celery(url)
    async with running(app) as made:
        yield made
    app.close()


async def post(service: Service, path: str, body: Any = None, code: int = 200) -> Any:
    response = await service.post(path, {} if body is None else body)
    assert response.code == code, response.body
    return json.loads(response.body)


async def read(service: Service, path: str, **headers: str) -> Any:
    response = await service.fetch(path, headers=headers)
    assert response.code == 200, response.body
    return json.loads(response.body)


async def submit(service: Service, queue: str, **options: Any) -> str:
    response = await service.submit("s.add", {"input": {"x": 1}, "options": {"queue": queue, **options}})
    return str(json.loads(response.body)["id"])


async def ended(service: Service, job_id: str) -> Any:
    return await read(service, f"/v1/jobs/{job_id}", Prefer="wait=30")


async def queue(service: Service, name: str) -> Any:
    return next(each for each in (await read(service, "/v1/queues"))["queues"] if each["name"] == name)


async def consumers(service: Service, name: str, many: int) -> None:
    """Return once so many workers take from a queue."""
    async with asyncio.timeout(PATIENCE):
        while (await queue(service, name))["consumers"] != many:
            await asyncio.sleep(0.1)


async def workers(service: Service) -> dict[str, Any]:
    return {each["name"].partition("@")[0]: each for each in (await read(service, "/v1/workers"))["workers"]}


async def test_a_paused_queue_is_left_and_taken_from_again(ours: Service, url: str, tmp_path: Path) -> None:
    async with a_worker(url, tmp_path / "log"), a_worker(url, tmp_path / "other", "websample", "other"):
        await consumers(ours, "quiet", 1)
        await consumers(ours, "websample", 2)
        paused = await post(ours, "/v1/queues/quiet/pause")
        assert paused["paused_since"] is not None
        assert (await post(ours, "/v1/queues/quiet/pause"))["paused_since"] == paused["paused_since"]
        await consumers(ours, "quiet", 0)
        waiting = await submit(ours, "quiet")
        assert (await ended(ours, await submit(ours, "websample")))["state"] == "SUCCESS"
        told = await queue(ours, "quiet")
        assert (told["depth"], told["consumers"], told["is_stuck"]) == (1, 0, False)
        assert (await read(ours, f"/v1/jobs/{waiting}"))["state"] == "PENDING"
        assert (await post(ours, "/v1/queues/quiet/resume"))["paused_since"] is None
        assert (await ended(ours, waiting))["state"] == "SUCCESS"
        await consumers(ours, "quiet", 1)  # and not the other one, which never did
        assert {name: each["queues"] for name, each in (await workers(ours)).items()} == {
            **{"ours": ["quiet", "websample"], "other": ["websample"]},
        }


async def test_a_worker_that_starts_later_leaves_it_too(ours: Service, url: str, tmp_path: Path) -> None:
    await post(ours, "/v1/queues/quiet/pause")
    waiting = await submit(ours, "quiet")
    async with a_worker(url, tmp_path / "log"):
        assert (await ended(ours, await submit(ours, "websample")))["state"] == "SUCCESS"
        await consumers(ours, "websample", 1)
        assert (await queue(ours, "quiet"))["consumers"] == 0
        assert (await read(ours, f"/v1/jobs/{waiting}"))["attempt"] == 0
        await post(ours, "/v1/queues/quiet/resume")
        assert (await ended(ours, waiting))["state"] == "SUCCESS"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery's own result backend
async def test_a_purged_queues_jobs_end(ours: Service, url: str, tmp_path: Path) -> None:
    """Those that are due, those that are not, and what comes after them; in the ledger and for Celery's own results."""
    due, later = await submit(ours, "quiet"), await submit(ours, "quiet", countdown=600)
    other = await submit(ours, "websample")
    step: dict[str, Any] = {"task": "s.add", "input": {"x": 1}}
    workflow = await post(
        ours, "/v1/workflows", {"chain": [{**step, "options": {"queue": "quiet"}}, {"task": "s.add"}]}, 202
    )
    after = {"chain": [step, {"task": "s.add", "options": {"queue": "quiet"}}]}
    kept = (await post(ours, "/v1/workflows", after, 202))["id"]
    for confirm in ("websample", ""):
        problem(await ours.post("/v1/queues/quiet/purge", {"confirm": confirm}), 409, "unconfirmed")
    for body in ({"confirm": True}, {}, {"confirm": "quiet", "more": 1}):
        problem(await ours.post("/v1/queues/quiet/purge", body), 422, "invalid-body")
    assert await post(ours, "/v1/queues/quiet/purge", {"confirm": "quiet"}) == {
        "name": "quiet",
        "jobs": 3,
        "messages": 3,
    }
    for job_id in (due, later):
        job = await read(ours, f"/v1/jobs/{job_id}")
        assert (job["state"], job["error"]["detail"]) == ("REVOKED", "queue quiet was purged by somebody")
        assert await asyncio.to_thread(state_of, ours, job_id) == "REVOKED"
    assert (await read(ours, f"/v1/workflows/{workflow['id']}"))["finished"]
    await ours.product.audit.close()
    entry = (await read(ours, "/v1/audit"))["entries"][0]
    assert (entry["method"], entry["target"], entry["status"]) == ("POST", "/v1/queues/quiet/purge", 200)
    with Redis.from_url(url) as client:
        assert await asyncio.to_thread(client.keys, "quiet*") == []
        assert await asyncio.to_thread(client.keys, "*queued:quiet*") == []
    async with a_worker(url, tmp_path / "log"):
        assert (await ended(ours, other))["state"] == "SUCCESS"
        done = await read(ours, f"/v1/workflows/{kept}", Prefer="wait=30")
        assert done["state"] == "SUCCESS"  # its second job was not in the queue yet
        assert (await read(ours, f"/v1/jobs/{due}"))["attempt"] == 0
        log = await asyncio.to_thread((tmp_path / "log").read_text)
        assert "published again" not in log


def state_of(service: Service, job_id: str) -> str:
    """Return what Celery's own result says."""
    return str(AsyncResult(job_id, app=service.bridge.app).state)


async def test_a_worker_grows_shrinks_and_ends(
    ours: Service, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_worker(url, tmp_path / "log") as process:
        await consumers(ours, "websample", 1)
        told = (await workers(ours))["ours"]
        path = f"/v1/workers/{quote(told['name'])}"
        assert told["slots"] == 2
        assert 10_000_000 < told["memory"] < 10_000_000_000
        assert (await post(ours, f"{path}/grow", {"by": 2}))["answer"] == "pool will grow"
        await slots(ours, 4)
        assert (await post(ours, f"{path}/shrink"))["answer"] == "pool will shrink"
        await slots(ours, 3)
        assert "shut it down" in problem(await ours.post(f"{path}/shrink", {"by": 3}), 409, "worker-refused")["detail"]
        for body in ({"by": 0}, {"by": 101}, {"by": "1"}, {"bye": 1}):
            problem(await ours.post(f"{path}/grow", body), 422, "invalid-body")
        with monkeypatch.context() as patient:
            patient.setattr(operating, "REPLY_TIMEOUT", 0.3)
            process.send_signal(signal.SIGSTOP)
            problem(await ours.post(f"{path}/grow", {"by": 1}), 504, "worker-timeout")
            process.send_signal(signal.SIGCONT)
        await slots(ours, 4)  # it may do so all the same
        running = json.loads((await ours.submit("s.nap", {"input": {"seconds": 2}})).body)["id"]
        async with asyncio.timeout(PATIENCE):
            while (await read(ours, f"/v1/jobs/{running}"))["state"] != "STARTED":
                await asyncio.sleep(0.05)
        await post(ours, f"{path}/shutdown", code=202)
        assert (await ended(ours, running))["state"] == "SUCCESS"
        async with asyncio.timeout(PATIENCE):
            while await workers(ours):
                await asyncio.sleep(0.1)
        problem(await ours.post(f"{path}/shutdown"), 404, "unknown-worker")


async def slots(service: Service, many: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await workers(service))["ours"]["slots"] != many:
            await asyncio.sleep(0.1)


async def test_what_is_not_there(ours: Service) -> None:
    for action in ("pause", "resume", "purge"):
        problem(
            await ours.post(f"/v1/queues/none/{action}", {"confirm": "none"} if action == "purge" else {}),
            404,
            "unknown-queue",
        )
    for action in ("shutdown", "grow", "shrink"):
        problem(await ours.post(f"/v1/workers/none@here/{action}", {}), 404, "unknown-worker")


async def test_a_purge_that_can_tell_no_result_backend(url: str) -> None:
    """The jobs are ended; who waits by Celery's own means is not told."""
    app = make_celery(url)
    app.conf.update(job_ledger_url=url, result_backend=f"redis://127.0.0.1:{free_port()}/0")
    async with running(app) as service:
        job_id = await submit(service, "quiet")
        purged = await service.post("/v1/queues/quiet/purge", {"confirm": "quiet"}, request_timeout=60)
        problem(purged, 503, "result-backend-unavailable")
        assert int(purged.headers["Retry-After"]) > 0
        assert (await read(service, f"/v1/jobs/{job_id}"))["state"] == "REVOKED"
    app.close()
