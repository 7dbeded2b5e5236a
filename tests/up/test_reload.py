"""`tcb up --reload`: what starts anew when a file changes, and what becomes of a job that runs."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.needs import missing
from tests.servers import free_port, wait_for
from tests.up.processes import ROOT, Up, call

Start = Callable[..., Up]

IDLE = "sh -c 'echo pid $$; exec sleep 1000'"

PROJ = """
import time
from celery import Celery
app = Celery("proj")

@app.task
def begins(path, seconds):
    with open(path, "a") as file:
        file.write("x")
    time.sleep(seconds)
    return VERSION

VERSION = 1
"""


@pytest.fixture
def path() -> str:
    """What PYTHONPATH has to be."""
    if (found := find_spec("watchfiles")) is None or found.origin is None:
        missing("watchfiles")
    return f"{ROOT}{os.pathsep}{Path(found.origin).parent.parent}"


def test_web_worker_and_beat_start_anew_and_nothing_else(up: Start, tmp_path: Path, path: str) -> None:
    names = ("web", "worker", "beat", "other")
    procfile = "\n".join(f"{name}: {IDLE}" for name in names)
    one = up(procfile, "--reload", PORT=str(free_port()), PYTHONPATH=path)
    first = {name: int(one.seen(rf"^{name} *\| pid (\d+)")[1]) for name in names}
    one.line("watching the Python files")
    (tmp_path / "ignored.txt").write_text("x")
    for number in range(2):
        (tmp_path / "some.py").write_text(f"x = {number}")
        one.line(r"some\.py changed; starting web, worker, beat anew")
        for name in names[:3]:
            pid = int(one.seen(rf"^{name} *\| pid (\d+)", times=number + 2)[1])
            assert pid != first[name]
    assert not [line for line in one.lines if line.startswith("other") and str(first["other"]) not in line]
    assert not [line for line in one.lines if "starting it again" in line]
    one.signal()
    assert one.end() == 0


@pytest.mark.nightly
def test_a_running_job_goes_on_or_begins_again_with_all_its_lives(up: Start, tmp_path: Path, path: str) -> None:
    (tmp_path / "proj.py").write_text(PROJ)
    port = free_port()
    options = ("-A", "proj", "--expose", "proj.*", "--broker", "redis", "-c", "2", "--reload")
    one = up(None, *options, folder=tmp_path, PORT=str(port), FLOWER_PORT=str(free_port()), PYTHONPATH=path)
    one.line("stop      Ctrl-C")
    one.seen("watching the Python files")
    url = f"http://127.0.0.1:{port}"
    jobs = {}
    for seconds in (2, 30):  # the worker waits for 10 s, then gives back what it runs
        body = {"input": {"path": str(tmp_path / f"begins{seconds}"), "seconds": seconds}}
        jobs[seconds] = call(f"{url}/v1/tasks/proj.begins/jobs", body)[1]["id"]
        wait_for((tmp_path / f"begins{seconds}").exists)
    (tmp_path / "proj.py").write_text(PROJ.replace("VERSION = 1", "VERSION = 2"))
    one.line(r"proj\.py changed")

    def ended(seconds: int) -> bool:
        status, job = call(f"{url}/v1/jobs/{jobs[seconds]}") if is_up() else (0, {})
        return status == 200 and bool(job["done"])

    def is_up() -> bool:
        try:
            return call(f"{url}/readyz")[0] == 200
        except OSError:
            return False

    for seconds, result, begun in [(2, 1, "x"), (30, 2, "xx")]:
        wait_for(lambda seconds=seconds: ended(seconds), 90)  # type: ignore[misc]
        job = call(f"{url}/v1/jobs/{jobs[seconds]}")[1]
        assert (job["state"], job["result"]) == ("SUCCESS", result)
        assert (tmp_path / f"begins{seconds}").read_text() == begun
    assert not [line for line in one.lines if "lost" in line.lower() and "jobs" in line]
    one.signal()
    assert one.end() == 0
