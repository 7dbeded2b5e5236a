"""Large inputs and results: a real worker, and a Redis that is watched for whatever is large."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.servers import Server, worker
from tests.service.sample import make_app
from tests.service.site import ROOT, Service, problem, running, until
from tests.ticker import ticking
from tornado_celery_bridge import BlobLost, Stored
from tornado_celery_bridge.ledger import MAX_INLINE
from tornado_celery_bridge.service.process.application import keep_swept

MB = 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "blobs"


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def url(own_server: Server, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environment = {"SAMPLE_URL": own_server.url, "SAMPLE_STORE": f"file://{folder}", "PYTHONPATH": str(ROOT)}
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    options = ("--concurrency", "2", "--queues", "websample", "--without-gossip", "--without-mingle")
    led_by_nobody(own_server)
    with worker("tests.service.sample", environment, log, *options):
        yield own_server.url


def led_by_nobody(server: Server) -> None:
    """Have no worker look for what is lost or over, so that tests see what is to be removed."""
    with server.client() as client:
        client.set("{tcb}leader", "nobody")


@pytest.fixture
def app(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setenv("SAMPLE_STORE", f"file://{folder}")
    made = make_app(url)
    yield made
    made.close()


@pytest.fixture
async def service(app: Celery) -> AsyncIterator[Service]:
    async with running(app, max_body=8 * MB) as made:
        yield made


@asynccontextmanager
async def watched(service: Service) -> AsyncIterator[list[int]]:
    """Yield the lengths of all that is sent to Redis meanwhile, what its Lua scripts do included."""
    lengths: list[int] = []

    async def listen(monitor: Any) -> None:
        while "the end of it" not in (command := (await monitor.next_command())["command"]):
            lengths.append(len(command))

    client = service.jobs.ledger.redis.client
    async with client.monitor() as monitor:
        listening = asyncio.ensure_future(listen(monitor))
        yield lengths
        await client.echo("the end of it")
        await asyncio.wait_for(listening, 10)


async def swept(service: Service, folder: Path) -> None:
    """Forget all jobs that have ended, as if their time were over, and see that nothing is left in the store."""
    ledger = service.jobs.ledger
    for job_id in await ledger.redis.client.zrange(f"{ledger.redis.prefix}due", 0, -1):
        await ledger.redis.client.zadd(f"{ledger.redis.prefix}due", {job_id: 0})  # type: ignore[type-var]
    sweeper = asyncio.ensure_future(keep_swept(ledger, service.bridge.store))
    try:
        async with asyncio.timeout(10):
            # All but what tells this store from others.
            while await asyncio.to_thread(lambda: list(folder.glob("[0-9a-f]*"))) or await ledger.blobs.orphans():
                await asyncio.sleep(0.02)
    finally:
        sweeper.cancel()


def job(response: Any, status: int = 200) -> dict[str, Any]:
    assert response.code == status, response.body[:1000]
    document: dict[str, Any] = json.loads(response.body)
    return document


#: A client that is a process of its own, so that the loop has nothing but the service in it.
CLIENT = """
import json, sys, urllib.request

def fetch(path, body=None):
    request = urllib.request.Request(sys.argv[1] + path, body, {"Prefer": "wait=20"})
    with urllib.request.urlopen(request) as response:
        return response.read()

