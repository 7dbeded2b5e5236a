"""What is in deploy/ is what the systems that read it understand."""

import configparser
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.needs import missing
from tests.servers import Server, wait_for
from tornado_celery_bridge.up.brokers.apt import ensure

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "deploy" / "systemd"
NAMES = ["tcb-web.service", "tcb-worker@1.service", "tcb-beat.service"]


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``systemd-analyze`` on the units, with a program that is here in the place of theirs."""
    if not shutil.which("systemd-analyze") and not ensure("systemd"):
        missing("systemd-analyze")
    shutil.copytree(UNITS, folder, dirs_exist_ok=True)
    for file in folder.glob("*.service"):
        file.write_text(file.read_text().replace("/srv/jobs/.venv/bin/tcb", "/bin/true"))
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    done = analyze(tmp_path, "verify", "tcb.target", *NAMES)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_line_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "wrong.service").write_text("[Service]\nExecStart=/bin/true\nProtectEverything=yes\n")
    assert "ProtectEverything" in analyze(tmp_path, "verify", "wrong.service").stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_units_leave_little_open(tmp_path: Path, name: str) -> None:
    done = analyze(tmp_path, "security", "--offline=yes", "--threshold=15", name)  # 1.5 of 10
    assert done.returncode == 0, done.stdout


def test_the_manifests_name_commands_settings_and_ports_that_exist() -> None:
    items = yaml.safe_load((ROOT / "deploy/kubernetes/tcb.yaml").read_text())["items"]
    deployments = [item for item in items if item["kind"] == "Deployment"]
    pods = [each["spec"]["template"] for each in deployments]
    commands = [container["args"] for pod in pods for container in pod["spec"]["containers"]]
    assert commands == [["serve"], ["worker"], ["beat"]]
    (service,) = (item for item in items if item["kind"] == "Service")
    assert service["spec"]["selector"] == pods[0]["metadata"]["labels"]
    for name in ("autoscaling.yaml", "../compose.yaml"):
        assert yaml.safe_load((ROOT / "deploy/kubernetes" / name).read_text())


#: An app of somebody's, with the settings that a worker needs.
APP = """
import os

from celery import Celery

from tornado_celery_bridge.worker import install

app = Celery("own", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
install(app)
"""


def is_ready_or_over(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    return b" ready." in log.read_bytes() or process.poll() is not None


def test_a_worker_of_the_unit_is_stopped_and_started_again_with_its_state(server: Server, tmp_path: Path) -> None:
    """Its line is run as systemd would: with WORKER_OPTIONS in words, and its own signal to stop it."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(UNITS / "tcb-worker@.service")
    service = unit["Service"]
    options = "--queues=mail,of-this-test --concurrency=1 --without-gossip --without-mingle"
    line = service["ExecStart"].replace("%i", "first").replace("%%", "%").replace("$WORKER_OPTIONS", options).split()
    assert line[0].endswith("/tcb")
    words = [sys.executable, "-m", "tornado_celery_bridge", *line[1:]]
    url = f"redis://127.0.0.1:{server.port}/13"
    (tmp_path / "own.py").write_text(APP)
    environment = {"REDIS_URL": url, "DATA_DIR": str(tmp_path), "CELERY_APP": "own", "PYTHONPATH": str(ROOT)}
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    systemd.settimeout(60)
    environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"}
    for number in range(2):
        log = tmp_path / f"{number}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(words, env={**os.environ, **environment}, stdout=out, stderr=out, cwd=tmp_path)
        try:
            wait_for(functools.partial(is_ready_or_over, process, log), 60)
            assert process.poll() is None, log.read_text()
            assert systemd.recv(64) == b"WATCHDOG=1"
            process.send_signal(getattr(signal, service["KillSignal"]))
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
        said = log.read_text()
        assert re.search(r"\bfirst@\S+ ready\.", said)
        assert "of-this-test" in said
        assert "can't be read" not in said
        assert list(tmp_path.glob("worker-first*")), "its state"
    systemd.close()
