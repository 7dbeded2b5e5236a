"""The whole product as its user meets it: `make up`, a job by HTTP, Flower, Ctrl-C, and again."""

import base64
import io
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.servers import free_port, wait_for
from tests.up.processes import Up, call, gone, run


def family(pid: int) -> Iterator[int]:
    """Yield *pid* and the processes below it."""
    yield pid
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid:
            yield from family(int(path.parent.name))


def is_free(port: int) -> bool:
    with socket.create_server(("127.0.0.1", port)):
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_the_product(up: Callable[..., Up], tmp_path: Path) -> None:
    port, flower_port = free_port(), free_port()
    web, flower = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{flower_port}"
    first = up(PORT=str(port), FLOWER_PORT=str(flower_port))
    other = up(PORT=str(free_port()), FLOWER_PORT=str(free_port()), DATA_DIR=str(tmp_path / "other"))
    flower_here = first.line(r"Flower    (http://\S+)$")[1]
    first.line("stop      Ctrl-C")

    # A book, an image and a table.
    job = run(web, "tasks.text.count_words", text="To be, or not to be. " * 5000, top=2)
    assert job["result"] == {
        "total": 30_000,
        "distinct": 4,
        "top": [{"word": "be", "count": 10_000}, {"word": "to", "count": 10_000}],
    }
    picture = io.BytesIO()
    Image.new("RGB", (640, 480), "teal").save(picture, "PNG")
    _, schema = call(f"{web}/v1/tasks/tasks.images.thumbnail")
    assert "image" in schema["input"]["properties"], schema
    assert run(web, "tasks.images.thumbnail", image=base64.b64encode(picture.getvalue()).decode())["done"]
    assert run(web, "tasks.data.profile_csv", csv="a,b\n1,x\n2,\n")["done"]

    # Flower shows the worker and the job, through the web process; beside it only to whoever has the password.
    assert flower_here == f"{web}/flower/"
    assert call(f"{flower}/flower/api/workers")[0] == 401
    wait_for(lambda: call(f"{web}/flower/api/tasks")[1].get(job["id"], {}).get("state") == "SUCCESS")
    assert call(f"{web}/flower/api/workers?refresh=1")[1]

    # A worker that is killed is back. (What is sent while its connection dies may be lost: Redis hands it out.)
    def workers() -> set[int]:
        return {pid for pid in family(first.process.pid) if b"\0worker\0" in command(pid)}

    def command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    killed = workers()
    os.kill(min(killed), signal.SIGKILL)
    wait_for(lambda: workers() and not workers() & killed)
    assert run(web, "tasks.text.count_words", text="again")["result"]["total"] == 1

    # Another copy beside it knows nothing of this one's jobs.
    other_web = other.line(r"web       (http://\S+)")[1]
    other.line("stop      Ctrl-C")
    assert call(other_web + job["links"]["self"])[0] == 404
    assert run(other_web, "tasks.text.count_words", text="beside")["done"]

    # Ctrl-C leaves nothing running and nothing listening.
    everyone = [*family(first.process.pid), *family(other.process.pid)]
    assert len(everyone) > 12
    for one in (first, other):
        one.signal()
    for one in (first, other):
        one.end()
        assert "all ended" in one.lines[-1] or "all ended" in one.lines[-2], one.lines[-5:]
    assert all(gone(pid) for pid in everyone)
    assert is_free(port)
    assert is_free(flower_port)
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert not {name for name in left if name.endswith((".sock", ".pid", ".lock"))}

    # From the second start on it is ready within 10 s, and knows its finished jobs.
    started = time.monotonic()
    again = up(PORT=str(port), FLOWER_PORT=str(flower_port))
    again.line("stop      Ctrl-C")
    wait_for(lambda: call(f"{web}/readyz")[0] == 200)
    assert time.monotonic() - started < 10.0
    status, kept = call(web + job["links"]["self"])
    assert (status, kept["result"]) == (200, job["result"])

    # So does Flower.
    def is_known() -> bool:
        status, tasks = call(f"{web}/flower/api/tasks")
        return status == 200 and tasks.get(job["id"], {}).get("state") == "SUCCESS"

    wait_for(is_known)
    assert run(web, "tasks.text.count_words", text="after")["done"]

    # Ctrl-C twice hurries: within the time that an idle worker took for it before.
    again.signal()
    again.line("once more to hurry")
    again.signal()
    again.end()


def test_with_a_broker_of_its_own(up: Callable[..., Up]) -> None:
    """Apache Kafka, or its stand-in, as it says; the contract has the others (tests/conformance)."""
    port = free_port()
    web = f"http://127.0.0.1:{port}"
    one = up(PORT=str(port), FLOWER_PORT=str(free_port()), BROKER="kafka")
    broker_port = int(one.line(r"(?:Apache Kafka|Tansu).* listens, BROKER_URL=kafka://127\.0\.0\.1:(\d+)/")[1])
    one.line("stop      Ctrl-C")
    everyone = [*family(one.process.pid)]
    assert run(web, "tasks.text.count_words", text="over Kafka")["result"]["total"] == 2

    # Beat's jobs go through it, too.
    entry = {"task": "tasks.text.count_words", "input": {"text": "now and then"}, "interval": 1}
    assert call(f"{web}/v1/schedules", {"name": "often", **entry})[0] == 201

    def has_run() -> bool:
        _, document = call(f"{web}/v1/schedules/often/runs")
        return any((each["job"] or {}).get("state") == "SUCCESS" for each in document["runs"])

    wait_for(has_run)
    one.signal()
    one.end()
    assert any("all ended" in line for line in one.lines[-2:]), one.lines[-5:]
    assert all(gone(pid) for pid in everyone)
    assert is_free(port)
    assert is_free(broker_port)
