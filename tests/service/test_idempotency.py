"""The same request sent again is answered again, and not done again."""

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from tests.servers import wait_for
from tests.service.processes import Web, serving
from tests.service.site import Service, problem, until
from tornado_celery_bridge import BrokerUnavailable


async def submit(
    service: Service, key: str, body: Any, *, task: str = "s.add", wait: int | None = None
) -> HTTPResponse:
    headers = {"Idempotency-Key": key} | ({} if wait is None else {"Prefer": f"wait={wait}"})
    return await service.post(f"/v1/tasks/{task}/jobs", body, headers)


async def test_the_same_again_is_answered_the_same(service: Service) -> None:
    first = await submit(service, '"abc-1"', {"input": [1]}, wait=10)
    again = await submit(service, "abc-1", {"input": [1]}, wait=10)
    assert (again.code, again.body) == (first.code, first.body) == (200, first.body)
    assert again.headers["Location"] == first.headers["Location"]


async def test_the_same_again_shows_the_job_as_it_is(service: Service) -> None:
    """While the first request waits, and after its job has ended."""
    body = {"input": [1.5]}
    first = asyncio.ensure_future(submit(service, "abc-9", body, task="s.nap", wait=20))
    await until(lambda: service.lifecycle._requests)
    async with asyncio.timeout(10):
        while (at_once := await submit(service, "abc-9", body, task="s.nap")).code == 409 or (
            json.loads(at_once.body)["state"] != "STARTED"
        ):
            await asyncio.sleep(0.02)
    assert at_once.code == 202
    assert not first.done()
    waiting = await submit(service, "abc-9", body, task="s.nap", wait=20)
    done = await first
    assert (waiting.code, done.code) == (200, 200)
    assert json.loads(waiting.body) == json.loads(done.body)
    assert waiting.headers["Preference-Applied"] == "wait=20"
    later = await submit(service, "abc-9", body, task="s.nap", wait=0)
    assert (later.code, json.loads(later.body)["state"]) == (200, "SUCCESS")
    batch = {"jobs": [{"task": "s.add", "input": [1]}]}
    made = [json.loads((await service.post("/v1/batches", batch, {"Idempotency-Key": "abc-10"})).body) for _ in "ab"]
    assert made[0]["jobs"][0]["job"]["id"] == made[1]["jobs"][0]["job"]["id"]


async def test_another_request_with_the_key_is_refused(service: Service) -> None:
    assert (await submit(service, "abc-2", {"input": [1]})).code == 202
    problem(await submit(service, "abc-2", {"input": [2]}), 422, "idempotency-key-reused")
    problem(await submit(service, "abc-2", {"input": [1]}, task="s.echo"), 422, "idempotency-key-reused")


@pytest.mark.parametrize("key", ["", '""', "é", "x" * 256, "a\tb"])
async def test_keys_that_are_none(service: Service, key: str) -> None:
    problem(await submit(service, key, {"input": [1]}), 400, "invalid-idempotency-key")


async def test_a_refused_request_does_not_use_up_its_key(service: Service) -> None:
    problem(await submit(service, "abc-3", {"input": {"z": 1}}), 422, "invalid-input")
    assert (await submit(service, "abc-3", {"input": {"x": 1}})).code == 202


async def test_one_that_was_not_published_lets_go_of_its_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: object, **options: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(service.bridge, "dispatch", broken)
        assert (await submit(service, "abc-4", {"input": [1]})).code == 500
    assert (await submit(service, "abc-4", {"input": [1]}, wait=10)).code == 200


