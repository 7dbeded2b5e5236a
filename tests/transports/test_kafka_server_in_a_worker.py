"""Workers on Apache Kafka itself: what they do when it is away, when it refuses them, and when they are to end."""

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Signature

from tests.faults.harness import Program
from tests.servers import Server, free_port, wait_for, worker
from tests.servers.kafka import ApacheKafka, need_kafka
from tests.transports.kafka_client import Consuming, accept, connected, length, publish
from tests.transports.kafka_sample import make_app
from tornado_celery_bridge.ledger import Ledger

#: One that says nothing by itself, so that what it logs is about the broker.
QUIET = ("--without-gossip", "--without-mingle", "-c", "2")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    if not ApacheKafka.available():
        need_kafka()
    users = {"celery": "secret", "nobody": "secret"}
    settings = {"super.users": "User:ANONYMOUS;User:celery"}
    made = ApacheKafka(tmp_path_factory.mktemp("kafka"), settings, users=users, acls=True).start()
    yield made
    made.stop()


def environment(broker_url: str, server: Server) -> dict[str, str]:
    return {"SAMPLE_BROKER": broker_url, "SAMPLE_BACKEND": server.url, "SAMPLE_MARKS": server.url, "SAMPLE_LEDGER": "1"}


@pytest.mark.parametrize("allowed", ["", "no-permission,no-topic"], ids=["as-it-starts", "as-it-connects"])
@pytest.mark.parametrize(
    ("user", "query", "missing"),
    [
        ("nobody", "", r"the user lacks the permission Create on topic 'plain'"),
        ("celery", "?replication=3&topic_prefix=three.", r"with replication=3: .*only 1 broker"),
    ],
)
def test_a_worker_that_is_refused_ends_and_says_why(
    broker: ApacheKafka, server: Server, user: str, query: str, missing: str, allowed: str
) -> None:
    """One line says it, and the exit status says that starting it again is of no use."""
    words = [sys.executable, "-m", "celery", "-A", "tests.transports.kafka_sample", "worker", *QUIET, "-l", "INFO"]
    url = broker.url_of(user, "secret", query)
    given = {**os.environ, **environment(url, server), "ALLOW_UNSAFE": allowed}
    done = subprocess.run(words, env=given, capture_output=True, text=True, timeout=100, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == os.EX_CONFIG, said
    assert len([line for line in said.splitlines() if re.search(f"CRITICAL.*{missing}", line)]) == 1, said
    assert "Traceback" not in said


def test_a_broker_that_is_away_is_no_flood(broker: ApacheKafka, server: Server, tmp_path: Path) -> None:
    """A few lines tell of an outage, whatever is to be published meanwhile; all of that runs once it is over."""
    app, log = make_app(broker.url, server.url), tmp_path / "log"
    with (
        worker("tests.transports.kafka_sample", environment(broker.url, server), log, *QUIET),
        server.client() as marks,
    ):
        for outage in (1, 2):
            before = log.stat().st_size
            broker.kill()
            jobs = [app.tasks["mark"].s(number).set(task_id=f"{outage}-{number}") for number in range(30)]
            asyncio.run(_to_be_published(app, jobs))
            wait_for(lambda before=before: b"job-publisher:" in log.read_bytes()[before:], 60)  # type: ignore[misc]
            time.sleep(3)  # for more of the same, if there were more
            broker.start()
            wait_for(lambda count=30 * outage: marks.llen("marks") >= count, 100)  # type: ignore[misc]
            said = log.read_bytes()[before:].decode()
            told = [line for line in said.splitlines() if re.search("WARNING|ERROR|CRITICAL", line)]
            assert "Traceback" not in said, said
            assert len([line for line in told if "is published again" not in line]) < 20, told
    app.close()


async def _to_be_published(app: Celery, jobs: Sequence[Signature[Any]]) -> None:
    """Have the keeper publish jobs now."""
    await accept(app, jobs)
    ledger = await asyncio.to_thread(Ledger, app)
    for each in jobs:
        assert await ledger.jobs.defer(each.options["task_id"], 1000)
    await ledger.close()


def test_whoever_waits_for_a_message_sees_that_the_worker_is_to_end(
    broker: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celery.worker import state

    with connected(broker.url) as connection:
        Consuming(connection, "empty")
        monkeypatch.setattr(state, "should_stop", 0)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=60)
        assert time.monotonic() - begun < 30


def test_flowers_broker_page_has_the_queues(broker: ApacheKafka, server: Server, tmp_path: Path) -> None:
    with connected(broker.url) as connection:
        publish(connection, "plain", 1)
        known = length(connection, "plain")
    settings = environment(broker.url, server) | {
        **{"CELERY_APP": "tests.transports.kafka_sample", "REDIS_URL": server.url},
        **{"DATA_DIR": str(tmp_path), "FLOWER_PORT": str(port := free_port())},
    }

    def see(path: str) -> str:
        try:
            secret = (tmp_path / "flower-password").read_text().strip()
            key = base64.b64encode(f"admin:{secret}".encode()).decode()
            url = f"http://127.0.0.1:{port}/flower{path}"
            with urllib.request.urlopen(
                urllib.request.Request(url, headers={"Authorization": f"Basic {key}"}), timeout=20
            ) as response:
                return str(response.read().decode())
        except OSError:
            return ""

    flower = Program(
        ["tornado_celery_bridge", "flower"],
        settings,
        tmp_path / "flower.log",
        lambda _: bool(see("/api/queues/length")),
    )
    try:
        flower.start()
        assert json.loads(see("/api/queues/length"))["active_queues"] == [{"name": "plain", "messages": known}]
        assert "plain" in see("/broker")
    finally:
        flower.kill()
