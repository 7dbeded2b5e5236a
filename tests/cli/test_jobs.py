"""The commands for jobs, over HTTP and in the ledger: what they write, and how they end."""

import http.server
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, free_port, wait_for, worker
from tests.service.processes import serving
from tests.service.site import environment
from tornado_celery_bridge.cli import jobs
from tornado_celery_bridge.cli.client import Event, Http, NotInTime
from tornado_celery_bridge.cli.jobs import Display
from tornado_celery_bridge.cli.main import main

Tcb = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def product(databases: Iterator[Database], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The service and a worker; the value is the variables of a client in both ways."""
    folder = tmp_path_factory.mktemp("jobs")
    url = next(databases).url
    settings = {"SAMPLE_URL": url, "CELERY_APP": "tests.service.sample:app", "REDIS_URL": url, "DATA_DIR": str(folder)}
    settings["SAMPLE_STORE"] = f"file://{folder}/store"
    with ExitStack() as stack:
        stack.enter_context(
            worker("tests.service.sample", environment(**settings), folder / "worker.log", "--concurrency", "3")
        )
        web = stack.enter_context(serving(folder / "web.log", **settings))
        yield settings | {"TCB_URL": f"http://127.0.0.1:{web.port}"}


@pytest.fixture(params=["HTTP", "ledger"])
def tcb(request: pytest.FixtureRequest, product: Mapping[str, str]) -> Tcb:
    """Run ``tcb``, which asks the service or the ledger."""
    variables = dict(product)
    if request.param == "ledger":
        del variables["TCB_URL"]

    def run(*words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tornado_celery_bridge", *words]
        done = environment(**variables)
        return subprocess.run(command, env=done, input=given, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_a_job_from_beginning_to_end(tcb: Tcb, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("[3]")
    which = ("--tag", "cli", "--queue", "websample", "--priority", "7")
    ran = tcb("run", "s.steps", "--input", f"@{tmp_path}/input", *which, "--wait")
    assert (ran.returncode, ran.stdout) == (0, "3\n")
    assert re.search(r"PENDING  s\.steps in websample\n.*STARTED\n(.*\n)*progress  3/3  step 3\n", ran.stderr)
    assert re.search(r"SUCCESS  after \d", ran.stderr)

    failed = tcb("run", "s.fail", "--input", "-", "--wait", given=json.dumps({"message": "my\x1b[2J\nown"}))
    assert (failed.returncode, failed.stdout) == (3, "")
    assert failed.stderr.endswith("tcb: builtins.ValueError: my\\u001b[2J\nown\n")

    (listed,) = tcb("list", "--task", "s.fail", "--state", "failure", "-n", "1", "--json").stdout.splitlines()
    job = json.loads(listed)
    assert (job["task"], job["state"]) == ("s.fail", "FAILURE")
    table = tcb("list", "--tag", "cli", "--since", "2026-01-01").stdout.splitlines()
    assert table[0].split() == ["id", "task", "state", "queue", "accepted", "ran", "input"]
    assert table[1].split()[1:4] == ["s.steps", "SUCCESS", "websample"]

    steps = json.loads(tcb("list", "--tag", "cli", "-n", "1", "--json").stdout)
    assert (steps["task"], steps["priority"]) == ("s.steps", 7)

    again = tcb("retry", job["id"], "--wait", "--json")
    assert again.returncode == 3
    made = json.loads(again.stdout)
    assert (made["error"]["detail"], made["links"]["retry_of"]) == ("my\x1b[2J\nown", f"/v1/jobs/{job['id']}")


def test_several_that_are_retried_are_waited_for_together(tcb: Tcb, product: Mapping[str, str]) -> None:
    """One after the other, as they are named. The worst end is the status."""
    client = Http(product["TCB_URL"])
    given: list[tuple[str, Any]] = [("s.add", [1, 2]), ("s.fail", ["mine"]), ("s.add", [3, 4])]
    ended = [client.submit(task, input, {})["id"] for task, input in given]
    assert [[*client.follow(job_id, 30)][-1].kind for job_id in ended] == ["end"] * 3
    done = tcb("retry", *ended[:2], "never-was", ended[2], "--wait")
    assert (done.returncode, done.stdout.split()) == (3, ["3", "7"])
    assert re.search(r"^tcb: never-was: [Tt]here is no job", done.stderr, re.MULTILINE)
    made = re.findall(r"^job (\S+)$", done.stderr, re.MULTILINE)
    assert made == made[:3] * 2  # all at first, and each before what becomes of it
    assert [client.get(job_id)["links"]["retry_of"] for job_id in made[:3]] == [f"/v1/jobs/{each}" for each in ended]
    assert re.search(rf"^job {made[1]}\n(.*\n)*tcb: builtins.ValueError: mine\n\njob {made[2]}$", done.stderr, re.M)
    as_json = tcb("retry", made[2], made[0], "--wait", "--json", "--timeout", "30")
    again = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (as_json.returncode, [job["result"] for job in again]) == (0, [7, 3])
    late = tcb("watch", made[0], "--timeout", "0")  # it looks once
    assert (late.returncode, late.stdout) == (0, "3\n")


def test_the_time_to_wait_is_for_all_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed: list[float] = []

    class NeverEnding(Http):
        def retry(self, job_id: str) -> dict[str, Any]:
            return {"id": f"again-{job_id}"}

        def get(self, job_id: str) -> dict[str, Any]:
            return {"done": False}

        def follow(self, job_id: str, timeout: float | None) -> Iterator[Event]:
            assert timeout is not None
            allowed.append(timeout)
            time.sleep(timeout)
            raise NotInTime
            yield

    monkeypatch.setattr(jobs, "connect", lambda: NeverEnding("http://127.0.0.1:1"))
    assert main(["retry", "a", "b", "--wait", "--timeout", "0.05"]) == 5
    first, second = allowed
    assert 0 < first <= 0.05
    assert second == 0
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "goes on" in line] == [
        f"tcb: job again-{each} has not ended after 0.05 s, and goes on" for each in "ab"
    ]


def test_waiting_ends_and_the_job_goes_on_until_it_is_cancelled(tcb: Tcb) -> None:
    made = tcb("run", "s.add", "--input", '{"x": 1}', "--countdown", "600")
    job_id = made.stdout.strip()
    late = tcb("watch", job_id, "--timeout", "0.5")
    assert (late.returncode, late.stderr.splitlines()[-1]) == (
        5,
        f"tcb: job {job_id} has not ended after 0.5 s, and goes on",
    )
    cancelled = tcb("cancel", "never-was", job_id)
    assert (cancelled.returncode, cancelled.stdout) == (1, f"{job_id} REVOKED\n")
    assert re.match(r"tcb: never-was: [Tt]here is no job", cancelled.stderr)
    assert tcb("watch", job_id).returncode == 4
    watched = tcb("watch", job_id, "--json")
    assert watched.returncode == 4
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [event["event"] for event in events] == ["state", "end"]
    assert events[-1]["data"]["state"] == "REVOKED"


def test_items_are_shown_as_they_come(tcb: Tcb) -> None:
    done = tcb("run", "s.yields", "--input", "[2]", "--wait")
    assert (done.returncode, done.stdout) == (0, '"done"\n')
    assert 'item 1  {"x": 0, "y": 0}\nitem 2  {"x": 1, "y": 0}\n' in done.stderr


def test_a_job_that_runs_is_told_to_end(
    product: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TCB_URL", product["TCB_URL"])
    client = Http(product["TCB_URL"])
    job_id = client.submit("s.nap", [50], {})["id"]
    wait_for(lambda: client.get(job_id)["state"] == "STARTED")
    assert main(["cancel", job_id, "--terminate"]) == 0
    assert re.fullmatch(rf"{job_id} (STARTED: it is told, and has not ended yet|REVOKED)\n", capsys.readouterr().out)
    assert main(["watch", job_id]) == 4


def test_a_large_result_is_written_as_any_other(tcb: Tcb) -> None:
    """It is beside Redis, in the store."""
    done = tcb("run", "s.letters", "--input", "[300000]", "--wait")
    assert (done.returncode, json.loads(done.stdout)) == (0, "x" * 300_000)


def test_ctrl_c_ends_the_waiting_alone(product: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "tornado_celery_bridge", "run", "s.add", "--input", "[1]", "--wait"]
    command += ["--countdown", "600"]
    process = subprocess.Popen(command, env=environment(**product), stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert "PENDING" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    found = re.fullmatch(r"tcb: job (\S+) goes on: tcb watch \1, or tcb cancel \1\n+", said)
    assert found, said
    assert Http(product["TCB_URL"]).cancel(found[1], terminate=False)["state"] == "REVOKED"  # it did go on


def test_watching_goes_on_over_a_restart_of_the_service(product: Mapping[str, str], tmp_path: Path) -> None:
    there = {**product, "PORT": str(free_port()), "DATA_DIR": str(tmp_path)}
    there["TCB_URL"] = f"http://127.0.0.1:{there['PORT']}"
    with serving(tmp_path / "first.log", **there):
        job_id = Http(there["TCB_URL"]).submit("s.add", [1, 2], {"countdown": 600})["id"]
        command = [sys.executable, "-m", "tornado_celery_bridge", "watch", job_id]
        process = subprocess.Popen(command, env=environment(**there), stderr=subprocess.PIPE, text=True)
        assert process.stderr
        said = process.stderr.readline()
    with serving(tmp_path / "second.log", **there):
        Http(product["TCB_URL"]).cancel(job_id, terminate=False)
        said += process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert re.fullmatch(r"\S+  PENDING  s\.add in websample\n\S+  REVOKED\ntcb: .*\n", said), said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "s.nothing"), "s.add"),  # what there is
        (("run", "s.add", "--input", "{"), "not JSON"),
        (("run", "s.add", "--input", "3"), "an object of named arguments or a list of positional ones"),
        (("run", "s.add", "--input", "@/nowhere"), "No such file"),
        (("run", "s.add", "--input", '{"z": 1}'), "z"),
        (("watch", "never-was"), "no job"),
        (("run", "s.add", "--timeout", "3"), "--timeout is for --wait"),
        (("retry", "never-was", "--timeout", "3"), "--timeout is for --wait"),
        (("run", "s.add", "--countdown", "1e18"), "is not in the range 0<=x<=31622400"),
        (("list", "--state", "DONE"), "not a state: 'DONE'; they are PENDING, STARTED"),
        (("list", "--since", "yesterday"), "not a time: 'yesterday'"),
    ],
)
def test_what_is_wrong_is_a_sentence(tcb: Tcb, words: tuple[str, ...], said: str) -> None:
    done = tcb(*words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal_there_is_a_bar(product: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "tornado_celery_bridge", "run", "s.steps", "--input", "[4]", "--wait"]
    main_end, terminal = pty.openpty()
    process = subprocess.Popen(
        command, env=environment(**product, COLUMNS="80"), stdout=subprocess.PIPE, stderr=terminal
    )
    os.close(terminal)
    written = b""
    while select.select([main_end], [], [], 30)[0]:
        try:
            written += os.read(main_end, 4096)
        except OSError:  # Linux's end of file of a terminal
            break
    os.close(main_end)
    assert (process.communicate(timeout=30)[0], process.returncode) == (b"4\n", 0)
    frames = written.decode().split("\r\x1b[K")
    bars = [frame for frame in frames if "/4  step" in frame]
    assert any(bar.count("━") == 30 and "100%  4/4  step 4" in bar for bar in bars)
    assert all(len(bar) < 80 for bar in bars)
    assert "\x1b[32mSUCCESS\x1b[0m" in frames[-1]  # the bar is gone before it


def test_top(product: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "tornado_celery_bridge", "top", "--once"]
    shown = subprocess.run(command, env=environment(**product), capture_output=True, text=True, timeout=60, check=True)
    head, *tables = shown.stdout.strip().split("\n\n")
    assert head.startswith(product["TCB_URL"])
    rows = [[line.split() for line in table.splitlines()] for table in tables]
    assert [row[0][0] for row in rows] == ["jobs", "last", "queue", "worker"]
    assert "websample" in [row[0] for row in rows[2]]
    assert any(row[1:2] == ["3"] for row in rows[3])  # its slots


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "shown"), [("", "\x1b[32mSUCCESS"), ("1", "  SUCCESS")])
def test_without_colours_if_asked(monkeypatch: pytest.MonkeyPatch, no_color: str, shown: str) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    now = "2026-11-30T08:00:00Z"
    job = {"id": "1", "state": "SUCCESS", "done": True, "created_at": now, "started_at": now, "finished_at": now}
    Display(out := Terminal()).show(Event("end", job))
    assert shown in out.getvalue()


def test_no_time_is_shown_that_nobody_told() -> None:
    """A job that was given back waits again: its events say when it was accepted and when its last attempt began."""
    then = "2026-11-30T08:00:00Z"
    job = {"id": "1", "task": "s.add", "queue": "q", "done": False, "created_at": then, "finished_at": None}
    display = Display(out := io.StringIO())
    for state, attempt, started in [
        ("PENDING", 0, None),
        ("STARTED", 1, then),
        ("PENDING", 1, then),
        ("RETRY", 1, then),
    ]:
        display.show(Event("state", job | {"state": state, "attempt": attempt, "started_at": started}))
    lines = [re.sub(r"^\d\d:\d\d:\d\d", "clock", line) for line in out.getvalue().splitlines()]
    assert lines == ["clock  PENDING  s.add in q", "clock  STARTED", f"{'':8}  PENDING  again in q", f"{'':8}  RETRY"]


def test_a_service_that_is_away_or_wants_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TCB_URL", "http://127.0.0.1:1")
    assert main(["list"]) == 1
    assert "tcb: http://127.0.0.1:1: [Errno 111] Connection refused" in capsys.readouterr().err
    monkeypatch.setenv("TCB_URL", "localhost")
    assert main(["list"]) == os.EX_CONFIG
    assert "as in http://127.0.0.1:8888" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "kind", "body", "said"),
    [
        (200, "text/html", b"<h1>hello</h1>", "no (JSON|events)"),
        (200, "application/json", b"[]", "no (JSON object|events)"),
        (404, "text/html", b"<h1>nothing here</h1>", "404 Not Found"),
    ],
)
@pytest.mark.parametrize("words", ["list", "run x", "watch x", "cancel x", "top --once"])
def test_another_server_is_not_taken_for_the_service(
    code: int,
    kind: str,
    body: bytes,
    said: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("TCB_URL", url)
        assert main(words.split()) == os.EX_CONFIG
        server.shutdown()
    assert re.fullmatch(rf"tcb: {url}/v1/\S+ answers {said}: is that the service\?\n", capsys.readouterr().err)


def test_an_answer_that_is_lost_is_no_second_job(product: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    client = Http(product["TCB_URL"])
    answers: list[Any] = []
    whole = client.fetch

    def loses_the_first(*args: Any, **headers: str) -> Any:
        answers.append(whole(*args, **headers))
        if len(answers) == 1:
            from click import ClickException

            raise ClickException("connection reset")
        return answers[-1]

    monkeypatch.setattr(client, "fetch", loses_the_first)
    assert client.submit("s.add", [1, 2], {})["id"] == answers[0]["id"]
    assert len(answers) == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_TCB_COMPLETE" in capsys.readouterr().out


def test_the_shell_is_told_the_tasks(product: Mapping[str, str]) -> None:
    asked = {"_TCB_COMPLETE": "bash_complete", "COMP_WORDS": "tcb run s.st", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "tornado_celery_bridge"],
        env=environment(**product, **asked),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert {"plain,s.steps", "plain,s.stay"} <= {*done.stdout.split()}


def test_a_job_that_waits_is_changed(
    product: Mapping[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Http(product["TCB_URL"])
    job_id = client.submit("s.add", [1], {"countdown": 600})["id"]
    monkeypatch.setenv("TCB_URL", product["TCB_URL"])
    assert main(["change", job_id, "--hold", "--priority", "7"]) == 0
    assert re.fullmatch(rf"{job_id} in websample, priority 7, due .+, on hold\n", capsys.readouterr().out)
    assert main(["change", job_id, "--release", "--eta", "now", "--input", "[40, 2]", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held"] is False
    assert [*client.follow(job_id, 30)][-1].data["result"] == 42
    assert main(["change", job_id, "never-was", "--hold"]) == 1
    assert "SUCCESS" in capsys.readouterr().err
    assert main(["change", job_id]) == 2


def test_many_at_once(tcb: Tcb, product: Mapping[str, str]) -> None:
    """Named by what they are: counted, and then done; in the ledger this process carries the operation on itself."""
    client, tag = Http(product["TCB_URL"]), f"many-{time.time()}"
    made = [client.submit("s.add", [number], {"tags": [tag], "countdown": 600})["id"] for number in range(3)]
    which = ("--tag", tag, "--queue", "websample")
    counted = tcb("cancel", *which, "--dry-run")
    assert (counted.returncode, counted.stdout) == (0, "3 of 3 would be cancelled\n")
    done = json.loads(tcb("cancel", *which, "--yes", "--json").stdout)
    assert (done["acted"], done["skipped"], done["state"]) == (3, {}, "DONE")
    again = tcb("retry", *which, "--state", "revoked", "--since", "2026-01-01", "--yes")
    assert (again.returncode, again.stdout) == (0, "3 of 3 submitted again\n")
    new = [*client.find(9, tag=[tag], queue="websample")]
    retried = [job["links"]["retry_of"] for job in new if "retry_of" in job["links"]]
    assert sorted(retried) == sorted(f"/v1/jobs/{job_id}" for job_id in made)
    ends = [[*client.follow(job["id"], 30)][-1].data["state"] for job in new if "retry_of" in job["links"]]
    assert ends == ["SUCCESS"] * 3
    one = tcb("delete", made[0])
    assert (one.returncode, one.stdout) == (0, f"{made[0]} deleted\n")
    assert tcb("delete", *which, "--yes").stdout == "5 of 5 deleted\n"
    assert [*client.find(9, tag=[tag])] == []
