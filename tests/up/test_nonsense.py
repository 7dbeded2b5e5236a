"""A setting that makes no sense ends every process with a sentence and status 78, and no password is shown."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import Server
from tests.up.processes import ROOT, VARIABLES
from tornado_celery_bridge.base.settings import VARIABLES as KNOWN

#: What `#`, `?`, `/` and `[` in a password, and other slips, make of a URL; and a word of what is said.
URLS = {
    "redis://:hunter#sesame@127.0.0.1:1/0": "# is written %23",
    "redis://:hunter?sesame@127.0.0.1:1/0": "? is %3F",
    "redis://:hunter/sesame@127.0.0.1:1/0": "/ is %2F",
    "redis://:hunter[sesame@127.0.0.1:1/0": "[ is %5B",
    "redis://:hunter@127.0.0.1:port/0": "the port and Redis's database are numbers",
    "redis://127.0.0.1:99999/0": "the port and Redis's database are numbers",
    "redis://127.0.0.1:1/first": "the port and Redis's database are numbers",
    "redis://127.0.0.1:1/0?max_connections=5": "broker_transport_options",
    "rediss://127.0.0.1:1/0?ssl_cert_reqs=maybe": "needs ?ssl_cert_reqs=required",
    "rediss://": "needs ?ssl_cert_reqs=required",
    "sqs://": "can't be used",
    "redis:/127.0.0.1": "can't be used",
    "nonsense": "can't be used",
    "amqp://hunter:ses#ame@127.0.0.1:1//": "# is written %23",
    "sentinel://127.0.0.1:x": "the port and Redis's database are numbers",
}
PROCESSES = {
    "worker": ["celery", "-A", "tasks", "worker", "--pool", "solo"],
    "beat": ["celery", "-A", "tasks", "beat", "--pidfile="],
    "serve": ["tornado_celery_bridge", "serve"],
    "flower": ["tornado_celery_bridge", "flower"],
}


def run(words: list[str], folder: Path, **settings: str) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if name not in {*VARIABLES, *KNOWN}}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=clean | {"DATA_DIR": str(folder)} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


def is_refused(url: str, name: str, folder: Path, variable: str = "REDIS_URL") -> None:
    status, said = run(PROCESSES[name], folder, **{variable: url})
    assert status == os.EX_CONFIG, (url, name, said)
    assert "Traceback" not in said, (url, name, said)
    assert URLS[url] in " ".join(said.split()), (url, name, said)
    assert not any(part in said for part in ("hunter", "sesame", "ame@")), (url, name, said)


#: Each process with two of them: in `make nightly` each with all.
SOME = [(url, list(PROCESSES)[number % len(PROCESSES)]) for number, url in enumerate(list(URLS)[::2])]
ALL = [(url, name) for url in URLS for name in PROCESSES]


@pytest.mark.parametrize("pairs", [SOME, pytest.param(ALL, marks=pytest.mark.nightly)], ids=["some", "all"])
def test_a_url_that_makes_no_sense(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(is_refused, url, name, tmp_path) for url, name in pairs]:
            done.result()


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("worker", "LOG_FORMAT=xml", "LOG_FORMAT should be one of text, json, not 'xml'"),
        (
            "worker",
            "JOB_STORE_URL=nonsense://x",
            "job_store_url: the store can't be used: Protocol not known: nonsense",
        ),
        ("beat", "JOB_TTL=day", "JOB_TTL should be a whole number from 1 to 316,224,000, not 'day'"),
    ],
)
def test_another_setting_that_makes_no_sense(
    name: str, setting: str, said: str, server: Server, tmp_path: Path
) -> None:
    variable, _, value = setting.partition("=")
    status, told = run(PROCESSES[name], tmp_path, **{"REDIS_URL": server.url, variable: value})
    assert status == os.EX_CONFIG, told
    assert said in told
    assert "Traceback" not in told


def test_of_the_broker_alone(tmp_path: Path) -> None:
    is_refused("redis://127.0.0.1:1/first", "worker", tmp_path, "BROKER_URL")


def test_settings_tells_each_with_its_source_and_no_secret(tmp_path: Path) -> None:
    status, said = run(
        ["tornado_celery_bridge", "settings"],
        tmp_path,
        REDIS_URL="redis://:hunter#sesame@127.0.0.1:1/0",
        TCB_KEY="sesame",
        JOB_TTL="60",
        CELERY_BROKER_URL="redis://127.0.0.1:2/0",
    )
    assert status == 0, said
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line}
    assert rows["JOB_TTL"][:5] == ["JOB_TTL", "60", "environment", "86400", "s"]
    assert rows["PORT"][:4] == ["PORT", "8888", "default", "8888"]
    assert rows["REDIS_URL"][1] == "redis://…@127.0.0.1:1/0"
    assert rows["result_backend"] == ["result_backend", "redis://…@127.0.0.1:1/0", "celeryconfig"]
    assert rows["broker_url"] == ["broker_url", "redis://127.0.0.1:2/0", "CELERY_BROKER_URL"]
    assert "hunter" not in said
    assert "sesame" not in said
    status, said = run(["tornado_celery_bridge", "settings"], tmp_path, JOB_TTL="a day")
    assert status == os.EX_CONFIG
    assert "JOB_TTL should be a whole number from 1 to 316,224,000, not 'a day'" in said


def test_the_page_has_each_variable() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in KNOWN if f"`{name}`" not in page] == []
