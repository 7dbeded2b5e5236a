"""What a process writes: its log as JSON, and ``tcb top``."""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, wait_for
from tests.service.keys import made, write
from tests.service.processes import Web, serving
from tests.service.site import ROOT, environment
from tornado_celery_bridge.base.logs import JsonFormatter
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.cli.top import _time
from tornado_celery_bridge.service.http.trace import Trace, current, current_job
from tornado_celery_bridge.service.process.logs import ids_of


def test_an_event_as_json() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.LogRecord("web", logging.ERROR, __file__, 1, "%s\u2028", ("é\x00",), sys.exc_info())
    line = JsonFormatter(ids_of).format(record)
    assert line.isascii()
    assert line.isprintable()
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("time"))
    assert told.pop("exception").endswith("ValueError: a\nb")
    assert told == {"level": "ERROR", "logger": "web", "message": "é\x00\u2028"}


async def test_ids_are_of_the_task_that_logs() -> None:
    record = logging.LogRecord("web", logging.INFO, __file__, 1, "", (), None)

    async def logged(trace: Trace, job: str) -> dict[str, Any]:
        current.set(trace)
        current_job.set(job)
        await asyncio.sleep(0)
        told: dict[str, Any] = json.loads(JsonFormatter(ids_of).format(record))
        return told

    traces = [Trace.begun(None), Trace.begun(None)]
    found = await asyncio.gather(*(logged(trace, job) for trace, job in zip(traces, "ab", strict=True)))
    for trace, job, told in zip(traces, "ab", found, strict=True):
        assert (told["request"], told["trace"], told["job"]) == (trace.request_id, trace.trace_id, job)


def test_a_format_that_is_none() -> None:
    assert Settings.from_environment({}).log_format == "text"
    assert Settings.from_environment({"LOG_FORMAT": "json"}).log_format == "json"
    with pytest.raises(SettingsError, match="LOG_FORMAT should be one of text, json, not 'xml'"):
        Settings.from_environment({"LOG_FORMAT": "xml"})


def test_every_line_is_json_and_has_no_secret(web_url: str, tmp_path: Path) -> None:
    key, entry = made(scopes=["submit", "read", "monitor"])
    settings = {
        **{"CELERY_APP": "tests.service.sample", "SAMPLE_URL": web_url, "ALLOW_UNSAFE": "no-aof", "LOG_FORMAT": "json"},
        **{"API_KEYS_FILE": str(write(tmp_path / "keys.json", entry)), "DATA_DIR": str(tmp_path)},
    }
    with serving(tmp_path / "log", **settings) as web:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"input": {"value": "confidential"}, "options": {"tags": ["private"]}}
        status, job = web.fetch("/v1/tasks/s.echo/jobs", body, Prefer="wait=20", **headers)
        assert (status, job["result"]) == (200, "confidential")
        assert web.fetch(f"/v1/jobs/{job['id']}", **headers)[0] == 200
        assert web.fetch("/v1/jobs?tag=confidential", **headers)[0] == 200
        assert web.fetch("/v1/tasks/s.add/jobs", {"input": {"x": "confidential"}}, **headers)[0] == 422
        assert web.fetch("/v1/jobs/none?token=confidential", **headers)[0] == 400
        shown = top(web, key)
    written = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert "confidential" not in written
    assert "private" not in written
    assert key not in written
    assert key.split("_", 2)[2] not in written  # which may begin with another underscore
    requests = [
        line for line in lines if line["logger"] == "tornado_celery_bridge.access" and line["path"] != "/readyz"
    ]
    submitted, read = requests[:2]
    assert (submitted["method"], submitted["path"], submitted["status"]) == ("POST", "/v1/tasks/s.echo/jobs", 200)
    assert submitted["job"] == read["job"] == job["id"]
    assert submitted["key"] == entry["id"]
    assert all({"time", "level", "message", "request", "trace", "ms", "ip"} <= line.keys() for line in requests)
    assert len({line["request"] for line in requests}) == len(requests)
    check_top(shown)


