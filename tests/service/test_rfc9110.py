"""What RFC 9110 and 9112 ask of any server: HEAD, absolute targets, 414, 431, 415."""

import gzip
import json
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from tests.service.site import Service, problem
from tornado_celery_bridge.service.http.handler import COMPRESSED, MAX_FIELDS, MAX_TARGET
from tornado_celery_bridge.service.process.routes import ENDPOINTS

SAME = {"Content-Type", "Content-Length", "Cache-Control", "Etag", "Vary", "Retry-After", "Content-Security-Policy"}
LIVE = {"/metrics", "/v1/jobs/{id}/events", "/v1/events", "/v1/statistics", "/v1/queues", "/v1/workers"}


async def test_head_is_answered_wherever_get_is(service: Service) -> None:
    job = json.loads((await service.submit("s.add", {"input": [1]}, wait=20)).body)
    await service.post("/v1/schedules", {"name": "head", "task": "s.add", "input": [1], "interval": 60})
    chain = {"chain": [{"task": "s.add", "input": [1]}]}
    workflow = json.loads((await service.post("/v1/workflows", chain, {"Prefer": "wait=20"})).body)
    names = {"id": job["id"], "task": "s.add", "name": "head", "file": "docs.js", "part": "app.js"}
    for endpoint in ENDPOINTS:
        route = endpoint.route
        if "GET" not in route.methods or route.path in ("", "/v1/jobs/{id}/ws") or "flower" in route.path:
            continue
        given = {**names, "id": workflow["id"]} if "workflows" in route.path else names
        path = route.path.format(**given) + ("?job=" + job["id"] if route.path == "/v1/events" else "")
        got, head = await service.fetch(path), await service.fetch(path, "HEAD")
        assert (head.code, head.body) == (got.code, b""), path
        # What tells of now may have another length in the next moment.
        same = SAME - {"Content-Length"} if route.path in LIVE else SAME
        assert {name: head.headers[name] for name in same & {*head.headers}} == {
            name: got.headers[name] for name in same & {*got.headers}
        }, path
    refused = await service.fetch("/v1/jobs", "DELETE")
    assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    problem(await service.fetch(f"/v1/jobs/{job['id']}/cancel", "PUT", body=b""), 405, "method-not-allowed")
    assert (await service.fetch(f"/v1/jobs/{job['id']}/cancel", "HEAD")).code == 405
    assert (await service.fetch("/v1/nothing", "HEAD")).code == 404
    await service.fetch("/v1/schedules/head", "DELETE")


@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
async def test_a_target_may_be_a_whole_url(service: Service, scheme: str) -> None:
    async def status(target: str, host: str) -> bytes:
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        reader, writer = await service.raw(head.encode())
        line = await reader.readline()
        writer.close()
        return line.split(b" ")[1]

    # Whom it is for, the target says, and not the header.
    assert await status(f"{scheme}://localhost/v1/jobs?limit=1", "evil.example") == b"200"
    assert await status(f"{scheme}://localhost:1/v1/jobs?limit=x", "localhost") == b"400"
    assert await status(f"{scheme}://127.0.0.1", "localhost") == b"200"
    assert await status(f"{scheme}://evil.example/v1/jobs", "localhost") == b"403"


