"""The supervisor as a process, watched through its output and its children's pids."""

import json
import os
import queue
import re
import select
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


DEADLINE = 30.0


class Up:
    """``tcb up`` in a folder, in a process of its own."""

    def __init__(self, data: Path, command: list[str], folder: Path, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        defaults = {"DATA_DIR": str(data / "data"), "PYTHONPATH": str(ROOT)}
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # by nohup, maybe; it would be so in the process, too
        self.process = subprocess.Popen(
            command,
            env=clean | defaults | environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        signal.signal(signal.SIGHUP, ignored)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def line(self, pattern: str) -> re.Match[str]:
        """Return the match of the next line that matches *pattern*; fail if the output ends or nothing comes."""
        deadline = time.monotonic() + DEADLINE
        while (line := self._queue.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        pytest.fail(f"no line matches {pattern!r} in:\n" + "\n".join(self.lines))

    def seen(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Return the match of the line that is the first to match *pattern*, or the second…, this one or an earlier."""
        found = [match for line in self.lines if (match := re.search(pattern, line))]
        while len(found) < times:
            found.append(self.line(pattern))
        return found[times - 1]

    def pid(self, name: str) -> int:
        """Return the pid that the line called *name* prints when it starts."""
        return int(self.line(rf"^{name} *\| pid (\d+)")[1])

    def signal(self, number: signal.Signals = signal.SIGINT) -> None:
        """Signal its process group, as a terminal does: the supervisor's, which its children are not in."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Return the exit status once it has ended, with all its output in ``lines``."""
        try:
            status = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail(
                "it does not end; its last words:\n" + "\n".join([*self.lines, *map(str, self._queue.queue)][-60:])
            )
        self._reader.join(DEADLINE)
        while (line := self._queue.get(timeout=DEADLINE)) is not None:
            self.lines.append(line)
        return status

    def close(self) -> None:
        for _ in range(3):  # end, and hurry
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
                time.sleep(0.1)  # two at once are one
        self.process.wait(DEADLINE)
        self._reader.join()
        assert self.process.stdout
        self.process.stdout.close()


VARIABLES = {
    *("PORT", "FLOWER_PORT", "BIND", "REDIS_URL", "BROKER_URL", "RESULT_BACKEND", "CELERY_APP", "API_KEYS_FILE"),
    *(
        "BROKER",
        "CALLBACK_ALLOW",
        "CALLBACK_SECRET_FILE",
        "DATA_DIR",
        "PYTHON",
        "MAKEFLAGS",
        "MAKELEVEL",
        "ALLOW_UNSAFE",
    ),
}


def gone(pid: int) -> bool:
    """Wait until process *pid* has ended; a zombie that its reaper has not fetched yet counts as ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], DEADLINE)[0])
    finally:
        os.close(descriptor)


def call(url: str, body: object = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


def run(web: str, task: str, **arguments: object) -> Any:
    status, job = call(f"{web}/v1/tasks/{task}/jobs", {"input": arguments}, Prefer="wait=30")
    assert (status, job["state"]) == (200, "SUCCESS"), job
    return job
