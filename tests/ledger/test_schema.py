"""A ledger of another version is left as it is, by who starts and by who runs already."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.ledger.records import accept, record
from tests.schedules.beats import Beat
from tests.servers import Database, wait_for
from tests.servers import worker as running_worker
from tornado_celery_bridge.ledger import Ledger, LedgerUnavailable
from tornado_celery_bridge.ledger.blocking import WorkerLedger
from tornado_celery_bridge.ledger.checks import check
from tornado_celery_bridge.ledger.schema import SCHEMA, AnotherSchema
from tornado_celery_bridge.ledger.upgrade import upgrade
from tornado_celery_bridge.worker import install

KEY = "pre.{tcb}schema"


def everything(database: Database) -> dict[bytes, Any]:
    with database.client() as client:
        return {key: client.dump(key) for key in client.scan_iter("*")}


def put(database: Database, schema: str) -> None:
    with database.client() as client:
        client.set(KEY, schema)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (str(SCHEMA + 1), "a newer version has upgraded it"),
        (str(SCHEMA - 1), "stop all processes of the older version, then run `tcb upgrade`"),
        (f"{SCHEMA - 1}>{SCHEMA}", "wait until `tcb upgrade` has ended"),
        ("?", "has schema ?"),
    ],
)
async def test_who_meets_another_schema_says_so_and_changes_nothing(
    found: str, said: str, app: Celery, ledger: Ledger, worker: WorkerLedger, database: Database
) -> None:
    await accept(ledger, record("before"), {})
    await asyncio.to_thread(put, database, found)
    before = await asyncio.to_thread(everything, database)
    with pytest.raises(LedgerUnavailable, match=said.replace("?", r"\?")):
        await accept(ledger, record("after"), {})
    with pytest.raises(LedgerUnavailable, match=said.replace("?", r"\?")):
        await ledger.ping()
    for call in (
        lambda: worker.start("before", "t", "token", worker="w@here"),
        lambda: worker.finish("before", "SUCCESS", 1),
        lambda: worker.lease("w@here", [], [], {}),
        lambda: worker.reconcile("me", 60.0, 100, []),
    ):
        with pytest.raises(AnotherSchema, match=said.replace("?", r"\?")):
            await asyncio.to_thread(call)
    (finding,) = [each for each in await asyncio.to_thread(check, app) if each.name == "other-schema"]
    assert finding.is_unsafe
    assert not finding.may_be_allowed
    assert said in str(finding)
    assert await asyncio.to_thread(everything, database) == before


async def test_an_empty_redis_is_the_first_ones(ledger: Ledger, database: Database) -> None:
    await ledger.ping()
    assert KEY.encode() not in await asyncio.to_thread(everything, database)
    await accept(ledger, record("a"), {})
    assert await ledger.redis.client.get(KEY) == str(SCHEMA).encode()


def test_there_is_nothing_to_upgrade_in_an_own_or_a_newer_ledger(app: Celery, database: Database) -> None:
    assert upgrade(app) == (SCHEMA, SCHEMA)
    put(database, str(SCHEMA + 1))
    with pytest.raises(AnotherSchema):
        upgrade(app)


def test_a_beat_ends(database: Database) -> None:
    app = Celery("beat", broker=database.url, backend=database.url, set_as_current=False)
    install(app)
    beat = Beat(app)
    assert beat.ask()
    beat.look()
    with database.client() as client:
        client.set("{tcb}schema", SCHEMA + 1)
    with pytest.raises(SystemExit) as ended:
        beat.tick()
    assert ended.value.code == os.EX_CONFIG
    beat.close()
    app.close()


def test_a_worker_that_runs_ends_and_one_that_starts_does_not(database: Database, tmp_path: Path) -> None:
    environment = {"SAMPLE_URL": database.url, "SAMPLE_LEDGER": database.url}
    log = tmp_path / "worker.log"
    with (
        running_worker("tests.ledger.sample", environment, log, "--concurrency", "1") as process,
        database.client() as client,
    ):
        client.set("{tcb}schema", SCHEMA + 1)
        wait_for(lambda: process.poll() is not None)
        assert "this worker ends: the ledger has schema" in log.read_text()
        assert process.returncode == os.EX_CONFIG
        before = client.dump("{tcb}workers")
        with (
            pytest.raises(AssertionError, match="a newer version has upgraded it"),
            running_worker("tests.ledger.sample", environment, log),
        ):
            pass
        assert client.dump("{tcb}workers") == before
