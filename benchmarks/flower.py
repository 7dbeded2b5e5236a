"""Run Flower on a free port, and print the port when Flower answers."""

import subprocess
import sys
import urllib.request

from tests.servers import free_port, wait_for

port = free_port()
command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", "flower"]
flower = subprocess.Popen([*command, "--address=127.0.0.1", f"--port={port}"], stdout=subprocess.DEVNULL)


def answers() -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck").read())
    except OSError:
        return False


wait_for(answers)
print(port, flush=True)
flower.wait()
