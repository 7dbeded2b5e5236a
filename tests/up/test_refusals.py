"""The product with something unsafe: none of its processes starts, and `tcb check` says what, and how."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import Server, free_port
from tests.up.processes import ROOT, VARIABLES

SERVE = ["tornado_celery_bridge", "serve"]
CHECK = ["tornado_celery_bridge", "check"]
DOCTOR = ["tornado_celery_bridge", "doctor"]


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps nothing."""
    made = Server(tmp_path_factory.mktemp("redis"), "--appendonly", "no").start()
    yield made
    made.stop()


def run(words: list[str], folder: Path, **settings: str) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment = clean | {"DATA_DIR": str(folder), "PORT": str(free_port()), "COLUMNS": "100"} | settings
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ended.stdout
    return ended.returncode, ended.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["tornado_celery_bridge", "serve"],
        ["tornado_celery_bridge", "serve", "--processes", "2"],
        ["celery", "-A", "tasks", "worker", "--pool", "solo"],
        ["celery", "-A", "tasks", "beat", "--pidfile="],
    ],
)
def test_none_starts(forgetful: Server, tmp_path: Path, words: list[str]) -> None:
    status, said = run(words, tmp_path, REDIS_URL=forgetful.url)
    assert status == os.EX_CONFIG
    assert "no-aof: Redis" in said
    assert "ALLOW_UNSAFE=no-aof" in said


@pytest.mark.parametrize("words", [SERVE, CHECK, ["celery", "-A", "tasks", "worker", "--pool", "solo"]])
def test_a_name_that_is_none_is_said(forgetful: Server, tmp_path: Path, words: list[str]) -> None:
    status, said = run(words, tmp_path, REDIS_URL=forgetful.url, ALLOW_UNSAFE="aof")
    assert status == os.EX_CONFIG
    assert "ALLOW_UNSAFE=aof: there is only no-aof" in said


def test_the_table(forgetful: Server, tmp_path: Path) -> None:
    settings = {"REDIS_URL": forgetful.url, "BROKER_URL": "redis://:secret@127.0.0.1:1/0"}
    status, said = run(DOCTOR, tmp_path, **settings)
    assert status == 1
    lines = said.splitlines()
    assert lines[0].startswith("UNSAFE   no-aof          the ledger's Redis (redis://127.0.0.1:")
    assert "                         or ALLOW_UNSAFE=no-aof" in lines
    assert any(
        line.startswith("unwise   no-answer       the broker's Redis (redis://:**@127.0.0.1:1/0) ") for line in lines
    )
    assert any(line.startswith("ok                       no-transport, no-results, no-ledger, ") for line in lines)
    assert any(line.startswith("not asked                other-schema, ") for line in lines)
    assert lines[-2] == "1 unsafe, 1 allowed or unwise"
    assert max(map(len, lines)) <= 100
    assert "secret" not in said
    status, said = run(DOCTOR, tmp_path, REDIS_URL=forgetful.url, ALLOW_UNSAFE="no-aof")
    assert status == 0
    assert "allowed  no-aof " in said


@pytest.mark.parametrize("broker", ["", "amqp://"])
def test_the_product_as_it_is_delivered_is_safe(tmp_path: Path, broker: str) -> None:
    server = Server(tmp_path / "redis").start()  # of its own: no worker of another test's answers
    try:
        status, said = run(CHECK if broker else DOCTOR, tmp_path, REDIS_URL=server.url, BROKER_URL=broker)
    finally:
        server.stop()
    assert status == 0
    found = [line.split()[1] for line in said.splitlines() if line.startswith(("UNSAFE", "unwise", "allowed"))]
    assert found == ([] if broker else ["no-worker"])  # none is started here


def test_an_app_without_the_ledger(server: Server, tmp_path: Path) -> None:
    settings = {"CELERY_APP": "tests.sample", "SAMPLE_BROKER": server.url, "SAMPLE_BACKEND": server.url}
    status, said = run(DOCTOR, tmp_path, **settings)
    assert status == 1
    assert [line.split()[1] for line in said.splitlines() if line.startswith("UNSAFE")] == [
        "early-acks",
        "lost-fails",
        "no-install",
    ]


def test_the_doctor_calls_nothing_ok_that_it_could_not_ask(server: Server, tmp_path: Path) -> None:
    away = f"127.0.0.1:{free_port()}"
    brokers = [f"amqp://{away}//", f"kafka://{away}", f"activemq://{away}"]
    given = [{"REDIS_URL": f"redis://{away}/0"}, *({"REDIS_URL": server.url, "BROKER_URL": url} for url in brokers)]
    with ThreadPoolExecutor() as threads:
        done = [*threads.map(lambda settings: run(DOCTOR, tmp_path, **settings), given)]
    for status, said in done:
        assert status == 1, said
        rows = {line[:9].strip(): " ".join(line.split()) for line in said.splitlines() if line[:9].strip()}
        assert "no-aof" in rows["not asked"]
        assert "no-aof" not in rows["ok"]
        assert rows["a server"].endswith("did not answer: ask again when it does")
        assert "0 unsafe" in said


@pytest.mark.parametrize("command", ["serve", "worker", "beat", "doctor"])
def test_all_agree_about_an_app_as_it_is_and_say_all_at_once(server: Server, tmp_path: Path, command: str) -> None:
    """With no result backend: what runs a task can't do without, and what a trial of it alone would not show."""
    (tmp_path / "plain.py").write_text(f"from celery import Celery\napp = Celery('plain', broker={server.url!r})\n")
    settings = {"CELERY_APP": "plain", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    status, said = run(["tornado_celery_bridge", command], tmp_path, **settings)
    assert status == (1 if command == "doctor" else os.EX_CONFIG)
    said = " ".join(said.split())
    for line in (
        "app.conf.update(result_backend='redis://localhost:6379/0')",
        "app.conf.update(job_ledger_url='redis://localhost:6379/0')",
        "app.conf.update(task_acks_late=True)",
        "app.conf.update(task_reject_on_worker_lost=True)",
        "from tornado_celery_bridge.worker import install; install(app)",
    ):
        assert line in said