text = json.dumps({"input": {"value": "\u00e9" + "y" * 5_000_000, "more": "short"}}, ensure_ascii=False)
sized = json.loads(fetch("/v1/tasks/s.size/jobs", text.encode()))
made = json.loads(fetch("/v1/tasks/s.letters/jobs", b'{"input": {"count": 20000000}}'))
content = fetch(made["links"]["result"])
assert content == b'"' + 20_000_000 * b"x" + b'"', len(content)
print(json.dumps([sized, made]))
"""


async def test_a_large_input_and_a_larger_result_travel_beside_redis(service: Service, folder: Path) -> None:
    async with watched(service) as lengths, ticking(usual=0.1):  # 5 MB of JSON keep the GIL for 30 ms
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT, f"http://127.0.0.1:{service.port}"), stdout=subprocess.PIPE
        )
        printed, _ = await client.communicate()
    sized, made = json.loads(printed)
    assert sized["result"] == [5 * MB + 1, 5]
    assert (made["state"], made["result_size"]) == ("SUCCESS", 20 * MB + 2)
    assert "result" not in made
    assert len(lengths) > 20
    assert max(lengths) < 40_000, "a script is the largest"
    listed = job(await service.fetch("/v1/jobs?task=s.letters"))["jobs"][0]
    assert listed == made | {"arguments": '{"count":20000000}'}
    redis = service.jobs.ledger.redis.client
    assert max([await redis.memory_usage(key) or 0 for key in await redis.keys()]) < 50_000
    await swept(service, folder)
    problem(await service.fetch(made["links"]["self"]), 410, "expired-job")


async def test_a_result_is_the_same_read_by_celery_and_by_the_bridge(service: Service, app: Celery) -> None:
    made = job(await service.submit("s.letters", {"input": {"count": MB}}, wait=20))
    assert await service.bridge.get(made["id"]) == "x" * MB
    assert isinstance((await service.bridge.state(made["id"])).result, Stored)
    assert await asyncio.to_thread(lambda: app.AsyncResult(made["id"]).get(timeout=10)) == "x" * MB
    # A client that knows nothing of us.
    code = "import sys, celery; celery.Celery(backend=sys.argv[1]).AsyncResult(sys.argv[2]).get(timeout=10)"
    bare = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(app.conf.result_backend), made["id"]), stderr=subprocess.PIPE
    )
    _, told = await bare.communicate()
    assert b"DecodeError" in told
    assert b"tornado_celery_bridge.Stored" in told


async def test_more_than_json_has_comes_as_it_was_to_the_next_task(service: Service, app: Celery) -> None:
    step = {"task": "s.moments", "input": {"count": 20_000}}
    made = job(await service.post("/v1/workflows", {"chain": [step, {"task": "s.kinds"}]}, {"Prefer": "wait=20"}))
    first, second = made["tree"]["chain"]
    assert second["result"] == ["datetime"]
    shown = json.loads((await service.fetch(first["links"]["result"])).body)
    assert shown == ["2026-01-01T00:00:00+00:00"] * 20_000


async def test_workflows_pass_references_on(service: Service, own_server: Server, folder: Path) -> None:
    big = {"task": "s.letters", "input": {"count": 2 * MB}}
    size = {"task": "s.size", "input": {"more": "z" * MB}}
    async with watched(service) as lengths:
        made = job(await service.post("/v1/workflows", {"chain": [big, size]}, {"Prefer": "wait=20"}))
        assert made["tree"]["chain"][1]["result"] == [2 * MB, MB]
        header = [big, {"chain": [big, {"task": "s.echo"}]}, {"task": "s.echo", "input": {"value": "abc"}}]
        made = job(
            await service.post("/v1/workflows", {"chord": {"header": header, "body": size}}, {"Prefer": "wait=20"})
        )
        assert made["tree"]["chord"]["body"]["result"] == [2 * MB, 2 * MB, 3, MB]
        # What ends in a group has a list of its own: of such a header Celery reads the results that it stored before.
        forked = {"chain": [big, {"group": [{"task": "s.echo"}, {"task": "s.echo"}]}]}
        body = {"chord": {"header": [big, forked], "body": {"task": "s.flat"}}}
        made = job(await service.post("/v1/workflows", body, {"Prefer": "wait=20"}))
        assert made["tree"]["chord"]["body"]["result"] == [2 * MB, [2 * MB, 2 * MB]]
    assert max(lengths) < 60_000
    await swept(service, folder)


async def test_a_retry_by_the_task_has_the_same_input(service: Service, own_server: Server) -> None:
    async with watched(service) as lengths:
        made = job(await service.submit("s.again", {"input": {"text": "q" * MB, "note": "n"}}, wait=20))
    assert made["error" if made["state"] != "SUCCESS" else "result"] == [MB, "changed", 2]
    assert made["attempt"] == 3
    assert lengths


async def test_a_retry_over_http_has_a_blob_of_its_own(service: Service, folder: Path) -> None:
    first = job(await service.submit("s.size", {"input": ["w" * MB]}, wait=20))
    second = job(await service.post(f"{first['links']['self']}/retry", {}, {"Prefer": "wait=20"}))
    assert first["result"] == second["result"] == [MB]
    ledger = service.jobs.ledger
    names = [json.loads(await ledger.jobs.input_of(each["id"]) or b"") for each in (first, second)]
    assert len(set(names)) == 2
    for name in names:
        assert await asyncio.to_thread((folder / name).read_bytes) == json.dumps(["w" * MB]).encode()


async def test_in_a_batch_each_job_is_seen_to(service: Service) -> None:
    jobs = [{"task": "s.size", "input": {"value": "v" * count}} for count in (MAX_INLINE + 1, 3)]
    answers = job(await service.post("/v1/batches", {"jobs": jobs}), 207)["jobs"]
    written = [await service.jobs.ledger.jobs.input_of(each["job"]["id"]) for each in answers]
    assert [document[:1] for document in written if document] == [b'"', b"{"]
    done = [job(await service.fetch(each["job"]["links"]["self"], headers={"Prefer": "wait=20"})) for each in answers]
    assert [each["result"] for each in done] == [[MAX_INLINE + 1], [3]]


async def test_the_same_request_again_leaves_no_second_blob(service: Service, folder: Path) -> None:
    await swept(service, folder)
    body = json.dumps({"input": {"value": "u" * MB}}).encode()
    for _ in range(3):
        response = await service.post("/v1/tasks/s.size/jobs", body, {"Idempotency-Key": "once", "Prefer": "wait=20"})
        assert job(response)["result"] == [MB]
    assert len(await service.jobs.ledger.blobs.orphans()) == 2
    await swept(service, folder)


async def test_a_job_that_is_taken_over_has_both_blobs(service: Service) -> None:
    """The message of either time may be the one that runs."""
    ledger, headers = service.jobs.ledger, {"Idempotency-Key": "taken over"}
    workflow = {"group": [{"task": "s.size", "input": {"value": "n" * MB}, "options": {"queue": "quiet"}}]}
    alone = {key: value for key, value in workflow["group"][0].items() if key != "task"}
    for path, body in (("/v1/tasks/s.size/jobs", alone), ("/v1/workflows", workflow)):
        made = [job(await service.post(path, body, headers), 202)]
        async for held in ledger.redis.client.scan_iter("{tcb}key:*"):
            await ledger.redis.client.hdel(held, "response")
            await ledger.redis.client.hset(held, "lease", 0)
        made.append(job(await service.post(path, body, headers), 202))
        first, again = (each["tree"]["group"][0] if "tree" in each else each for each in made)
        assert first["id"] == again["id"]
        names = (await ledger.redis.client.hget(f"{{tcb}}job:{first['id']}", "blobs")).split()  # type: ignore[union-attr]
        assert len(names) == 2
        assert not set(names) & set(await ledger.redis.client.zrange("{tcb}blobs", 0, -1))
        headers = {"Idempotency-Key": "taken over, too"}


async def test_a_job_that_could_not_be_published_takes_its_blob_along(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_celery_bridge.bridge.sending.MAX_OUTBOX", 0)
    ledger = service.jobs.ledger
    before = set(await ledger.blobs.orphans())
    await service.bridge._parts.publisher.close(1)
    response = await service.submit("s.size", {"input": {"value": "t" * MB}})
    assert response.code == 503
    assert len(set(await ledger.blobs.orphans()) - before) == 1


async def test_what_was_removed_is_missed_in_words(service: Service, folder: Path, app: Celery) -> None:
    made = job(await service.submit("s.letters", {"input": {"count": MB}}, wait=20))
    later = job(await service.submit("s.size", {"input": {"value": "s" * MB}, "options": {"countdown": 2}}), 202)
    await asyncio.to_thread(lambda: list(map(Path.unlink, folder.glob("[0-9a-f]*"))))
    problem(await service.fetch(made["links"]["result"]), 410, "blob-lost")
    with pytest.raises(BlobLost, match="no longer in the store"):
        await service.bridge.get(made["id"])
    failed = job(await service.fetch(later["links"]["self"], headers={"Prefer": "wait=20"}))
    assert failed["state"] == "FAILURE"
    assert failed["error"]["exception"] == "tornado_celery_bridge.exceptions.BlobLost"
    assert "no longer in the store" in failed["error"]["detail"]
    problem(await service.post(f"{later['links']['self']}/retry"), 410, "blob-lost")


async def test_results_that_are_not_large_or_not_there(service: Service) -> None:
    small = job(await service.submit("s.echo", {"input": {"value": {"é": [1, None]}}}, wait=20))
    response = await service.fetch(f"{small['links']['self']}/result")
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(response.body) == {"é": [1, None]}
    failed = job(await service.submit("s.fail", wait=20))
    problem(await service.fetch(f"{failed['links']['self']}/result"), 409, "no-result")
    waiting = job(await service.submit("s.add", {"input": {"x": 1}, "options": {"queue": "quiet"}}), 202)
    problem(await service.fetch(f"{waiting['links']['self']}/result"), 409, "job-unfinished")
    problem(await service.fetch("/v1/jobs/nothing/result"), 404, "unknown-job")


async def test_a_worker_without_a_store_says_so(service: Service, own_server: Server, tmp_path: Path) -> None:
    environment = {"SAMPLE_URL": own_server.url, "SAMPLE_STORE": "", "PYTHONPATH": str(ROOT)}
    body = {"input": {"value": "o" * MB}, "options": {"queue": "quiet"}}
    made = job(await service.submit("s.size", body), 202)
    other = worker("tests.service.sample", environment, tmp_path / "log", "--pool", "solo", "--queues", "quiet")
    await asyncio.to_thread(other.__enter__)
    try:
        ended = job(await service.fetch(made["links"]["self"], headers={"Prefer": "wait=20"}))
    finally:
        await asyncio.to_thread(other.__exit__, None, None, None)
    assert (ended["state"], ended["error"]["retryable"]) == ("FAILURE", True)
    assert ended["error"]["detail"] == "this worker has no job_store_url, where the task's input is"


async def test_a_reader_that_leaves_half_way(service: Service) -> None:
    made = job(await service.submit("s.letters", {"input": {"count": 20 * MB}}, wait=20))
    reader, writer = await service.raw(f"GET {made['links']['result']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    writer.transport.abort()
    await until(lambda: service.lifecycle._requests == 0)


async def test_the_folder_is_a_file(app: Celery, folder: Path) -> None:
    async with running(app, max_body=8 * MB) as service:
        assert service.bridge.store is not None
        service.bridge.store._url += "/file/in/a/file"
        await asyncio.to_thread(lambda: (folder / "file").write_text(""))
        response = await service.submit("s.size", {"input": {"value": "r" * MB}})
        problem(response, 503, "store-unavailable")
        assert response.headers["Retry-After"] == "1"


async def test_without_a_store_all_goes_as_it_always_did(url: str) -> None:
    app = make_app(url)
    async with running(app, max_body=8 * MB) as service:
        assert job(await service.submit("s.size", {"input": {"value": "p" * MB}}, wait=20))["result"] == [MB]
    app.close()


def test_a_planted_reference_is_no_path() -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "a" * 31, "A" * 32, "a" * 32 + "\n"):
        with pytest.raises(ValueError, match="not the name of a blob"):
            Stored.decode([name, 1, None])


async def test_workers_forget_what_is_over(service: Service, folder: Path, own_server: Server) -> None:
    ledger = service.jobs.ledger
    before = await asyncio.to_thread(lambda: {*folder.glob("[0-9a-f]*")})
    body = json.dumps({"input": {"value": "u" * MB}}).encode()
    made = job(await service.post("/v1/tasks/s.size/jobs", body, {"Prefer": "wait=20"}))
    blobs = await asyncio.to_thread(lambda: {*folder.glob("[0-9a-f]*")} - before)
    assert blobs
    for each in await ledger.redis.client.zrange(f"{ledger.redis.prefix}due", 0, -1):
        await ledger.redis.client.zadd(f"{ledger.redis.prefix}due", {each: 0})  # type: ignore[type-var]
    await ledger.redis.client.delete(f"{ledger.redis.prefix}leader")
    try:
        async with asyncio.timeout(30):
            while await asyncio.to_thread(lambda: blobs & {*folder.glob("[0-9a-f]*")}) or await ledger.blobs.orphans():
                await asyncio.sleep(0.05)
        assert (await service.fetch(made["links"]["self"])).code == 410
    finally:
        await asyncio.to_thread(led_by_nobody, own_server)
