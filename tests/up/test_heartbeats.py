"""The supervisor with the real web, worker and beat: what is killed, hangs, waits for a server, or can't be."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Server, free_port, wait_for
from tests.up.processes import ROOT, Up
from tornado_celery_bridge.up.project import read_procfile

Start = Callable[..., Up]
COMMANDS = read_procfile(ROOT / "Procfile")
#: Seconds: some touches of a heartbeat.
STALE = 10.0
READY = {"web": "serving http://", "worker": r" ready\.", "beat": "beat: Starting"}


def line(name: str) -> str:
    """The product's own line of the Procfile, saying its pid."""
    options = " --concurrency 1 --without-gossip --without-mingle" if name == "worker" else ""
    return f"{name}: sh -c 'echo pid $$; exec {COMMANDS[name]}{options}'"


def beats(folder: Path, name: str) -> Callable[[], bool]:
    return (folder / "data" / f"{name}.heartbeat").exists


def test_what_hangs_is_started_again(up: Start, server: Server, tmp_path: Path) -> None:
    names = ("web", "worker", "beat")
    one = up("\n".join(map(line, names)), stale=STALE, REDIS_URL=server.url, PORT=str(free_port()))
    for name in names:
        one.seen(READY[name])
        wait_for(beats(tmp_path, name))
    pids = [int(one.seen(rf"^{name} *\| pid (\d+)")[1]) for name in names]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    for name in names:
        one.seen(f"{name} hangs: no heartbeat for 10 s; killing it")
        one.seen(f"{name} was ended by SIGKILL; starting it again")
        assert STALE - 2 < time.monotonic() - stopped < STALE + 2
    for name in names:
        one.seen(READY[name], times=2)
        wait_for(beats(tmp_path, name))
        assert int(one.seen(rf"^{name} *\| pid (\d+)", times=2)[1]) not in pids
    one.signal()
    assert one.end() == 0
    assert not [name for name in names if beats(tmp_path, name)()]


def test_a_killed_worker_is_back_within_two_seconds(up: Start, server: Server) -> None:
    one = up(line("worker"), REDIS_URL=server.url)
    pid = one.pid("worker")
    one.line(READY["worker"])
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    assert one.pid("worker") != pid
    assert time.monotonic() - killed < 2.0
    one.line(READY["worker"])


@pytest.mark.parametrize("fault", [pytest.param(Server.kill, marks=pytest.mark.nightly), Server.freeze])
def test_who_waits_for_a_server_does_not_hang(
    own_server: Server, up: Start, tmp_path: Path, fault: Callable[[Server], None]
) -> None:
    """Beat, too, which has something to publish each second."""
    (tmp_path / "busy.py").write_text(
        "from tasks.celery import app\n"
        "app.conf.beat_schedule = {'often': {'task': 'tasks.housekeeping.remove_old_files', 'schedule': 1.0}}\n"
    )
    one = up(
        "\n".join(map(line, ("web", "worker", "beat"))),
        stale=STALE,
        REDIS_URL=own_server.url,
        PORT=str(free_port()),
        CELERY_APP="busy",
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    )
    for _ in range(2):
        one.line("Task tasks.housekeeping.remove_old_files.* succeeded")
    one.seen(READY["web"])  # what starts without a server is another story
    fault(own_server)
    time.sleep(1.5 * STALE)  # nothing happens, and that is the event
    if fault is Server.kill:
        own_server.start()
    else:
        own_server.thaw()
    one.line("job-[a-z]+: .*; it tries again")
    one.line("Task tasks.housekeeping.remove_old_files.* succeeded")
    one.signal()
    one.end()
    assert not [each for each in one.lines if "hangs" in each or "starting it again" in each]


def test_nothing_runs_where_something_is_unsafe(own_server: Server, up: Start) -> None:
    with own_server.client() as client:
        client.config_set("appendonly", "no")
    one = up(line("worker"), REDIS_URL=own_server.url)
    one.line("no-aof: Redis .*; or ALLOW_UNSAFE=no-aof")
    one.line("worker cannot run with these settings")
    assert one.end() == 1
    allowed = up(line("worker"), REDIS_URL=own_server.url, ALLOW_UNSAFE="no-aof")
    allowed.line("no-aof: Redis")
    allowed.line(READY["worker"])
    allowed.signal()
    assert allowed.end() == 0
