"""``tcb serve`` as a process of its own."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import free_port, wait_for
from tests.service.site import environment


class Web:
    """A running ``tcb serve``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def fetch(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def log_in(self, key: str, **headers: str) -> str:
        """Return what the login page sets."""
        address = ("127.0.0.1", self.port)
        connection = http.client.HTTPConnection(*address, timeout=30)
        with contextlib.closing(connection):
            given = {"Content-Type": "application/x-www-form-urlencoded", **headers}
            connection.request("POST", "/login", urllib.parse.urlencode({"key": key}), given)
            return connection.getresponse().headers["Set-Cookie"]

    def read(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            return str(response.read().decode())

    def is_ready(self) -> bool:
        try:
            return self.fetch("/readyz")[0] == 200
        except OSError:
            return False

    def is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def serving(log: Path, *options: str, **settings: str) -> Iterator[Web]:
    port = int(settings.setdefault("PORT", str(free_port())))
    command = [sys.executable, "-m", "tornado_celery_bridge", "serve", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(**settings), stdout=out, stderr=out)
    made = Web(process, port, log)
    try:
        wait_for(lambda: made.is_ready() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield made
    finally:
        process.kill()
        process.wait()
