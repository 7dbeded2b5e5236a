"""What a task says of its jobs (``max_concurrency``, ``max_rate``, ``limit_by``, ``unique``), on two real workers."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, worker
from tests.service.keys import made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, Service, running
from tornado_celery_bridge.service.access.keys import Keyring


@pytest.fixture(scope="module")
def two_workers(databases: Iterator[Database], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with two workers, of four processes each."""
    url = next(databases).url
    folder = tmp_path_factory.mktemp("limits")
    environment = {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}
    options = ("--concurrency", "4", "--queues", "websample", "--without-gossip", "--without-mingle")
    with ExitStack() as stack:
        for name in ("one", "two"):
            stack.enter_context(
                worker("tests.service.sample", environment, folder / name, *options, "--hostname", f"{name}@limits")
            )
        yield url


@pytest.fixture
async def limited(two_workers: str) -> AsyncIterator[Service]:
    app = make_celery(two_workers)
    async with running(app) as made:
        yield made
    app.close()


async def ended(service: Service, task: str, inputs: list[Any]) -> list[dict[str, Any]]:
    """Submit jobs at once, and return them, ended, in the order of *inputs*."""
    answers = await asyncio.gather(*(service.submit(task, {"input": given}, wait=20) for given in inputs))
    assert [answer.code for answer in answers] == [200] * len(inputs)
    return [json.loads(answer.body) for answer in answers]


def most_at_once(spans: list[list[float]]) -> int:
    return max(sum(begun <= moment < end for begun, end in spans) for moment, _ in spans)


async def test_so_many_of_one_user_at_once(limited: Service) -> None:
    users = ["ada"] * 6 + ["bob"] * 2
    jobs = await ended(limited, "s.stay", [{"user": user, "seconds": 0.4} for user in users])
    assert {job["state"] for job in jobs} == {"SUCCESS"}
    ada = [job["result"] for job in jobs[:6]]
    bob = [job["result"] for job in jobs[6:]]
    assert most_at_once(ada) == 2
    assert most_at_once(bob) == 2
    assert max(begun for begun, _ in bob) < max(begun for begun, _ in ada)  # he did not stand behind her


async def test_so_many_begin_in_a_time(limited: Service) -> None:
    await ended(limited, "s.paced", [{}] * 6)
    page = json.loads((await limited.fetch("/v1/jobs?task=s.paced")).body)
    begun = sorted(_milliseconds(job["started_at"]) for job in page["jobs"])
    assert all(moment - begun[0] >= 100 * place for place, moment in enumerate(begun)), begun


def _milliseconds(moment: str) -> int:
    hours, minutes, seconds = moment[11:-1].split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000 + round(float(seconds) * 1000)


async def test_the_same_job_is_not_accepted_twice(two_workers: str, tmp_path: Path) -> None:
    (ada, one), (bob, other) = made(owner="ada"), made(owner="bob")
    ring = await asyncio.to_thread(lambda: Keyring(write(tmp_path / "keys.json", one, other)))
    app = make_celery(two_workers)
    async with running(app, keys=ring) as service:

        async def submit(key: str, given: Any, queue: str = "quiet") -> str:
            headers = {"Authorization": f"Bearer {key}"}
            body = {"input": given, "options": {"queue": queue}}
            answer = await service.post("/v1/tasks/s.once/jobs", body, headers)
            assert answer.code == 202
            job_id: str = json.loads(answer.body)["id"]
            assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
            return job_id

        first = await submit(ada, {"value": 1})
        assert await submit(ada, {"value": 1}) == first
        assert await submit(ada, [1]) == first  # the same, by position
        assert await submit(ada, {"value": 2}) != first
        assert await submit(bob, {"value": 1}) != first
        headers = {"Authorization": f"Bearer {ada}"}
        assert (await service.post(f"/v1/jobs/{first}/cancel", b"", headers)).code == 200
        second = await submit(ada, {"value": 1}, "websample")
        assert second != first
        done = await service.fetch(f"/v1/jobs/{second}", headers={**headers, "Prefer": "wait=10"})
        assert json.loads(done.body)["result"] == 1
        assert await submit(ada, {"value": 1}) not in (first, second)
    app.close()


async def test_limits_are_shown(limited: Service) -> None:
    shown = json.loads((await limited.fetch("/v1/tasks/s.stay")).body)["defaults"]
    names = ("max_concurrency", "max_rate", "limit_by", "unique")
    assert [shown[name] for name in names] == [2, None, "user", False]
    shown = json.loads((await limited.fetch("/v1/tasks/s.once")).body)["defaults"]
    assert [shown[name] for name in names] == [None, None, None, True]
    assert json.loads((await limited.fetch("/v1/tasks/s.paced")).body)["defaults"]["max_rate"] == "10/s"
