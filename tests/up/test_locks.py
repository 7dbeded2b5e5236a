"""The locks: by hash, of no particular registry, and of what pyproject.toml asks for."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.up.processes import ROOT, VARIABLES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def lock(name: str) -> dict[str, list[str]]:
    """Return each pinned requirement of a lock with its hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8").replace("\\\n", "")
    entries = (line.split() for line in text.splitlines() if not line.startswith("#"))
    pins = (" ".join(entry).partition(" --hash=") for entry in entries)
    return {pin.strip(): re.findall(r"sha256:[0-9a-f]{64}", hashes) for pin, _, hashes in pins}


def group(name: str) -> list[str]:
    items = PROJECT["dependency-groups"][name]
    return [line for item in items for line in (group(item["include-group"]) if isinstance(item, dict) else [item])]


EXTRAS = PROJECT["project"]["optional-dependencies"]
#: What `make up` may need: the service, each broker's client, and what the sample's tasks import.
SERVICE = [
    *PROJECT["project"]["dependencies"],
    *(line for extra in ("service", "kafka", "activemq") for line in EXTRAS[extra]),
    *group("sample"),
]


@pytest.mark.parametrize("name", ["service", "kafka-server", "dev", "test"])
def test_a_lock_names_no_place_and_has_every_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text("utf-8")
    assert "://" not in text
    assert " @ " not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    assert all(lock(name).values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("service", SERVICE),
        ("kafka-server", [*SERVICE, *group("kafka-server")]),
        ("dev", [*SERVICE, *group("dev")]),
        ("test", [*PROJECT["project"]["dependencies"], *group("test")]),
    ],
)
def test_a_lock_pins_what_the_project_asks_for(name: str, wanted: list[str]) -> None:
    pinned = {canonicalize_name(pin.name): pin for pin in map(Requirement, lock(name))}
    for requirement in map(Requirement, wanted):
        version = str(pinned[canonicalize_name(requirement.name)].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}: run `make lock`"


def test_the_service_brings_no_brokers_client_and_nothing_of_the_sample() -> None:
    names = {Requirement(line).name for line in EXTRAS["service"]}
    assert not names & {Requirement(line).name for line in [*EXTRAS["kafka"], *EXTRAS["activemq"], *group("sample")]}


@pytest.mark.parametrize("name", ["service", "kafka-server", "test"])
def test_everything_runs_on_the_same_versions(name: str) -> None:
    part, whole = ({pin.split(" ")[0]: hashes for pin, hashes in lock(one).items()} for one in (name, "dev"))
    assert part == {pin: whole.get(pin) for pin in part}


#: Imports what the five processes import, with every distribution that the lock lacks made invisible. (kombu 5.7
#: imports packaging, which only its extra "redis" asks for and which every development tool brings along.)
ONLY_THE_LOCK = """
import importlib.metadata, sys
from packaging.utils import canonicalize_name

locked = set(sys.argv[1:])
owners = importlib.metadata.packages_distributions()
hidden = {name for name, of in owners.items() if not locked & {canonicalize_name(one) for one in of}}
for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
    del sys.modules[name]

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is not in service.lock", name=name)

sys.meta_path.insert(0, Hide())
import flower.command
from tornado_celery_bridge.cli import main
from tornado_celery_bridge.up import embedded, supervisor
from celery.bin import beat, worker
from tasks.celery import app

app.loader.import_default_modules()
app.connection().transport
app.backend
assert "kombu.transport.redis" in sys.modules
assert "pytest" in hidden
"""


def test_the_service_imports_nothing_that_its_lock_lacks() -> None:
    names = [canonicalize_name(Requirement(pin).name) for pin in lock("service")]
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    subprocess.run([sys.executable, "-c", ONLY_THE_LOCK, *names], check=True, cwd=ROOT, env=clean)
