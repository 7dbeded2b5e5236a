"""``tcb serve`` as a process: settings, signals, a graceful end, several processes."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, Server, free_port, wait_for, worker
from tests.service.processes import serving
from tests.service.site import ROOT, environment
from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.service.http.lifecycle import Lifecycle
from tornado_celery_bridge.service.process.logs import OneLineFormatter

# Settings.


def test_defaults() -> None:
    settings = Settings.from_environment({})
    assert (settings.port, settings.bind, settings.celery_app) == (8888, "127.0.0.1", "tasks")
    assert settings.job_ttl == 86_400
    assert (settings.callback_allow, settings.callback_secret_file) == ("", Path(".data/callback-secret").absolute())


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.168.0.1", "8.8.8.8"])
def test_a_network_address_without_keys_is_refused(bind: str) -> None:
    with pytest.raises(SettingsError, match="no API keys"):
        Settings.from_environment({"BIND": bind})


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.9.9.9", "::1", "localhost", ""])
def test_loopback_is_fine(bind: str) -> None:
    assert Settings.from_environment({"BIND": bind})


@pytest.mark.parametrize(
    "given",
    [{"PORT": "x"}, {"PORT": "0"}, {"PORT": "65536"}, {"JOB_TTL": "-1"}, {"MAX_BODY": "5M"}, {"BIND": "example.org"}],
)
def test_settings_that_make_no_sense(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(given))):
        Settings.from_environment(given)


def test_the_celery_app_is_found_as_celery_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "webproj").mkdir()
    (tmp_path / "webproj" / "__init__.py").write_text("")
    (tmp_path / "webproj" / "celery.py").write_text(
        "from celery import Celery\napp = Celery('p', set_as_current=False)"
    )
    for name in ("webproj", "webproj.celery", "webproj.celery:app"):
        assert load_celery_app(name).main == "p"
    for name in ("webnothing", "webproj.celery:nothing", "os", "os:path"):
        with pytest.raises(SettingsError, match=name):
            load_celery_app(name)


# Log lines.


def test_a_log_line_is_one_line() -> None:
    import logging

    record = logging.LogRecord("x", logging.INFO, "f", 1, "a\nb\r\x1b[31m\x85\u2028%s", ("\0",), None)
    assert OneLineFormatter("%(message)s").format(record) == "a\\nb\\r\\x1b[31m\\x85\\u2028\\x00"


# The stages of an end.


async def test_waits_may_finish_within_the_grace() -> None:
    lifecycle = Lifecycle()
    lifecycle.request_began()
    end = asyncio.ensure_future(lifecycle.end(10, 10))
    await lifecycle.closing.wait()
    assert await lifecycle.unless_expired(asyncio.sleep(0, "done")) == "done"
    lifecycle.request_ended()
    await end
    assert not lifecycle.expired.is_set()


async def test_after_the_grace_waits_are_cut() -> None:
    lifecycle = Lifecycle()
    lifecycle.request_began()
    end = asyncio.ensure_future(lifecycle.end(0.05, 0.05))
    assert await lifecycle.unless_expired(asyncio.sleep(60, "done")) is None
    await end


# Processes.


@pytest.fixture
def sample(web_url: str) -> dict[str, str]:
    """The settings for the sample app."""
    return {"SAMPLE_URL": web_url, "REDIS_URL": web_url, "CELERY_APP": "tests.service.sample"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_gracefully(sample: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "log", **sample) as made:
        _, accepted = made.fetch("/v1/tasks/s.nap/jobs", {"input": [2]})
        stream = socket.create_connection(("127.0.0.1", made.port), 20)
        waiting = socket.create_connection(("127.0.0.1", made.port), 20)
        stream.sendall(f"GET {accepted['links']['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"event: state" in stream.recv(4096)
        head = f"GET {accepted['links']['self']} HTTP/1.1\r\nHost: localhost\r\n"
        waiting.sendall(f"{head}Prefer: wait=30\r\n\r\n".encode())
        time.sleep(0.3)
        made.process.send_signal(number)
        made.process.send_signal(number)
        with stream, waiting, stream.makefile("rb") as told, waiting.makefile("rb") as answer:
            assert b'event: close\ndata: {"reason":"shutting-down"}' in told.read()
            assert not made.is_listening()
            waited = answer.read()  # to the end of the connection
            assert b'"state":"SUCCESS"' in waited
        assert made.process.wait(10) == 0
    assert "stopped" in made.log.read_text()
    assert "Traceback" not in made.log.read_text()


def test_several_processes_on_one_port(sample: dict[str, str], tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--processes", "3", **sample) as made:
        wait_for(lambda: made.log.read_text().count("serving http://") == 3)
        first = made.children()
        assert len(first) == 3
        _, accepted = made.fetch("/v1/tasks/s.add/jobs", {"input": [1]}, Prefer="wait=10")
        for _ in range(10):
            assert made.fetch(accepted["links"]["self"])[1]["result"] == 2
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: made.log.read_text().count("serving http://") == 4, 10)
        assert len(set(made.children()) - set(first)) == 1
        assert made.fetch("/readyz")[0] == 200
        made.process.terminate()
        assert made.process.wait(15) == 0
        assert not made.is_listening()
    assert made.log.read_text().count("INFO tornado_celery_bridge.service.process.server stopped") == 3


def test_processes_end_when_their_parent_is_killed(sample: dict[str, str], tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--processes", "2", **sample) as made:
        wait_for(lambda: made.log.read_text().count("serving http://") == 2)
        made.process.kill()
        wait_for(
            lambda: made.log.read_text().count("INFO tornado_celery_bridge.service.process.server stopped") == 2, 10
        )
        wait_for(lambda: not made.is_listening(), 5)


NOT_INSTALLED = {"CELERY_APP": "tests.sample", "SAMPLE_BROKER": "memory://", "SAMPLE_BACKEND": "redis://"}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_taken_port(sample: dict[str, str], processes: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = subprocess.run(
            [sys.executable, "-m", "tornado_celery_bridge", "serve", "--processes", processes],
            env=environment(PORT=str(taken.getsockname()[1]), **sample),
            capture_output=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 78
    assert b"cannot listen" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("processes", "settings", "complaint"),
    [
        ("1", {"BIND": "0.0.0.0"}, b"no API keys"),
        ("1", {"CALLBACK_ALLOW": "10.0.0.1/8"}, b"CALLBACK_ALLOW"),
        ("1", {"CALLBACK_SECRET_FILE": "/dev/null"}, b"CALLBACK_SECRET_FILE"),
        ("1", {"CELERY_APP": "no.such.module"}, b"CELERY_APP"),
        ("1", {"SAMPLE_LEDGER": "memcached://127.0.0.1"}, b"job_ledger_url"),
        ("1", NOT_INSTALLED, b"install(app)"),
        # What the first process finds, and what each of the others does.
        ("2", {"CALLBACK_ALLOW": "10.0.0.1/8"}, b"CALLBACK_ALLOW"),
        ("2", NOT_INSTALLED, b"install(app)"),
    ],
)
def test_a_setting_that_makes_no_sense_is_said_and_not_tried_again(
    processes: str, settings: dict[str, str], complaint: bytes
) -> None:
    given = {"SAMPLE_URL": "redis://127.0.0.1:1/0", "CELERY_APP": "tests.service.sample", "PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-m", "tornado_celery_bridge", "serve", "--processes", processes],
        env=environment(**given | settings),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 78
    assert complaint in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_1000_events_in_2_s_once_and_in_order_whatever_is_cut(sample: dict[str, str], tmp_path: Path) -> None:
    """The connection is cut three times, then the process is killed and another started in its place."""
    told: list[tuple[int, str, dict[str, Any]]] = []

    def listen(port: int, path: str, most: int) -> None:
        """Read on from the last event, as an EventSource does, until there are so many, or the end."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with closing(connection):
            connection.request("GET", path, headers={"Last-Event-ID": str(told[-1][0])} if told else {})
            stream = connection.getresponse()
            fields: dict[str, str] = {}
            while len(told) < most and (line := stream.readline()):
                if line != b"\n":
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    told.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                    fields = {}

    with serving(tmp_path / "log", **sample) as made:
        body = {"input": {"count": 1000, "seconds": 2}, "options": {"countdown": 0.5}}
        _, accepted = made.fetch("/v1/tasks/s.ticks/jobs", body)
        path = accepted["links"]["events"]
        for most in (100, 200, 300, 400):
            listen(made.port, path, most)
            assert len(told) == most
    with serving(tmp_path / "log", PORT=str(made.port), **sample):
        listen(made.port, path, 10_000)
    assert [number for number, _, _ in told] == list(range(1003))
    assert [kind for _, kind, _ in told] == ["state", "state", *["progress"] * 1000, "end"]
    assert [data["current"] for _, kind, data in told if kind == "progress"] == list(range(1, 1001))
    assert told[-1][2]["state"] == "SUCCESS"