async def test_in_flight_and_then_taken_over(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    dispatch = service.bridge.dispatch

    async def slow(*args: Any, **options: Any) -> Any:
        began.set()
        await go_on.wait()
        return await dispatch(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(service.bridge, "dispatch", slow)
        first = asyncio.ensure_future(submit(service, "abc-5", {"input": [1]}))
        await began.wait()
    refused = problem(await submit(service, "abc-5", {"input": [1]}), 409, "idempotency-key-in-flight")
    # Whoever holds it does not answer for so long that it is taken over: published again, run once.
    redis = service.jobs.ledger.redis.client
    async for held in redis.scan_iter("{tcb}key:*"):
        await redis.hset(held, "lease", 0)
    taken_over = await submit(service, "abc-5", {"input": [1]}, wait=10)
    assert taken_over.code == 200
    go_on.set()
    assert (await first).code == 202
    made = json.loads(taken_over.body)
    assert made["id"] == refused["job"]["id"] == json.loads((await first).body)["id"]
    other = json.loads((await service.submit("s.add", {"input": [1]}, wait=10)).body)  # has come after the second copy
    assert other["done"]
    assert json.loads((await service.fetch(made["links"]["self"])).body)["attempt"] == 1


async def lapse(service: Service) -> None:
    """Leave all keys as processes leave them that die before they have answered."""
    redis = service.jobs.ledger.redis.client
    async for held in redis.scan_iter("{tcb}key:*"):
        await redis.hdel(held, "response")
        await redis.hset(held, "lease", 0)


async def test_a_job_that_is_taken_over_is_shown_as_it_is(service: Service) -> None:
    first = json.loads((await submit(service, "abc-7", {"input": [1]}, wait=10)).body)
    await lapse(service)
    before = await service.messages()
    again = await submit(service, "abc-7", {"input": [1]})
    assert (again.code, json.loads(again.body)) == (200, first)
    assert await service.messages() == before


async def test_a_job_that_was_taken_over_in_vain_is_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message may be in the queue since the first time: without its record it would run unseen."""
    body = {"input": [1], "options": {"queue": "quiet"}}
    made = json.loads((await submit(service, "abc-8", body)).body)
    await lapse(service)

    async def unavailable(*args: object, task_id: str, **options: object) -> None:
        raise BrokerUnavailable("gone", task_id=task_id, retry_after=1)

    with monkeypatch.context() as patch:
        patch.setattr(service.bridge, "dispatch", unavailable)
        patch.setattr("tornado_celery_bridge.bridge.sending.MAX_OUTBOX", 0)
        problem(await submit(service, "abc-8", body), 503, "broker-unavailable")
    assert json.loads((await service.fetch(made["links"]["self"])).body)["state"] == "PENDING"
    problem(await submit(service, "abc-8", body), 409, "idempotency-key-in-flight")


async def test_when_the_keys_time_is_over_but_not_its_jobs(service: Service) -> None:
    first = json.loads((await submit(service, "abc-6", {"input": [1]}, wait=10)).body)
    async for key in service.jobs.ledger.redis.client.scan_iter("{tcb}key:*"):
        await service.jobs.ledger.redis.client.delete(key)
    again = await submit(service, "abc-6", {"input": [1]})
    assert (again.code, json.loads(again.body)) == (200, first)


def test_one_job_though_many_ask_and_one_process_dies(web_url: str, tmp_path: Path) -> None:
    """200 requests with one key over four processes, one of which is killed half-way."""
    mark = tmp_path / "runs"

    def ask(web: Web) -> dict[str, Any] | None:
        try:
            status, document = web.fetch(
                "/v1/tasks/s.mark/jobs", {"input": {"path": str(mark)}}, **{"Idempotency-Key": "everybody"}
            )
        except OSError:  # the killed process's
            return None
        assert status in (200, 202, 409), document
        return document["job"] if status == 409 else document  # type: ignore[no-any-return]

    settings = {"SAMPLE_URL": web_url, "CELERY_APP": "tests.service.sample"}
    with serving(tmp_path / "log", "--processes", "4", **settings) as web, ThreadPoolExecutor(50) as pool:
        wait_for(lambda: web.log.read_text().count("serving http://") == 4)
        asked = [pool.submit(ask, web) for _ in range(200)]
        wait_for(lambda: sum(each.done() for each in asked) > 50)
        os.kill(web.children()[0], signal.SIGKILL)
        answers = [answer for each in asked if (answer := each.result()) is not None]
        assert len(answers) > 100
        (job_id,) = {answer["id"] for answer in answers}
        wait_for(lambda: web.fetch(f"/v1/jobs/{job_id}")[1]["done"])
        again = ask(web)
        assert again is not None
        assert again["id"] == job_id
    assert mark.read_text() == "ran\n"