@contextmanager
def celery(folder: Path, url: str, *words: str) -> Iterator[Path]:
    """Run a stock process of Celery's until the block ends, once it has begun; the value is what it logs to."""
    log = folder / f"{words[0]}.log"
    given = environment(SAMPLE_URL=url, LOG_FORMAT="json")
    command = [sys.executable, "-m", "celery", "-A", "tests.service.sample", *words, "--loglevel", "INFO"]
    with log.open("wb") as err:  # Celery prints a banner, too, to standard output
        process = subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True)
    try:
        begun = re.compile(r"ready\.|Starting\.\.\.")
        wait_for(lambda: begun.search(log.read_text()) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_workers_and_beat_log_as_the_service_does(database: Database, tmp_path: Path) -> None:
    options = ("--concurrency", "1", "--queues", "websample", "--without-gossip", "--without-mingle")
    settings = {
        "CELERY_APP": "tests.service.sample",
        "SAMPLE_URL": database.url,
        "LOG_FORMAT": "json",
        "DATA_DIR": str(tmp_path),
    }
    with (
        celery(tmp_path, database.url, "beat", "--pidfile=", "--schedule", str(tmp_path / "schedule")) as of_beat,
        celery(tmp_path, database.url, "worker", *options) as of_worker,
        serving(tmp_path / "log", **settings) as web,
    ):
        jobs = {}
        for task, given in (
            ("s.echo", {"value": "confidential"}),
            ("s.log", {"lines": 2}),
            ("s.flaky", {"path": str(tmp_path / "confidential")}),
            ("s.fail", {"message": "as asked"}),
        ):
            status, jobs[task] = web.fetch(f"/v1/tasks/{task}/jobs", {"input": given}, Prefer="wait=20")
            assert (status, jobs[task]["done"]) == (200, True)
        # The line of a request is written after its answer, and this process is not ended but killed.
        wait_for(lambda: all(job["id"] in web.log.read_text() for job in jobs.values()))
    assert all("message" in json.loads(line) for line in of_beat.read_text().splitlines())
    written = of_worker.read_text()
    assert "confidential" not in written
    lines = [json.loads(line) for line in written.splitlines()]
    asked = {line["job"]: line for line in map(json.loads, web.log.read_text().splitlines()) if "job" in line}
    for task, job in jobs.items():
        told = [line for line in lines if line.get("task_id") == job["id"]]
        ids = {"task": task, "job": job["id"], **{name: asked[job["id"]][name] for name in ("request", "trace")}}
        assert told
        assert all(ids.items() <= line.items() for line in told)
        jobs[task] = [(line["level"], re.sub(r"[\d.]+s", "?s", line["message"])) for line in told]
    ((_, message),) = jobs["s.echo"]
    assert re.fullmatch(r"Task s\.echo\[.{36}\] succeeded in \?s: …", message), message
    assert jobs["s.log"][:2] == [("WARNING", "line 0"), ("WARNING", "line 1")]
    assert [level for level, _ in jobs["s.flaky"]] == ["INFO"] * 3
    (failed,) = (line for line in lines if line.get("task") == "s.fail")
    assert failed["exception"].endswith("ValueError: as asked")
    # What is about no task that runs names none.
    assert any("task_id" not in line for line in lines)


def top(web: Web, key: str) -> str:
    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "tornado_celery_bridge",
            "top",
            "--once",
            "--url",
            f"http://127.0.0.1:{web.port}/",
        ]
        return subprocess.run(
            command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=60, check=False
        )

    refused = run(TCB_KEY="")
    assert (refused.returncode, refused.stdout) == (os.EX_CONFIG, "")
    assert re.search(r"needs a valid API key.*\. Set TCB_KEY to one", refused.stderr)
    done = run(TCB_KEY=key)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def check_top(shown: str) -> None:
    lines = shown.splitlines()
    assert "\x1b" not in shown
    assert lines[2].split() == [
        *("jobs", "now", "waiting", "scheduled", "running", "succeeded", "failed", "revoked", "dead", "unpublished")
    ]
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert {"quiet", "websample"} <= rows.keys()
    assert rows["websample"][4] == "1"
    (worker,) = (row for name, row in rows.items() if "@" in name)
    assert worker[1:] == ["3", "0", "websample"]


def test_times() -> None:
    assert [_time(each) for each in (None, 0.0123, 0.5, 1.25, 119, 4_000)] == [
        *("-", "12.3 ms", "500 ms", "1.2 s", "119.0 s", "67 min")
    ]


def test_nobody_there() -> None:
    command = [sys.executable, "-m", "tornado_celery_bridge", "top", "--once", "--url", "http://127.0.0.1:1"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "http://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