def test_the_product_end_to_end(database: Database, tmp_path: Path) -> None:
    """The real tasks with the real settings, over a Unix socket's spelling of a URL being the installer's business."""
    settings = {"REDIS_URL": database.url, "DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with (
        worker("tasks", settings, tmp_path / "worker.log", "--concurrency", "2"),
        serving(tmp_path / "web.log", **settings) as made,
    ):
        status, done = made.fetch(
            "/v1/tasks/tasks.text.count_words/jobs",
            {"input": {"text": "the GPL and the text " * 3000, "top": 1}},
            Prefer="wait=20",
        )
        assert (status, done["result"]["top"]) == (200, [{"word": "the", "count": 6000}])
        _, done = made.fetch("/v1/tasks/tasks.data.profile_csv/jobs", {"input": {"csv": "a,b\n1\n"}}, Prefer="wait=20")
        assert done["error"]["detail"] == "line 2: 1 cells, but the header has 2"
        _, done = made.fetch("/v1/tasks/tasks.images.thumbnail/jobs", {"input": {"image": "AAAA"}}, Prefer="wait=20")
        assert "not one of JPEG" in done["error"]["detail"]
        status, refused = made.fetch("/v1/tasks/tasks.housekeeping.remove_old_files/jobs", {"input": {}})
        assert (status, refused["code"]) == (404, "unknown-task")


def test_readiness_and_the_doctor_say_the_same(server: Server, tmp_path: Path) -> None:
    settings = {"REDIS_URL": server.url, "DATA_DIR": str(tmp_path), "CELERY_APP": "tasks"}
    with serving(tmp_path / "log", **settings) as made:
        ready = made.fetch("/readyz?verbose")[1]
    broker = ready["broker"]
    assert broker["server"].startswith("Valkey 9.")
    words = [sys.executable, "-m", "tornado_celery_bridge", "doctor"]
    done = subprocess.run(words, env=environment(**settings), cwd=ROOT, capture_output=True, text=True, check=True)
    said = " ".join(done.stdout.split())
    assert f"broker {broker['server']} ({broker['url']}) " in said
    for name, phrase in broker["capabilities"].items():
        assert f" {name} {phrase} " in said
    assert all(f"{each['verdict']} {each['name']} {each['what']}" in said for each in ready["findings"])
