"""The supervisor with real processes: what `make up` promises of restarts, order, endings and refusals."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import free_port
from tests.up.processes import ROOT, Up, gone
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.up.project import read_procfile
from tornado_celery_bridge.up.supervisor import FIRST_DELAY, LONGEST_DELAY, STEADY, back_off

Start = Callable[..., Up]

#: Prints its pid and lives until told otherwise.
IDLE = "sh -c 'echo pid $$; exec sleep 1000'"
#: The same, with a child of its own in its process group.
PARENT = "sh -c 'echo pid $$; sh -c \"echo grandchild \\$\\$; exec sleep 1000\" & wait'"
#: Listens on PORT, as the web process does.
WEB = (
    "python -c \"import os, socket, signal; s = socket.create_server(('127.0.0.1', int(os.environ['PORT']))); "
    "print('pid', os.getpid()); signal.pause()\""
)
REDIS = "redis: tcb redis"


def client(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(30)
    made.connect(str(folder / "data" / "redis.sock"))
    return made


def ask(folder: Path, command: str) -> bytes:
    with client(folder) as connection:
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(1000)


def test_others_read_nothing_in_a_folder_that_was_there_before(up: Start, tmp_path: Path) -> None:
    (tmp_path / "data" / "appendonlydir").mkdir(mode=0o755, parents=True)
    up(REDIS).line("Ready to accept connections")
    assert ask(tmp_path, "SET secret value") == b"+OK\r\n"
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755
    data, found = tmp_path / "data", []
    for path in data.rglob("*"):
        inside = [path, *(parent for parent in path.parents if parent.is_relative_to(data) and parent != data)]
        if all(each.stat().st_mode & 0o007 for each in inside):
            found.append(path.name)
    assert [name for name in found if "heartbeat" not in name] == []
    assert list((data / "appendonlydir").iterdir())


def test_a_killed_process_is_back_within_two_seconds(up: Start) -> None:
    one = up(f"a: {IDLE}\nb: {IDLE}")
    victim = one.pid("a")
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    one.line("a was ended by SIGKILL; starting it again")
    assert one.pid("a") != victim
    assert time.monotonic() - killed < 2.0


def test_what_a_killed_process_leaves_behind_is_ended_before_it_is_started_again(up: Start) -> None:
    one = up(f"a: {PARENT}")
    victim, grandchild = one.pid("a"), int(one.line(r"grandchild (\d+)")[1])
    os.kill(victim, signal.SIGKILL)
    one.pid("a")
    assert gone(grandchild)


def test_one_that_keeps_dying_is_started_ever_more_rarely(up: Start) -> None:
    one = up("a: sh -c 'echo out; exit 3'")
    pauses = [float(one.line(r"a ended with status 3; starting it again in ([\d.]+) s")[1]) for _ in range(4)]
    assert pauses == sorted(pauses)
    assert pauses[0] == FIRST_DELAY
    assert pauses[3] > 4 * FIRST_DELAY


def test_one_that_cannot_be_ends_all_and_says_so(up: Start) -> None:
    one = up(f"a: {IDLE}\nweb: sh -c 'echo port taken; exit 78'", PORT=str(free_port()))
    one.line(r"web *\| port taken")
    one.line("web cannot run with these settings")
    assert one.end() == 1
    assert "all ended" in one.lines[-1]


def test_one_that_could_be_once_is_started_again(up: Start, tmp_path: Path) -> None:
    """A setting was edited while it ran, and may be corrected."""
    one = up(f"a: sh -c 'test -e {tmp_path}/ran && exit 78; touch {tmp_path}/ran; exit 1'")
    one.line("a ended with status 1; starting it again")
    one.line("a ended with status 78; starting it again")


def test_a_heartbeat_is_a_promise_only_of_who_gives_it(up: Start) -> None:
    one = up("a: sh -c 'touch $HEARTBEAT_FILE; echo pid $$; sleep 1000'\nb: " + IDLE, stale=1.0)
    pids = {one.pid("a"), one.pid("a")}
    assert len(pids) == 2
    assert not [line for line in one.lines if "b hangs" in line]


def test_back_off_has_an_end_and_forgives() -> None:
    delay = FIRST_DELAY
    for _ in range(20):
        pause, delay = back_off(delay, lived=0.0)
    assert pause == delay == LONGEST_DELAY
    assert back_off(LONGEST_DELAY, lived=20.0)[0] == LONGEST_DELAY - 20.0
    assert back_off(LONGEST_DELAY, lived=STEADY + 1) == (FIRST_DELAY, 2 * FIRST_DELAY)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(up: Start, tmp_path: Path, number: signal.Signals) -> None:
    one = up(f"{REDIS}\na: {PARENT}\nb: {IDLE}")
    one.line("Ready to accept connections")
    pids = [one.pid("a"), int(one.line(r"grandchild (\d+)")[1])]
    one.signal(number)
    assert one.end() == 0
    assert all(gone(pid) for pid in pids)
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert left == {"appendonlydir"}  # no socket, no pid file, no lock
    assert "all ended" in one.lines[-1]


def test_the_server_starts_first_and_ends_last(up: Start, tmp_path: Path) -> None:
    """What ends still reaches the server: a worker has messages to put back."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, redis, signal, sys\n"
        "server = redis.Redis(unix_socket_path=os.environ['DATA_DIR'] + '/redis.sock')\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('last', server.ping()), sys.exit()))\n"
        "print('first', server.ping())\n"
        "signal.pause()\n"
    )
    one = up(f"worker: python {script}\n{REDIS}")
    one.line("first True")
    one.signal()
    assert one.end() == 0
    text = "\n".join(one.lines)
    assert text.index("Ready to accept connections") < text.index("first True")
    assert text.index("last True") < text.index("Received SIGTERM scheduling shutdown")


