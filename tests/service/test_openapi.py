"""The OpenAPI document: complete, valid, true of the running service, and of use to other people's tools."""

import ast
import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from openapi_spec_validator import OpenAPIV31SpecValidator
from playwright.async_api import Route
from pydantic import BaseModel

from tests.servers import Database, worker
from tests.service.browser import Tab
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, Service, environment, problem, running
from tornado_celery_bridge.service.http.openapi import problems_of
from tornado_celery_bridge.service.pages import files as docs
from tornado_celery_bridge.service.process.routes import ENDPOINTS, openapi_of
from tornado_celery_bridge.service.resources.catalogue import Catalogue


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("openapi", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()


def nothing() -> None: ...


def document_of(app: Celery) -> dict[str, Any]:
    document = openapi_of(Catalogue(app))
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


# Complete.


def test_every_route_is_documented_and_the_reverse() -> None:
    documented = {(path, method) for path, method, _ in operations(document_of(make_celery("memory://")))}
    submissions = {each for each in documented if re.fullmatch(r"/v1/tasks/.+/jobs", each[0])}
    shown = {(each.route.path, each.route.methods[0].lower()) for each in ENDPOINTS if each.route.tag}
    assert submissions
    assert documented - submissions == shown - {("/v1/tasks/{task}/jobs", "post")}
    hidden = {each.route.path for each in ENDPOINTS if not each.route.tag}
    assert hidden == {"", "/login", "/logout", "/flower", "/flower/{path...}"}


def test_every_code_is_known_and_documented() -> None:
    calls = [
        node
        for file in (ROOT / "tornado_celery_bridge" / "service").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Kind"
    ]
    declared = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    assert len(declared) == len(set(declared)) == len(calls)
    # What answers where there is no endpoint, no application of ours, or something that is not Tornado's to say.
    others = {"not-found", "method-not-allowed", "forbidden-host", "http-error"}
    known = {kind.code: kind for endpoint in ENDPOINTS for kind in problems_of(endpoint)}
    assert {*declared} - others == known.keys() - others
    rows = re.findall(r"^\| (\d{3}) \| (`.+?`) \|", (ROOT / "docs" / "http.md").read_text("utf-8"), re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall("`(.+?)`", codes)}
    assert told.keys() == {*declared} - {"http-error"}
    assert all(told[code] == kind.status for code, kind in known.items())


# Valid, whatever the tasks are.


class Node(BaseModel):
    """Refers to itself."""

    value: int = 0
    children: list["Node"] = []


class Colour(Enum):
    RED = "red"


def test_schemas_that_refer_to_others(app: Celery) -> None:
    def paint(tree: Node, colour: Colour = Colour.RED) -> Node:
        return tree

    app.task(name="paint", shared=False, exposed=True)(paint)
    schemas = document_of(app)["components"]["schemas"]
    assert schemas["paint.input"]["properties"]["tree"] == {"$ref": "#/components/schemas/paint.input.Node"}
    assert schemas["paint.result"] == {"$ref": "#/components/schemas/paint.result.Node"}
    assert schemas["paint.input.Node"]["properties"]["children"]["items"]["$ref"].endswith("/paint.input.Node")
    assert "$defs" not in json.dumps(schemas)


def test_tasks_may_be_called_anything(app: Celery) -> None:
    names = ["a.b", "a_b", "a/b c", "{x}", "ü", "a.b.input"]
    for name in names:
        app.task(name=name, shared=False, exposed=True)(nothing)
    document = document_of(app)
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert {"/v1/tasks/a%2Fb%20c/jobs", "/v1/tasks/%7Bx%7D/jobs", "/v1/tasks/%C3%BC/jobs"} <= document["paths"].keys()
    assert document == document_of(app)


def test_positional_input(app: Celery) -> None:
    def plain(a: int, b: str = "") -> None: ...
    def variadic(a: int, *rest: int) -> None: ...
    def named(*, a: int) -> None: ...

    for function in (plain, variadic, named, nothing):
        app.task(name=function.__name__, shared=False, exposed=True)(function)
    schemas = document_of(app)["components"]["schemas"]
    ways = {
        name: schemas[f"{name}.submission"]["properties"]["input"] for name in ("plain", "variadic", "named", "nothing")
    }
    listed = ways["plain"]["anyOf"][1]
    assert (listed["minItems"], listed["maxItems"], len(listed["prefixItems"])) == (1, 2, 2)
    assert "maxItems" not in ways["variadic"]["anyOf"][1]
    assert ways["named"] == {"$ref": "#/components/schemas/named.input"}
    assert ways["nothing"]["anyOf"][1] == {"type": "array", "minItems": 0, "items": {}, "maxItems": 0}
    assert schemas["plain.submission"]["required"] == ["input"]
    assert schemas["nothing.submission"]["required"] == []


# Served, written, shown.


async def test_served(service: Service) -> None:
    response = await service.fetch("/openapi.json")
    assert (response.code, response.headers["Content-Type"]) == (200, "application/json")
    document = json.loads(response.body)
    assert document == openapi_of(service.jobs.catalogue)
    assert document["paths"]["/v1/tasks/s.add/jobs"]["post"]["operationId"] == "submit_s_add"
    assert not any("hidden" in path for path in document["paths"])
    again = await service.fetch("/openapi.json", headers={"If-None-Match": response.headers["Etag"]})
    assert (again.code, again.body) == (304, b"")


def test_written_without_any_server(tmp_path: Path) -> None:
    nowhere = environment(REDIS_URL="redis://127.0.0.1:1/0")
    command = [sys.executable, "-m", "tornado_celery_bridge", "openapi"]
    shown = subprocess.run(command, env=nowhere, cwd=ROOT, capture_output=True, timeout=120, check=True)
    subprocess.run([*command, str(tmp_path / "x.json")], env=nowhere, cwd=ROOT, timeout=120, check=True)
    assert shown.stdout == (tmp_path / "x.json").read_bytes()
    assert "/v1/tasks/tasks.text.count_words/jobs" in json.loads(shown.stdout)["paths"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tornado_celery_bridge", "openapi", str(tmp_path / "no" / "x.json")]
    ended = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert b"cannot write" in ended.stderr
    assert b"Traceback" not in ended.stderr


async def test_the_page_runs_nothing_but_our_own_files(service: Service) -> None:
    page = await service.fetch("/docs")
    assert page.headers["Content-Security-Policy"] == docs.POLICY
    assert "unsafe" not in docs.POLICY
    for name in re.findall(r'(?:src|href)="docs/(.+?)"', page.body.decode()):
        file = await service.fetch(f"/docs/{name}")
        assert file.code == 200
        assert file.headers["X-Content-Type-Options"] == "nosniff"
        assert file.headers["Content-Type"].startswith(docs.DOCS[name][1])
    problem(await service.fetch("/docs/nothing.js"), 404, "not-found")
    problem(await service.fetch("/docs/..%2f__init__.py"), 404, "not-found")


@pytest.mark.parametrize("prefix", ["", "/some/prefix"])
async def test_the_page_works_in_a_browser(service: Service, tab: Tab, prefix: str) -> None:
    """Also behind a proxy that takes a prefix away; what it asks outside of the prefix would get nowhere."""
    base = f"http://127.0.0.1:{service.port}"
    page = tab.page

    async def proxy(route: Route) -> None:
        await route.continue_(url=route.request.url.replace(f"{base}{prefix}", base))

    await page.route(f"{base}{prefix}/**", proxy)
    await page.goto(f"{base}{prefix}/docs")
    await page.wait_for_selector("#operations-submit-submit_s_add")
    listing = page.locator("#operations-tasks-list_tasks")
    await listing.locator(".opblock-summary").click()
    await listing.locator(".try-out__btn").click()
    await listing.locator(".execute").click()
    answer = listing.locator(".live-responses-table .response")
    assert (await answer.locator(".response-col_status").inner_text()).startswith("200")
    assert "s.echo" in await answer.inner_text()
    assert tab.complaints == []
    assert all(url.startswith(f"{base}{prefix}/") for url in tab.requests), tab.requests
    assert f"{base}{prefix}/v1/tasks" in tab.requests


# True of the service, and of use.


@pytest.fixture
def spare_url(database: Database, tmp_path: Path) -> Iterator[str]:
    """A database and a worker where nonsense may pile up."""
    url = database.url
    options = ("--concurrency", "1", "--queues", "websample", "--without-gossip", "--without-mingle")
    with worker("tests.service.sample", {"SAMPLE_URL": url, "PYTHONPATH": str(ROOT)}, tmp_path / "log", *options):
        yield url


@pytest.fixture
async def spare(spare_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service of its own, where nobody waits for long."""
    monkeypatch.setattr("tornado_celery_bridge.service.http.prefer.MAX_WAIT", 0.05)
    app = make_celery(spare_url)
    async with running(app) as made:
        yield made
    app.close()


async def run(*command: str, cwd: Path, **variables: str) -> str:
    """Run one of Python's modules to its end; return what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        cwd=cwd,
        env=environment(**variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, written.decode()
    return written.decode()


#: What a request that does not fit may be answered.
REFUSED = [400, 401, 403, 404, 405, 406, 409, 412, 413, 414, 415, 422, 426, 429, 431]


@pytest.mark.parametrize(
    "examples", ["20", pytest.param("1000", marks=[pytest.mark.nightly, pytest.mark.timeout(5400)])]
)
async def test_a_fuzzer_finds_nothing(spare: Service, tmp_path: Path, examples: str) -> None:
    """
    Bodies, keys and headers as it likes, nothing mended: no 500, and no answer that is not documented.

    What fits a schema may be refused all the same, as it makes no sense; what does not fit, never is accepted.
    """
    asyncio.get_running_loop().set_debug(False)  # with which thousands of requests take minutes more
    seed = secrets.randbelow(2**32)
    print(f"schemathesis --seed {seed}")  # pytest shows it if the test fails
    config = "checks.negative_data_rejection.expected-statuses = " + json.dumps(REFUSED)
    await asyncio.to_thread((tmp_path / "schemathesis.toml").write_text, config)
    await run(
        *("schemathesis.cli", "run", f"http://127.0.0.1:{spare.port}/openapi.json"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance", "--phases", "fuzzing"),
        *("--max-examples", examples, "--seed", str(seed), "--generation-database", "none", "--mode", "all"),
        *("--request-timeout", "20", "--no-color", "--continue-on-failure"),
        # One task of each kind. The rest sleep, or write where they are told. A handshake has no status of its own.
        *("--exclude-operation-id-regex", "^submit_s_(?!(add|steps|total|nan|once)$)"),
        *("--exclude-operation-id", "follow_job_by_websocket"),
        cwd=tmp_path,
        SCHEMATHESIS_HOOKS="tests.service.fuzzing",
    )


async def test_a_generated_client_submits_and_reads_a_job(service: Service, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{service.port}"
    config = tmp_path / "config.json"
    await asyncio.to_thread(config.write_text, '{"post_hooks": []}')  # which would format the code
    generate = ("openapi_python_client", "generate", "--url", f"{url}/openapi.json", "--config", str(config))
    options = ("--fail-on-warning", "--meta", "none", "--output-path", str(tmp_path / "jobs_client"))
    await run(*generate, *options, cwd=tmp_path)
    await run("tests.service.generated_client", url, cwd=tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
