"""What a client sends comes to the task, and what a task returns to the client and the next task, as it was."""

import json
from typing import Any

import pytest

from tests.service.site import Service
from tornado_celery_bridge.ledger import Job, JobRecord
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.links import Links

BLOB = "0123456789abcdef" * 2
#: What would be a time, nothing that anybody knows, or another owner's blob, if it were taken for a type of kombu's.
HOSTILE: list[dict[str, Any]] = [
    {"__type__": "datetime", "__value__": "2026-01-02"},
    {"__type__": "datetime", "__value__": "x"},
    {"__type__": "nowhere", "__value__": [{"__type__": "bytes", "__value__": "x"}]},
    {"__value__": [BLOB, 1, None], "__type__": "tornado_celery_bridge.Stored"},
    {"__value__": [["a", 1]], "__type__": "tornado_celery_bridge.Object"},
    {"__value__": None, "__type__": {"__type__": [], "__value__": {}}},
]
RECORD = JobRecord(id="a", task="t", owner="", queue="q", created_at=0, eta=1_000)
ECHO = {"task": "s.echo", "input": {"value": HOSTILE}}


async def sent(service: Service, method: str, path: str, body: Any = None, **headers: str) -> Any:
    content = json.dumps({} if body is None else body).encode()
    headers = {"Content-Type": "application/json", "Prefer": "wait=20"} | headers
    answer = await service.fetch(path, method, body=content, headers=headers)
    assert answer.code < 300, answer.body
    return json.loads(answer.body)


@pytest.mark.parametrize("given", [*HOSTILE, HOSTILE])
async def test_of_a_job(service: Service, given: Any) -> None:
    job = await sent(service, "POST", "/v1/tasks/s.echo/jobs", {"input": {"value": given}})
    assert (job["state"], job.get("result")) == ("SUCCESS", given)
    again = await sent(service, "POST", f"/v1/jobs/{job['id']}/retry")
    assert (again["state"], again.get("result")) == ("SUCCESS", given)


async def test_of_a_batch(service: Service) -> None:
    (answer,) = (await sent(service, "POST", "/v1/batches", {"jobs": [ECHO]}))["jobs"]
    job = await service.fetch(f"/v1/jobs/{answer['job']['id']}", headers={"Prefer": "wait=20"})
    assert json.loads(job.body)["result"] == HOSTILE


@pytest.mark.parametrize(
    "tree",
    [
        {"chain": [ECHO, {"task": "s.echo"}, {"task": "s.echo"}]},
        {"chord": {"header": [ECHO, ECHO], "body": {"task": "s.echo"}}},
        {"chain": [ECHO, {"group": [{"task": "s.echo"}, {"task": "s.echo"}]}]},
    ],
    ids=["chain", "chord", "group"],
)
async def test_of_a_workflow(service: Service, tree: dict[str, Any]) -> None:
    made = await sent(service, "POST", "/v1/workflows", tree)

    def jobs(node: Any) -> list[Any]:
        if isinstance(node, dict) and "state" in node:
            return [node]
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return [job for child in children for job in jobs(child)]

    results = [job["result"] for job in jobs(made["tree"])]
    expected = [[HOSTILE, HOSTILE] if "chord" in tree and place == 2 else HOSTILE for place in range(len(results))]
    assert results == expected


async def test_of_an_error(service: Service) -> None:
    text = json.dumps(HOSTILE)
    failing = {"task": "s.fail", "input": {"message": text}}
    made = await sent(service, "POST", "/v1/workflows", {"chain": [failing], "on_error": {"task": "s.echo"}})
    assert made["on_error"]["result"]["error"] == {"type": "ValueError", "module": "builtins", "message": text}


def test_of_a_state() -> None:
    own = documents.job(Job(record=RECORD, state="DOWNLOADING", progress={"pct": 10}), Links())
    assert (own["state"], own["progress"], own["meta"]) == ("DOWNLOADING", None, {"pct": 10})
    for state in ("PENDING", "STARTED", "PROGRESS", "SUCCESS", "IGNORED", "FAILURE"):
        assert "meta" not in documents.job(Job(record=RECORD, state=state), Links())
    assert own["eta"] == "1970-01-01T00:00:01.000Z"
    assert documents.job(Job(record=RECORD, state="RETRY", due=2_000), Links())["eta"] == "1970-01-01T00:00:02.000Z"


async def test_of_a_schedule(service: Service) -> None:
    async def run(expected: Any) -> None:
        job = await sent(service, "POST", "/v1/schedules/hostile/run")
        assert (job["state"], job.get("result")) == ("SUCCESS", expected)

    body = {"name": "hostile", "task": "s.echo", "input": {"value": HOSTILE}, "crontab": "0 0 1 1 *"}
    await service.fetch("/v1/schedules/hostile", "DELETE")
    await sent(service, "POST", "/v1/schedules", body)
    await run(HOSTILE)
    for part in (HOSTILE[:3], HOSTILE[3]):
        await sent(service, "PUT", "/v1/schedules/hostile", body | {"input": {"value": part}})
        await run(part)
    await sent(service, "PUT", "/v1/schedules/hostile", body | {"input": {"value": {"__type__": "a"}}})
    merge = {"Content-Type": "application/merge-patch+json"}
    for part in HOSTILE:
        for member, value in part.items():  # each of which passes alone
            changed = await sent(
                service, "PATCH", "/v1/schedules/hostile", {"input": {"value": {member: value}}}, **merge
            )
        if None not in part.values():  # which removes a member
            await run(changed["input"]["value"])
    assert changed["input"]["value"].keys() <= {"__type__", "__value__"}
    await service.fetch("/v1/schedules/hostile", "DELETE")