async def test_what_is_large_is_compressed(service: Service) -> None:
    value = "word " * (COMPRESSED // 4)
    large = json.loads((await service.submit("s.echo", {"input": [value]}, wait=20)).body)
    small = json.loads((await service.submit("s.echo", {"input": ["word"]}, wait=20)).body)

    async def asked(job: dict[str, Any], encoding: str | None) -> HTTPResponse:
        headers = {} if encoding is None else {"Accept-Encoding": encoding}
        return await service.fetch(job["links"]["self"], headers=headers, decompress_response=False)

    plain = await asked(large, None)
    for encoding in ("gzip", "br;q=1, GZIP;q=0.5", "deflate, gzip"):
        response = await asked(large, encoding)
        assert response.headers["Content-Encoding"] == "gzip"
        assert "Accept-Encoding" in response.headers.get_list("Vary")
        assert len(response.body) < len(plain.body) / 10
        assert gzip.decompress(response.body) == plain.body
    for encoding in ("gzip;q=0", "br", "identity", ""):
        response = await asked(large, encoding)
        assert ("Content-Encoding" in response.headers, response.body) == (False, plain.body)
        assert "Accept-Encoding" in response.headers.get_list("Vary")
    assert "Content-Encoding" not in (await asked(small, "gzip")).headers


@pytest.mark.parametrize("path", ["/openapi.json", "/dashboard/dashboard.css", "/docs/swagger-ui.css"])
async def test_files_are_compressed(service: Service, path: str) -> None:
    async def asked(**headers: str) -> HTTPResponse:
        return await service.fetch(path, headers=headers, decompress_response=False)

    plain, small = await asked(), await asked(**{"Accept-Encoding": "gzip"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.body) == plain.body
    assert len(small.body) < len(plain.body) / 2
    assert plain.headers["Etag"] != small.headers["Etag"]  # strong: other bytes, another tag
    for answer, headers in ((plain, {}), (small, {"Accept-Encoding": "gzip"})):
        assert "Accept-Encoding" in answer.headers["Vary"]
        known = await asked(**{**headers, "If-None-Match": answer.headers["Etag"]})
        assert (known.code, known.body, known.headers["Etag"]) == (304, b"", answer.headers["Etag"])


async def test_what_a_client_has_already_is_not_sent_again(service: Service) -> None:
    job = json.loads((await service.submit("s.echo", {"input": ["x" * COMPRESSED]}, wait=20)).body)
    chain = {"chain": [{"task": "s.add", "input": [1]}]}
    workflow = json.loads((await service.post("/v1/workflows", chain, {"Prefer": "wait=20"})).body)
    paths = [job["links"]["self"], f"/v1/jobs?task=s.echo&limit=1&tag={job['id']}", workflow["links"]["self"]]
    for path in [*paths, "/v1/tasks", "/v1/tasks/s.add"]:
        tags = set()
        for encoding in ("identity", "gzip"):
            headers = {"Accept-Encoding": encoding}
            first = await service.fetch(path, headers=headers, decompress_response=False)
            tags.add(etag := first.headers["Etag"])
            assert etag.startswith('"')
            known = {**headers, "If-None-Match": f'"x", {etag}'}
            again = await service.fetch(path, headers=known, decompress_response=False)
            assert (again.code, again.body, again.headers["Etag"]) == (304, b"", etag), path
            assert (await service.fetch(path, headers={**headers, "If-None-Match": '"x"'})).code == 200
        assert len(tags) == 2 or path != paths[0]  # other bytes, another tag
    running = json.loads((await service.submit("s.add", {"input": [1], "options": {"countdown": 60}})).body)
    before = (await service.fetch(running["links"]["self"])).headers["Etag"]
    await service.post(f"{running['links']['self']}/cancel")
    after = await service.fetch(running["links"]["self"], headers={"If-None-Match": before})
    assert (after.code, json.loads(after.body)["state"]) == (200, "REVOKED")


async def test_what_is_too_long(service: Service) -> None:
    for method in ("GET", "POST"):
        body = None if method == "GET" else b"{}"
        long = await service.fetch("/v1/jobs?tag=" + "x" * MAX_TARGET, method, body=body)
        assert problem(long, 414, "uri-too-long")["title"] == "URI Too Long"
        fields = {f"X-{number}": "x" * 1_000 for number in range(MAX_FIELDS // 1_000 + 1)}
        large = await service.fetch("/v1/jobs", method, headers=fields, body=body)
        assert problem(large, 431, "header-too-large")["title"] == "Request Header Fields Too Large"
    assert (await service.fetch("/v1/jobs?tag=" + "x" * 90, headers={"X": "x" * 15_000})).code == 200


async def test_another_kind_of_patch_is_refused(service: Service) -> None:
    await service.post("/v1/schedules", {"name": "patched", "task": "s.add", "input": [1], "interval": 60})
    path = "/v1/schedules/patched"
    for media_type in ("application/json-patch+json", "application/xml", "application/vnd.x+json"):
        body = b'[{"op": "remove", "path": "/note"}]'
        refused = await service.fetch(path, "PATCH", body=body, headers={"Content-Type": media_type})
        problem(refused, 415, "unsupported-media-type")
        assert refused.headers["Accept-Patch"] == "application/merge-patch+json"
    for media_type in ("application/merge-patch+json", "application/json"):
        changed = await service.fetch(path, "PATCH", body=b'{"note": "x"}', headers={"Content-Type": media_type})
        assert changed.code == 200
    await service.fetch(path, "DELETE")
