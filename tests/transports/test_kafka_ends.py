"""Connections to Kafka end in threads of their own: no finalizer waits for librdkafka, nor does a process that ends."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.needs import missing
from tests.servers import wait_for
from tests.threads import takes
from tornado_celery_bridge.transports.kafka import handles

ROOT = Path(__file__).parents[2]

#: In place of the C library's own: a name server that is away.
SLOW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (node && strstr(node, "nowhere")) {
        sleep(10);
        return EAI_AGAIN;
    }
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, found);
}
"""


@pytest.fixture
def slow_names(tmp_path: Path) -> Path:
    """A library that makes looking up `nowhere` take ten seconds, in C."""
    compiler = shutil.which("cc") or missing("no C compiler")
    source, made = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(SLOW)
    subprocess.run([str(compiler), "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"], check=True)
    return made


def test_a_broker_whose_name_does_not_resolve(slow_names: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(slow_names), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tests.transports.kafka_unresolved", "kafka://nowhere:9092", "6"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout is not None
    try:
        late, threads = process.stdout.readline().split()
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        wait_for(lambda: process.poll() is not None, 20)
        assert time.monotonic() - begun < 8  # the bridge's close_timeout is 5 s
        assert float(late) < 0.1
        assert int(threads) < 100
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_threads_leave_signals_to_the_main_thread() -> None:
    """Else TERM ends a process of Celery's pool while it holds a lock of the whole pool, and blocks TERM for that."""
    handle = handles.make(Producer, {"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    try:
        [cleaner] = [each for each in threading.enumerate() if each.name == "kafka-cleaner"]
        assert not takes(cleaner, signal.SIGTERM)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        handles.end(handle, 5)
