"""Two builds that differ in their schema, and one ledger: what docs/upgrading.md says, step by step."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import tornado_celery_bridge
from tests.ledger.sample import make_app
from tests.servers import Database, wait_for
from tornado_celery_bridge import Bridge
from tornado_celery_bridge.ledger import Job, LedgerUnavailable

ROOT = Path(__file__).parent.parent.parent
PACKAGE = Path(tornado_celery_bridge.__file__).parent

#: The step of the newer build, in which the keys ``input:…`` are called ``given:…``.
STEP = """
def given(client, prefix):
    for key in client.scan_iter(f"{prefix}input:*"):
        client.rename(key, key.replace(b"input:", b"given:"))


STEPS[1] = given
"""


class Build:
    """A build of the package, in a folder of its own."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        places = [str(folder), str(ROOT)]
        self.environment = {
            **os.environ,
            "SAMPLE_URL": database.url,
            "SAMPLE_LEDGER": database.url,
            "CELERY_APP": "tests.ledger.sample",
            "PYTHONPATH": os.pathsep.join(places),
        }

    def run(self, *words: str) -> tuple[int, str]:
        """Return the status and what is said, white space aside."""
        done = subprocess.run(
            [sys.executable, "-m", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def tcb(self, *words: str) -> tuple[int, str]:
        return self.run("tornado_celery_bridge", *words)

    @contextmanager
    def worker(self, queue: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        log = self.folder / f"{name}.log"
        words = ["celery", "-A", "tests.ledger.sample", "worker", "-l", "INFO", "-c", "1", "-Q", queue, "-n", name]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], env=self.environment, cwd=self.folder, stdout=out, stderr=out
            )
        try:
            wait_for(lambda: b" ready." in log.read_bytes() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def builds(tmp_path: Path, database: Database) -> tuple[Build, Build]:
    (tmp_path / "old").mkdir()
    new = tmp_path / "new"
    there = new / PACKAGE.name
    shutil.copytree(PACKAGE, there, ignore=shutil.ignore_patterns("__pycache__", "vendor"))
    schema = there / "ledger" / "schema.py"
    schema.write_text(schema.read_text().replace("SCHEMA = 1\n", "SCHEMA = 2\n"))
    for path in (*there.glob("ledger/lua/**/*.lua"), there / "ledger" / "jobs.py"):
        path.write_text(path.read_text().replace("input:", "given:"))
    with (there / "ledger" / "upgrade.py").open("a") as file:
        file.write(STEP)
    return Build(tmp_path / "old", database), Build(new, database)


@pytest.fixture
def app(database: Database) -> Iterator[Celery]:
    made = make_app(database.url, database.url)
    yield made
    made.close()


def everything(database: Database) -> dict[bytes, Any]:
    """Return all that does not end by itself."""
    with database.client() as client:
        return {key: client.dump(key) for key in client.scan_iter("*") if client.ttl(key) == -1}


async def submitted(app: Celery, *args: int) -> str:
    async with Bridge(app) as bridge:
        return (await bridge.submit("sample.add", args, queue="quiet")).id


async def read(app: Celery, job_id: str) -> Job:
    async with Bridge(app) as bridge:
        found = await bridge.ledger.jobs.get(job_id)
        assert isinstance(found, Job)
        return found


def test_a_release_with_another_schema(builds: tuple[Build, Build], app: Celery, database: Database) -> None:
    old, new = builds
    with old.worker("sample", "old@host"):
        job_id = asyncio.run(submitted(app, 2, 3))  # which waits, as no worker takes from this queue
        assert asyncio.run(read(app, job_id)).state == "PENDING"
        status, said = new.tcb("upgrade")  # too early
        assert status == 1
        assert "stop these first, with all other processes of the older version: worker" in said
    before = everything(database)
    status, said = new.run("celery", "-A", "tests.ledger.sample", "worker", "-c", "1")
    assert status == os.EX_CONFIG
    assert "stop all processes of the older version, then run `tcb upgrade`" in said
    assert everything(database) == before

    assert new.tcb("upgrade") == (0, "schema 1: now 2")
    assert new.tcb("upgrade") == (0, "schema 2: nothing to do")
    before = everything(database)
    status, said = old.run("celery", "-A", "tests.ledger.sample", "worker", "-c", "1")
    assert status == os.EX_CONFIG
    assert "a newer version has upgraded it" in said
    with pytest.raises(LedgerUnavailable, match="a newer version has upgraded it"):
        asyncio.run(submitted(app, 1, 1))
    assert everything(database) == before

    with new.worker("quiet", "new@host"):
        assert app.AsyncResult(job_id).get(timeout=30) == 5