def test_a_swallowed_term_is_sent_again_and_a_second_ctrl_c_hurries(up: Start) -> None:
    """Flower can swallow a TERM; the wait for its second one is cut short by whoever presses Ctrl-C again."""
    stubborn = "sh -c 'n=0; trap \"n=\\$((n+1)); echo term \\$n; [ \\$n = 2 ] && exit\" TERM; echo up; {}'"
    one = up("flower: " + stubborn.format("while :; do sleep 1000 & wait; done"))
    one.line(r"flower \| up")
    one.signal()
    one.line("term 1")
    one.signal()
    one.line("term 2")
    assert one.end() == 0
    assert not any("killing it" in line for line in one.lines)


def test_what_ignores_every_signal_is_killed(up: Start) -> None:
    one = up("a: sh -c 'trap \"\" TERM; echo pid $$; sleep 1000; sleep 1000'")
    pid = one.pid("a")
    one.signal()
    one.line("ending")
    one.signal()
    one.line("a does not end; killing it")
    assert one.end() == 0
    assert gone(pid)


def test_nothing_outlives_a_killed_supervisor(up: Start, tmp_path: Path) -> None:
    one = up(f"{REDIS}\na: {PARENT}")
    server = int(one.line(r"redis *\| (\d+):M .*Ready to accept")[1])
    pids = [server, one.pid("a"), int(one.line(r"grandchild (\d+)")[1])]
    one.signal(signal.SIGKILL)
    assert all(gone(pid) for pid in pids)
    one.end()
    # Its lock goes with the last of them, and the socket file it left does not matter.
    again = up(f"{REDIS}\na: {IDLE}")
    again.pid("a")
    assert ask(tmp_path, "PING") == b"+PONG\r\n"


def test_a_second_one_on_the_same_data_is_refused(up: Start, tmp_path: Path) -> None:
    one = up(f"a: {IDLE}")
    one.pid("a")
    other = up(f"a: {IDLE}")
    assert other.end() == 78
    assert len(other.lines) == 1
    assert f"another `tcb up` runs on {tmp_path / 'data'}" in other.lines[0]
    side_by_side = up(f"a: {IDLE}", DATA_DIR=str(tmp_path / "other"))
    side_by_side.pid("a")


