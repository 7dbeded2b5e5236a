"""What a task says of its jobs (``max_concurrency``, ``max_rate``, ``limit_by``, ``unique``), on two real workers."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, worker
from tests.service.keys import made, write
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, Service, problem, running
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


# What is changed at run time.


async def change(service: Service, path: str, body: Any, method: str = "PATCH") -> Any:
    content = None if body is None else json.dumps(body)
    answer = await service.fetch(path, method, body=content, headers={"Content-Type": "application/json"})
    assert answer.code in (200, 204), answer.body
    return json.loads(answer.body) if answer.body else None


async def uses(service: Service, task: str) -> Any:
    found = json.loads((await service.fetch("/v1/limits")).body)
    return next(each for each in found["tasks"] if each["task"] == task)


async def test_a_limit_is_changed_while_jobs_run_and_wait(limited: Service, tmp_path: Path) -> None:
    """On both workers at once, for the jobs that wait too, without a deploy."""
    path = "/v1/tasks/s.nap"
    assert (await change(limited, path, {"max_concurrency": 0}))["max_concurrency"] == 0
    jobs = [asyncio.ensure_future(ended(limited, "s.nap", [[0.2]])) for _ in range(5)]
    async with asyncio.timeout(20):
        while (await uses(limited, "s.nap"))["uses"] != [{"key": None, "running": 0, "waiting": 5}]:
            await asyncio.sleep(0.02)
    await change(limited, path, {"max_concurrency": 5})
    spans = [(await job)[0] for job in jobs]
    begun = sorted(_milliseconds(job["started_at"]) for job in spans)
    assert begun[-1] - begun[0] < 5 * 200  # side by side
    await change(limited, path, {"max_concurrency": 1, "max_rate": "20/s"})
    shown = await uses(limited, "s.nap")
    assert (shown["max_concurrency"], shown["max_rate"]) == (1, "20/s")
    spans = await ended(limited, "s.nap", [[0.05]] * 4)
    times = sorted((_milliseconds(job["started_at"]), _milliseconds(job["finished_at"])) for job in spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(times)), times
    shown = await change(limited, path, {"max_concurrency": None, "max_rate": None})
    assert (shown["max_concurrency"], shown["max_rate"]) == (None, None)


async def test_a_limit_over_several_tasks(limited: Service) -> None:
    body = {"tasks": ["s.nap", "s.stay"], "max_concurrency": 1}
    assert (await change(limited, "/v1/limits/heavy", body, "PUT"))["running"] == 0
    taken = await limited.fetch("/v1/limits/other", "PUT", body=json.dumps({"tasks": ["s.nap"]}))
    assert problem(taken, 409, "limit-taken")["detail"].startswith("s.nap is under the limit heavy")
    naps, stays = await asyncio.gather(
        ended(limited, "s.nap", [[0.1]] * 2), ended(limited, "s.stay", [{"user": "ada", "seconds": 0.1}] * 2)
    )
    times = sorted((_milliseconds(job["started_at"]), _milliseconds(job["finished_at"])) for job in (*naps, *stays))
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(times)), times
    await change(limited, "/v1/limits/heavy", None, "DELETE")
    problem(await limited.fetch("/v1/limits/heavy", "DELETE"), 404, "unknown-limit")
    problem(await limited.fetch("/v1/limits/a%0Ab", "PUT", body=json.dumps(body)), 404, "unknown-limit")


async def test_a_task_that_is_switched_off(limited: Service) -> None:
    path, off = "/v1/tasks/s.add", {"enabled": False, "reason": "the shop is closed"}
    job = json.loads((await limited.submit("s.add", {"input": [1, 2]}, wait=10)).body)
    await change(limited, path, off)
    try:
        for refused in (
            await limited.submit("s.add", {"input": [1, 2]}),
            await limited.post(f"/v1/jobs/{job['id']}/retry"),
            await limited.post("/v1/workflows", {"chain": [{"task": "s.echo"}, {"task": "s.add"}]}),
        ):
            said = problem(refused, 503, "task-switched-off")
            assert said["detail"] == "the shop is closed"
            assert "Retry-After" not in refused.headers
        batch = await limited.post("/v1/batches", {"jobs": [{"task": "s.add", "input": [1]}, {"task": "s.echo"}]})
        assert [each["status"] for each in json.loads(batch.body)["jobs"]] == [503, 202]
        listed = json.loads((await limited.fetch("/v1/tasks")).body)["tasks"]
        assert [(each["name"], each["reason"]) for each in listed if not each["enabled"]] == [
            ("s.add", "the shop is closed")
        ]
        assert (await uses(limited, "s.add"))["switched_off"]["reason"] == "the shop is closed"
    finally:
        assert (await change(limited, path, {"enabled": True}))["enabled"]
    assert (await limited.submit("s.add", {"input": [1, 2]}, wait=10)).code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"max_rate": "often"}, "/max_rate"),
        ({"max_concurrency": -1}, "/max_concurrency"),
        ({"reason": "x"}, "/reason"),
        ({"max": 1}, "/max"),
    ],
)
async def test_what_makes_no_sense(limited: Service, body: Any, pointer: str) -> None:
    answer = await limited.fetch("/v1/tasks/s.add", "PATCH", body=json.dumps(body))
    assert problem(answer, 422, "invalid-body")["errors"][0]["pointer"] == pointer
