"""``tcb``: its help, its options, its statuses, and what it hands on to Celery."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.concurrency import get_implementation

from tornado_celery_bridge import __version__
from tornado_celery_bridge.cli import celery
from tornado_celery_bridge.cli.main import COMMANDS, main
from tornado_celery_bridge.up import project

SETTINGS = (
    "CELERY_APP",
    "PORT",
    "FLOWER_PORT",
    "BROKER",
    "BROKER_URL",
    "FLOWER_BASIC_AUTH",
    "FLOWER_URL_PREFIX",
    "CELERY_CUSTOM_WORKER_POOL",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # options change them, and monkeypatch puts them back
    monkeypatch.setenv("DATA_DIR", str(tmp_path))


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the process would become."""
    made: list[str] = []
    monkeypatch.setattr(celery.os, "execv", lambda _, words: made.extend(words[1:]))  # type: ignore[attr-defined]
    before = os.umask(0o022)
    yield made
    os.umask(before)  # Flower's is another


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"Usage: tcb {name} " in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tornado-celery-bridge {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explode"], "No such command 'explode'"),
        (["serve", "--processes", "0"], "0 is not in the range 1<=x<=256"),
        (["up", "--port", "65536"], "65536 is not in the range 1<=x<=65535"),
        (["up", "--broker", "nats"], "'nats' is not one of 'redis', 'rabbitmq', 'kafka', 'activemq'"),
        (["top", "--every", "0"], "0.0 is not in the range 0.2<=x<=3600"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PORT", "eighty")
    for command in ("serve", "worker", "beat", "flower", "redis", "doctor", "up"):
        assert main([command]) == os.EX_CONFIG
        assert capsys.readouterr().err == "tcb: PORT should be a whole number from 1 to 65,535, not 'eighty'\n"


@pytest.mark.parametrize("option", [["--pool", "asyncio"], ["--pool=asyncio"], ["-P", "asyncio"], ["-Pasyncio"]])
def test_the_asyncio_pool_is_what_celery_calls_custom(words: list[str], option: list[str]) -> None:
    main(["worker", "-A", "proj", "-c", "1000", *option, "-Q", "asyncio"])
    assert words[-len(option) - 2 :] == [*(word.replace("asyncio", "custom") for word in option), "-Q", "asyncio"]
    assert get_implementation(os.environ["CELERY_CUSTOM_WORKER_POOL"]).__module__.endswith(".asyncio_pool")


@pytest.mark.parametrize("arguments", [["-A", "proj", "worker"], ["worker", "-A", "proj"], ["worker", "--app=proj"]])
def test_the_app_stands_before_or_after_the_command(arguments: list[str], words: list[str]) -> None:
    main([*arguments, "-c", "2", "-Q", "a,b", "--loglevel", "DEBUG"])
    assert words[:5] == ["-m", "celery", "-A", "tornado_celery_bridge.cli.deployment", "worker"]
    assert os.environ["CELERY_APP"] == "proj"
    assert words[-6:] == ["-c", "2", "-Q", "a,b", "--loglevel", "DEBUG"]


def test_worker_beat_and_flower_keep_their_files_in_data_dir(tmp_path: Path, words: list[str]) -> None:
    for command in ("worker", "beat", "flower"):
        main([command])
    assert f"--statedb={tmp_path}/worker-%n" in words
    assert f"--schedule={tmp_path}/celerybeat-schedule" in words
    assert "--pidfile=" in words  # a stale pid file must not keep beat from starting
    assert f"--db={tmp_path}/flower" in words
    assert "--address=127.0.0.1" in words
    password = (tmp_path / "flower-password").read_text().strip()
    assert os.environ["FLOWER_BASIC_AUTH"] == f"admin:{password}"
    assert not any(password in word for word in words)


def test_up_sets_what_its_children_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[project.Options] = []
    monkeypatch.setattr(project, "main", lambda _, options: given.append(options))
    monkeypatch.setenv("BROKER_URL", "amqp://elsewhere")
    words = "--port 9000 --flower-port 9001 --broker redis -Q a,b -n mine@here -c 3 --expose a.* --expose b.* --reload"
    assert main(["up", "-A", "proj.celery:app", *words.split()]) == 0
    assert given == [
        project.Options(("a.*", "b.*"), ["-Q", "a,b", "-n", "mine@here", "-c", "3"], is_allowed=False, reloads=True)
    ]
    assert {name: os.environ.get(name) for name in SETTINGS[:5]} == {
        **{"CELERY_APP": "proj.celery:app", "PORT": "9000", "FLOWER_PORT": "9001"},
        **{"BROKER": "redis", "BROKER_URL": None},
    }


@pytest.mark.parametrize("command", ["serve", "keys", "openapi"])
def test_without_the_extra_it_is_named(command: str) -> None:
    code = f"""
import sys
from collections.abc import Iterator
sys.modules["pydantic"] = None  # as if it were not installed
from tornado_celery_bridge.cli.main import main
sys.exit(main([{command!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == os.EX_CONFIG
    assert done.stderr == "tcb: pydantic is not installed: pip install 'tornado-celery-bridge[service]'\n"