@pytest.mark.parametrize(("name", "variable"), [("web", "PORT"), ("flower", "FLOWER_PORT")])
def test_a_taken_port_is_said_before_anything_starts(up: Start, name: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = up(f"a: {IDLE}\n{name}: {IDLE}", **{"PORT": str(free_port()), variable: str(port)})
        assert one.end() == 78
    assert len(one.lines) == 1
    assert f"port {port} on 127.0.0.1 cannot be used: Address already in use; set {variable}" in one.lines[0]


def test_a_bad_value_is_one_line(up: Start) -> None:
    one = up(f"a: {IDLE}", PORT="abc")
    assert one.end() == 78
    assert one.lines == ["tcb: PORT should be a whole number from 1 to 65,535, not 'abc'"]


def test_one_port_for_two_is_said(up: Start) -> None:
    one = up(f"a: {IDLE}", PORT="5555", FLOWER_PORT="5555")
    assert one.end() == 78
    assert one.lines == ["tcb: PORT and FLOWER_PORT are both 5555: give each its own"]


def test_the_embedded_server_keeps_its_data_over_a_kill(up: Start, tmp_path: Path) -> None:
    one = up(REDIS)
    server = int(one.line(r"redis *\| (\d+):M .*Ready to accept")[1])
    assert ask(tmp_path, "SET kept yes") == b"+OK\r\n"
    os.kill(server, signal.SIGKILL)
    one.line("redis was ended by SIGKILL; starting it again")
    one.line("Ready to accept connections")
    assert ask(tmp_path, "GET kept") == b"$3\r\nyes\r\n"
    assert ask(tmp_path, "CONFIG GET maxmemory-policy").endswith(b"noeviction\r\n")


def test_every_process_is_told_where_the_embedded_server_is(up: Start, tmp_path: Path) -> None:
    one = up(f"{REDIS}\na: sh -c 'echo its url: $REDIS_URL; exec sleep 1000'")
    one.line(rf"its url: redis\+socket://{tmp_path}/data/redis\.sock\?virtual_host=0$")


def test_two_servers_never_share_an_append_only_file(up: Start, tmp_path: Path) -> None:
    one = up(f"{REDIS}\nother: tcb redis")
    one.line(f"other .*embedded server: another one is running on {tmp_path / 'data'}")
    assert ask(tmp_path, "PING") == b"+PONG\r\n"


def test_no_embedded_server_beside_a_redis_url(up: Start, tmp_path: Path) -> None:
    one = up(f"{REDIS}\na: {IDLE}", REDIS_URL="redis://127.0.0.1:1/0")
    one.pid("a")
    one.signal()
    assert one.end() == 0
    assert not any(line.startswith("redis") for line in one.lines)


def test_it_says_where_to_look_once_it_listens(up: Start) -> None:
    port, flower_port = free_port(), free_port()
    one = up(f"web: {WEB}\nflower: {IDLE}", PORT=str(port), FLOWER_PORT=str(flower_port))
    one.line(rf"web       http://127.0.0.1:{port} ")
    one.line(rf"jobs      tcb run --url http://127.0.0.1:{port} TASK --wait$")
    one.line(rf"Flower    http://127.0.0.1:{port}/flower/$")
    one.signal()
    assert one.end() == 0


def test_a_reader_that_goes_away_stops_nothing(up: Start) -> None:
    """`make up | head`."""
    one = up("a: sh -c 'while :; do echo pid $$; sleep 0.05; done'")
    pid = one.pid("a")
    assert one.process.stdout
    os.close(os.dup2(os.open(os.devnull, os.O_RDONLY), one.process.stdout.fileno()) and os.dup(0))
    one.signal()
    assert one.process.wait(30) == 0
    assert gone(pid)


def test_a_line_without_end_is_cut_not_hoarded(up: Start) -> None:
    one = up("a: python -c \"print('x' * 200_000)\"")
    assert len(one.line("x+")[0]) < 150_000


def test_the_procfile_lists_the_five() -> None:
    commands = read_procfile(ROOT / "Procfile")
    assert list(commands) == ["redis", "web", "worker", "beat", "flower"]
    without = read_procfile(ROOT / "no such file")
    assert without == commands | {"web": f"{sys.executable} -m tornado_celery_bridge serve"}


def test_a_procfile_that_is_none_is_said(tmp_path: Path) -> None:
    path = tmp_path / "Procfile"
    path.write_text("# fine\n\nweb: tcb serve\nwhat is this\n")
    with pytest.raises(SettingsError, match="what is this"):
        read_procfile(path)
