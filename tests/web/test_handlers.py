"""The sample application: each of its handlers, the service beside them, and how its process ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import websocket_connect

from tests.servers import wait_for
from tests.service.processes import Web
from tests.service.site import environment
from tests.web.processes import start

COUNTS = {"total": 3, "distinct": 2, "top": [{"word": "to", "count": 2}, {"word": "be", "count": 1}]}


def call(site: Web, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{site.port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers, refusal.read()


def test_await_a_result(site: Web) -> None:
    status, _, answer = call(site, "/sample/words", b"to be to")
    assert (status, json.loads(answer)) == (200, COUNTS)
    assert call(site, "/sample/words", b"\xff")[0] == 400


def test_yield_it_in_a_coroutine(site: Web) -> None:
    status, _, answer = call(site, "/sample/words?text=to+be+to")
    assert (status, json.loads(answer)) == (200, COUNTS)


def test_an_error_of_the_task_is_the_clients(site: Web) -> None:
    status, _, answer = call(site, "/sample/profile", b"a,b\n1\n")
    assert (status, json.loads(answer)) == (422, {"error": "line 2: 1 cells, but the header has 2"})


def test_a_client_that_leaves_revokes_its_task(site: Web, worker_log: Path) -> None:
    table = b"a\n" + b"1\n" * 2_000_000  # seconds of work
    begun = worker_log.stat().st_size
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        head = f"POST /sample/profile HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(table)}\r\n\r\n"
        client.sendall(head.encode() + table)
        wait_for(lambda: b"tasks.data.profile_csv" in worker_log.read_bytes()[begun:])
    wait_for(lambda: b"Terminating" in worker_log.read_bytes()[begun:])


async def test_progress_over_a_websocket(site: Web) -> None:
    socket = await websocket_connect(f"ws://127.0.0.1:{site.port}/sample/progress")
    await socket.write_message("a\n" + "1\n" * 20_000)
    frames: list[dict[str, Any]] = []
    while not frames or frames[-1]["state"] != "SUCCESS":
        frames.append(json.loads(await socket.read_message() or ""))
        assert frames[-1]["state"] in ("PENDING", "STARTED", "PROGRESS", "SUCCESS")
    assert frames[-1]["result"]["rows"] == 20_000
    # The next table on the same connection.
    await socket.write_message("a,b\n1\n")
    while frames[-1]["state"] != "FAILURE":
        frames.append(json.loads(await socket.read_message() or ""))
    assert frames[-1]["error"] == "line 2: 1 cells, but the header has 2"
    socket.close()


def test_a_job_is_submitted_and_is_where_the_service_shows_it(site: Web) -> None:
    status, headers, answer = call(site, "/sample/jobs", b"to be to")
    assert (status, headers["Location"]) == (202, f"/v1/jobs/{json.loads(answer)['id']}")
    status, _, answer = call(site, headers["Location"], Prefer="wait=20")
    job = json.loads(answer)
    assert (status, job["state"], job["tags"], job["result"]["total"]) == (200, "SUCCESS", ["sample"], 3)


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/tasks", "/sample", "/healthz"])
def test_the_service_and_the_page_are_beside_each_other(site: Web, path: str) -> None:
    assert call(site, path)[0] == 200


def test_another_origin_may_not_call_it(site: Web) -> None:
    assert (
        call(site, "/sample/words", b"to be", **{"Origin": "https://example.org", "Sec-Fetch-Site": "cross-site"})[0]
        == 403
    )


def test_its_own_handlers_are_for_this_machine_alone(settings: dict[str, str], site: Web, tmp_path: Path) -> None:
    """They ask for no API key."""
    assert call(site, "/sample/words", b"to be", Host="example.org")[0] == 404
    keys = {"API_KEYS_FILE": str(tmp_path / "keys.json")}
    words = [sys.executable, "-m", "tornado_celery_bridge", "keys", "make", "--owner", "somebody"]
    subprocess.run(words, env=environment(**keys), check=True, capture_output=True)
    made = start(tmp_path / "log", **settings | keys)
    try:
        wait_for(made.is_ready)
        assert call(made, "/sample/words", b"to be")[0] == 404
        assert call(made, "/v1/tasks")[0] == 401
    finally:
        made.process.kill()
        made.process.wait()


def test_it_ends_in_order(settings: dict[str, str], worker_log: Path, tmp_path: Path) -> None:
    made = start(tmp_path / "log", **{name: settings[name] for name in settings})
    try:
        wait_for(made.is_ready)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(30) == 0
    finally:
        made.process.kill()
        made.process.wait()
    assert "Traceback" not in made.log.read_text()


def test_what_is_wrong_is_one_line(settings: dict[str, str], site: Web, tmp_path: Path) -> None:
    for number, (wrong, said) in enumerate(
        [
            ({"PORT": str(site.port)}, "Address already in use"),
            ({"CELERY_APP": "nowhere"}, "No module named 'nowhere'"),
            ({"MAX_BODY": "5M"}, "MAX_BODY should be a whole number"),
        ]
    ):
        made = start(tmp_path / f"log{number}", **settings | wrong)
        assert made.process.wait(30) == os.EX_CONFIG
        last = made.log.read_text().splitlines()[-1]
        assert last.startswith("web: ")
        assert said in last
