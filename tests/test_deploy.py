"""What is in deploy/ is what the systems that read it understand."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.needs import missing
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
