"""`tcb up` over projects that were not written for it, and of which no line is changed."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery

from tests.servers import Database, free_port, wait_for
from tests.up.processes import ROOT, VARIABLES, Up, call, run
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.up import project, supervisor
from tornado_celery_bridge.up.supervisor import BROKER_VARIABLES
from tornado_celery_bridge.worker import install

PROJECTS = Path(__file__).parent / "projects"

Start = Callable[..., Up]


class Ports(NamedTuple):
    web: int
    flower: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web}"

    @property
    def variables(self) -> dict[str, str]:
        return {"PORT": str(self.web), "FLOWER_PORT": str(self.flower)}


@pytest.fixture
def ports() -> Ports:
    return Ports(free_port(), free_port())


def block(page: str, language: str) -> str:
    """Return the first block of code in a language on a page."""
    found = re.search(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def opening(one: Up) -> str:
    """Return what was said before the processes started, once they have."""
    one.line("stop      Ctrl-C")
    return "\n".join(line.partition("| ")[2] for line in one.lines if line.startswith("up "))


def test_first_steps(up: Start, tmp_path: Path, ports: Ports) -> None:
    """
    Celery's, as in docs/cli.md. With the lines that are said at the start, the app has what production asks for.

    ``--broker`` counts for more than each variable that Celery reads a broker from.
    """
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    code, command, shown = (block(page, language) for language in ("python", "sh", "text"))
    (tmp_path / "tasks.py").write_text(code)
    elsewhere = dict.fromkeys(BROKER_VARIABLES, "redis://127.0.0.1:1/0")
    one = up(None, *shlex.split(command)[2:], folder=tmp_path, **ports.variables, **elsewhere)
    said = opening(one)
    assert run(ports.url, "tasks.add", x=2, y=3)["result"] == 5
    expected = "\n".join(line.partition("|")[2].removeprefix(" ") for line in shown.splitlines())
    assert expected in said
    assert (tmp_path / "tasks.py").read_text() == code
    one.signal()
    assert one.end() == 0

    blocks = re.findall(r"^  (\S.*):\n((?:      .*\n)+)", said, re.MULTILINE)
    assert [where for where, _ in blocks] == [
        "beside the app",
        "beside the app, after its settings",
        "in the options of each task that is served",
    ]
    lines = "".join(code.replace("\n      ", "\n").lstrip() for _, code in blocks[:2])
    (tmp_path / "tasks.py").write_text(code.replace("\n@app.task", f"{lines}\n@app.task(exposed=True)"))
    status, told = tcb(tmp_path, "check", "-A", "tasks", BROKER_URL="redis://127.0.0.1:1/0")
    assert status == 0, told


def test_an_app_of_every_style(up: Start, tmp_path: Path, ports: Ports) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(PROJECTS / "styles", folder)
    options = ("--expose", "shop.*", "--broker", "redis", "-A", "shop:app")
    one = up(None, *options, folder=folder, **ports.variables)
    said = opening(one)
    assert "Procfile is left alone: no line of it starts with tcb." in said
    assert "task_always_eager=False," in said
    assert "queues    celery, declared, noted, routed, special\n" in said
    assert "do not answer: Error 111" in said
    one.seen(r"worker \| .* ready\.")

    mine = run(ports.url, "shop.early")["result"]
    assert f"pid={mine}" not in said
    assert mine not in {one.process.pid, os.getpid()}
    runs: list[tuple[str, dict[str, Any], Any]] = [
        ("is_ready", {}, True),
        ("routed", {"x": 1, "y": 2}, 3),
        ("declared", {}, "declared"),
        ("special", {}, "special"),
        ("shared", {"x": 4}, 8),
        ("Klass", {"a": 4}, 8),
        ("when", {}, "2026-01-01T00:00:00+00:00"),
        ("money", {}, {"d": "1.10"}),
        ("ignored", {"x": 1}, 1),
        ("total", {"numbers": [1, 2]}, 3),
    ]
    for task, input, result in runs:
        assert run(ports.url, f"shop.{task}", **input)["result"] == result, task
    job = run(ports.url, "shop.bound", x=3)
    assert job["result"] == [job["id"], 3]
    _, job = call(f"{ports.url}/v1/tasks/shop.anything/jobs", {"input": [1, 2]}, Prefer="wait=30")
    assert job["result"] == [[1, 2], {}]
    _, job = call(f"{ports.url}/v1/tasks/shop.flaky/jobs", {"input": {}}, Prefer="wait=30")
    assert (job["state"], job["attempt"]) == ("FAILURE", 2)

    # Its own schedule runs, and one of a class-based task that is made over HTTP.
    wait_for((folder / "noted").exists)
    entry = {"name": "k", "task": "shop.Klass", "input": {"a": 3}, "interval": 1}
    assert call(f"{ports.url}/v1/schedules", entry)[0] == 201

    def has_run() -> bool:
        _, document = call(f"{ports.url}/v1/schedules/k/runs")
        done = [each["job"]["links"]["self"] for each in document["runs"] if each["job"] and each["job"]["done"]]
        return bool(done) and call(f"{ports.url}{done[0]}")[1]["result"] == 6

    wait_for(has_run)
    url = f"redis+socket://{tmp_path}/data/redis.sock?virtual_host=0"
    asyncio.run(by_the_library(url))
    one.signal()
    assert one.end() == 0


async def by_the_library(url: str) -> None:
    app = Celery("caller", broker=url, backend=url, set_as_current=False)
    install(app)
    async with Bridge(app) as bridge:
        for way in (bridge.dispatch, bridge.submit):
            for name, args, result in [("Klass", (3,), 6), ("shared", (3,), 6), ("early", (), None)]:
                value = await (await way(app.signature(f"shop.{name}", args)))
                assert result is None or value == result
        body = await (await bridge.dispatch(app.signature("shop.canvas")))
        assert await bridge.get(body, timeout=20) == 6


# What is found out about an app, in a process of its own.


class Said(NamedTuple):
    status: int
    said: str
    found: Mapping[str, Any]


def tcb(folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    """Run a command in a project's folder; return its exit status and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "tornado_celery_bridge", *words],
        cwd=folder,
        env=clean(folder, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def clean(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**kept, "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), **environment}


def survey(folder: Path, code: str, *, is_allowed: bool = False, expose: str = "", **environment: str) -> Said:
    (folder / "proj.py").write_text(code)
    read_end, write_end = os.pipe()
    asked = {"expose": [expose] if expose else [], "starts": [EMBEDDED], "is_allowed": is_allowed}
    given = {"TCB_SURVEY": json.dumps(asked), "REDIS_URL": EMBEDDED, "CELERY_APP": "proj"} | environment
    done = subprocess.run(
        [sys.executable, "-m", "tornado_celery_bridge.cli.survey", str(write_end)],
        cwd=folder,
        env=clean(folder, given),
        pass_fds=[write_end],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write_end)
    with open(read_end) as answer:
        text = answer.read()
    return Said(done.returncode, done.stdout, json.loads(text or "{}"))


#: Not started: it is one of those that `tcb up` starts after the survey.
EMBEDDED = "redis+socket:///nowhere/redis.sock?virtual_host=0"


def app(broker: str, more: str = "", backend: str | None = None) -> str:
    return f"from celery import Celery\napp = Celery('proj', broker={broker!r}, backend={backend!r})\n{more}\n"


def test_a_broker_on_this_machine_whose_queues_are_empty(database: Database, tmp_path: Path) -> None:
    found = survey(tmp_path, app(database.url, "@app.task\ndef f(): pass")).found
    assert found["broker"] == {"url": database.url, "of_the_app": "", "is_local": True, "messages": {}}
    assert found["exposed"] == []
    assert found["result_backend"] == EMBEDDED


def test_messages_that_were_there_before(database: Database, tmp_path: Path) -> None:
    code = app(database.url, "@app.task(queue='other')\ndef f(): pass", database.url)
    sender = Celery(broker=database.url, set_as_current=False)
    sender.send_task("proj.f", queue="other")
    sender.close()
    found = survey(tmp_path, code).found
    assert found["broker"]["messages"] == {"other": 1}
    assert found["result_backend"] == ""  # its own is on this machine, and answers
    assert "job_ledger_url" not in json.loads(found["trial"])["settings"]


def test_servers_on_other_machines_are_not_used(tmp_path: Path) -> None:
    url = "redis://192.0.2.1:6379/0"  # of nobody: RFC 5737
    found = survey(tmp_path, app("memory://", backend=url), BROKER_URL=EMBEDDED).found
    assert found["result_backend"] == EMBEDDED
    assert "are not on this machine, and --yes would use them" in found["notes"][0]


def test_which_broker(tmp_path: Path) -> None:
    """BROKER_URL, else CELERY_BROKER_URL, else the app's: as every process reads it."""
    code = app("memory://the-apps")
    for found, host in [
        (survey(tmp_path, code, BROKER_URL="memory://one", CELERY_BROKER_URL="memory://other").found, "one"),
        (survey(tmp_path, code, CELERY_BROKER_URL="memory://other").found, "other"),
        (survey(tmp_path, code, BROKER_URL="memory://one", CELERY_BROKER_READ_URL="memory://read").found, "read"),
        (survey(tmp_path, code).found, "the-apps"),
    ]:
        assert found["broker"]["url"].rstrip("/") == f"memory://{host}"
        assert found["broker"]["trouble"] == "it keeps messages in the memory of one process"


@pytest.mark.parametrize(
    ("broker", "is_local"),
    [
        ("amqp://", True),
        ("redis://localhost:6379/0", True),
        ("redis+socket:///run/redis.sock", True),
        ("redis://:secret@redis:6379/0", False),
        ("amqps://user@broker.example.org/", False),
        ("sqs://", False),
        ("filesystem://", True),
    ],
)
def test_what_is_on_this_machine(broker: str, is_local: bool) -> None:
    from tornado_celery_bridge.cli.survey import is_local as looks_local

    assert looks_local(broker) == is_local


def test_what_can_not_be_mended_from_outside_is_said(database: Database, tmp_path: Path) -> None:
    more = """
app.conf.update(accept_content=["json", "pickle"], task_routes=[lambda *a, **k: None], beat_scheduler="mine:Scheduler")
@app.task(acks_late=False)
def f(): pass
app.conf.task_acks_late = True
"""
    found = survey(tmp_path, app(database.url, more, database.url), expose="proj.*").found
    assert [name for name, _ in found["unsafe"]] == ["pickle"]
    assert found["routers"] == ["<lambda>"]
    assert any("Beat runs mine:Scheduler" in note for note in found["notes"])
    assert any("set for proj.f as well" in note for note in found["notes"])
    assert found["exposed"] == ["proj.f"]


def test_a_broker_whose_transport_is_ours_alone(tmp_path: Path) -> None:
    said = survey(tmp_path, app("activemq://127.0.0.1:1", backend=EMBEDDED))
    assert said.status == 0, said.said
    assert "Connection refused" in said.found["broker"]["trouble"] or "connect" in said.found["broker"]["trouble"]
    assert "register('activemq')" in str(said.found["lines"])


def test_what_stands_in_nobodys_way(tmp_path: Path) -> None:
    """Several brokers, a route that is a class of the project's, a task that Celery would not send, noise, a thread."""
    more = """
import threading
print("noise")
threading.Thread(target=threading.Event().wait).start()
app.conf.update(broker_transport_options={"master_name": "m"}, task_create_missing_queues=False)
app.conf.task_routes = ["proj.Router", {"proj.g": "celery"}]
class Router:
    def route_for_task(self, task, args=None, kwargs=None): pass
@app.task(queue="undeclared")
def f(): pass
@app.task
def g(): pass
"""
    broker = "sentinel://:secret@127.0.0.1:1;sentinel://:hidden@127.0.0.1:2"
    said = survey(tmp_path, app(broker, more), expose="proj.*")
    assert (said.status, said.said) == (0, "noise\n")
    assert said.found["broker"]["is_local"]
    assert not re.search("secret|hidden", str(said.found))
    assert said.found["routers"] == ["Router"]
    assert said.found["exposed"] == ["proj.g"]
    assert "proj.f is not served: Queue 'undeclared' missing from task_queues." in said.found["notes"]


def test_nothing_is_set_for_an_app_that_has_it_all(tmp_path: Path) -> None:
    found = survey(tmp_path, complete(EMBEDDED)).found
    assert found["lines"] == []
    assert json.loads(found["trial"])["settings"] == {}


def complete(url: str) -> str:
    return f"""
from celery import Celery
from tornado_celery_bridge.transports import register
from tornado_celery_bridge.worker import install
register({url!r})
app = Celery("proj", broker={url!r}, backend={url!r})
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
app.conf.beat_scheduler = "tornado_celery_bridge.schedules:Scheduler"
install(app)
"""


# What `tcb up` does with it.


def test_a_broker_that_does_not_answer_is_a_sentence(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "proj.py").write_text(app("redis://127.0.0.1:1/0"))
    status, said = tcb(tmp_path, "-A", "proj", "up", **ports.variables)
    assert status == 1
    assert said.startswith("tcb: the broker of proj, redis://127.0.0.1:1/0, can't be used: Error 111 connecting")
    assert said.endswith("Start it, or try without it: tcb up -A proj --broker redis\n")
    assert said.count("\n") == 1


def test_an_app_that_can_not_be_imported_is_a_sentence(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "proj.py").write_text("import os\nos.environ['SECRET']\n")
    status, said = tcb(tmp_path, "up", "-A", "proj", **ports.variables)
    assert status == os.EX_CONFIG
    expected = "it can't be imported: the environment variable SECRET is not set (proj.py, line 2)"
    assert said == f"tcb: CELERY_APP=proj: {expected}\n"


def test_no_worker_takes_messages_of_others_without_yes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proj.py").write_text(app(database.url, "@app.task\ndef f(): pass", database.url))
    sender = Celery(broker=database.url, set_as_current=False)
    sender.send_task("proj.f")
    sender.close()
    monkeypatch.chdir(tmp_path)
    for name in (*VARIABLES, "TCB_TRIAL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "")
    for name, value in {"CELERY_APP": "proj", "REDIS_URL": database.url, "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    commands = project.read_procfile(tmp_path / "none")
    plan = project.plan(Settings.from_environment(), [], commands, project.Options())
    assert list(plan.commands) == ["redis", "web", "flower"]
    said = "\n".join(plan.opening)
    assert "NO WORKER AND NO BEAT: the broker holds messages that were there before (1 in celery)" in said
    assert "none is served over HTTP: --expose 'proj.*' serves those of that name" in said
    plan = project.plan(Settings.from_environment(), [], commands, project.Options(is_allowed=True))
    assert plan.commands == commands


@pytest.mark.nightly
def test_with_yes_a_worker_takes_them(up: Start, database: Database, tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "proj.py").write_text(app(database.url, "@app.task\ndef f(): pass", database.url))
    sender = Celery(broker=database.url, set_as_current=False)
    sender.send_task("proj.f")
    sender.close()
    options = ("-A", "proj", "--yes", "-Q", "celery", "-c", "1", "-n", "mine@here")
    one = up(None, *options, folder=tmp_path, **ports.variables)
    one.line(r"^worker *\| .* mine@here ready\.")
    with database.client() as client:
        wait_for(lambda: not client.llen("celery"))
    one.signal()
    assert one.end() == 0


def test_the_workers_options_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(supervisor, "main", lambda commands, *_, **options: given.update(commands) or 0)
    project.main(tmp_path / "none", project.Options(worker=["-Q", "a,b", "-n", "w;x@h", "-c", "2"]))
    assert given["worker"].endswith(" worker -Q a,b -n 'w;x@h' -c 2")
    assert given["beat"].endswith(" beat")


def test_a_procfile_of_ours_says_what_runs(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "Procfile").write_text("worker: tcb worker -c 1\n")
    status, said = tcb(tmp_path, "up", "--expose", "x.*", **ports.variables)
    assert status == os.EX_CONFIG
    assert "Procfile says what is run" in said
