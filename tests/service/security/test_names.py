"""Nobody asks through a name that is not this machine's, and nobody learns the names of tasks that are not theirs."""

import json

import pytest

from tests.service.keys import Guarded
from tests.service.site import Service, problem
from tornado_celery_bridge.service.access.keys import Principal

#: Requests by a page of another site whose name was made to stand for 127.0.0.1 (DNS rebinding).
REQUESTS = (
    ("POST", "/v1/tasks/s.add/jobs"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/queues/websample/pause"),
    ("GET", "/v1/events?tag=a"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/nothing"),
    ("PATCH", "/v1/jobs"),
)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8888", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""]
)
async def test_without_keys_only_names_of_this_machine_are_answered(keyless: Service, host: str) -> None:
    for method, path in REQUESTS:
        headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
        body = None if method == "GET" else b'{"input": [1]}'
        response = await keyless.fetch(path, method, headers=headers, body=body)
        if host:
            assert "API_KEYS_FILE" in problem(response, 403, "forbidden-host")["detail"]
        else:
            assert response.code in (400, 403)
    assert not (await keyless.jobs.ledger.queues.paused())


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8888", "127.0.0.1", "127.1.2.3:80", "[::1]:8888"])
async def test_the_names_of_this_machine_are_answered(keyless: Service, host: str) -> None:
    assert (await keyless.fetch("/v1/jobs", headers={"Host": host})).code == 200


async def test_the_openapi_document_has_the_tasks_of_who_asks(town: Guarded) -> None:
    async def tasks_for(name: str | None) -> tuple[set[str], str]:
        response = await town.fetch(name, "/openapi.json")
        assert response.code == 200
        assert response.headers["Vary"].startswith("Authorization, Cookie")
        paths = json.loads(response.body)["paths"]
        found = {path.split("/")[3] for path in paths if path.startswith("/v1/tasks/") and path.endswith("/jobs")}
        return found, response.body.decode()

    everything = {task.name for task in town.service.jobs.catalogue}
    assert (await tasks_for("admin"))[0] == everything
    of_bob, told = await tasks_for("bob")
    assert of_bob == {"s.add", "s.echo", "s.fail"}
    hidden = everything - of_bob
    assert not [name for name in hidden if f'"{name}"' in told or f"/v1/tasks/{name}/" in told]
    of_nobody, told = await tasks_for(None)
    assert of_nobody == {"{task}"}
    assert not [name for name in everything if f'"{name}"' in told]
    assert "websample" not in told
    with_a_wrong_key = await town.service.fetch("/openapi.json", headers={"Authorization": "Bearer tcb_x_y"})
    assert with_a_wrong_key.body.decode() == told


async def test_whoever_has_no_key_learns_no_address(town: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> dict[str, str | None]:
        return {"broker": "redis://10.1.2.3:6379 refused", "ledger": None}

    monkeypatch.setattr(town.service.jobs, "check", check)
    for name, told in ((None, "not reachable"), ("alice", "10.1.2.3"), ("viewer", "10.1.2.3"), ("admin", "10.1.2.3")):
        response = await town.fetch(name, "/readyz")
        assert told in problem(response, 503, "not-ready")["checks"]["broker"]
    assert Principal(owner="x", scopes=frozenset(("submit",))).may("monitor") is False
