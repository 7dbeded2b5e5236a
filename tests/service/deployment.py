"""The service, a worker and beat, each as a Redis user of its own, and what people do with them."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.harness import Program
from tests.faults.sample import QUEUE
from tests.servers import Server, free_port, wait_for
from tornado_celery_bridge.ledger.permissions import PROCESSES

SAMPLE = "tests.conformance.sample"


class Deployment:
    """The service, a worker and beat, each as a user of its own."""

    def __init__(self, folder: Path, server: Server, rules: dict[str, str]) -> None:
        self.server, self.port = server, free_port()
        self.journal = Server(folder / "journal", "--appendonly", "no").start()
        with server.client() as client:
            for name, rule in rules.items():
                client.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rule.split())
        common = {"DATA_DIR": str(folder), "CELERY_APP": SAMPLE, "FAULTS_JOURNAL": self.journal.url}
        words = {
            "serve": ["tornado_celery_bridge", "serve"],
            "worker": ["tornado_celery_bridge", "worker", "-Q", QUEUE, "-c", "2", "-E"],
            "beat": ["tornado_celery_bridge", "beat"],
        }
        self.programs = {
            name: Program(
                words[name],
                common | {"REDIS_URL": self.url(name), "BROKER_URL": self.url(name), "PORT": str(self.port)},
                folder / f"{name}.log",
                self._sign_of(name),
            )
            for name in PROCESSES
        }
        for program in self.programs.values():
            program.spawn()
        for program in self.programs.values():
            program.wait_until_ready()

    def _sign_of(self, name: str) -> Callable[[Program], bool]:
        signs = {"worker": b" ready.", "beat": b"beat: Starting"}
        return (lambda program: program.said(signs[name])) if name in signs else lambda program: self.answers()

    def url(self, user: str) -> str:
        return f"redis://{user}:secret@127.0.0.1:{self.server.port}/0"

    def close(self) -> None:
        for program in self.programs.values():
            program.kill()
        self.journal.stop()

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read().decode()
            is_json = str(response.headers["Content-Type"]).startswith("application/json")
            return json.loads(text) if is_json else text

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.ask("/readyz"))
        return False

    def submit(self, task: str, options: dict[str, Any] | None = None, **given: Any) -> str:
        body = {"input": given, "options": options or {}}
        return str(self.ask(f"/v1/tasks/c.{task}/jobs", body)["id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        wait_for(lambda: self.ask(f"/v1/jobs/{job_id}")["done"], 60)
        job: dict[str, Any] = self.ask(f"/v1/jobs/{job_id}")
        return job


def use(made: Deployment) -> None:
    """Do what people do with it."""
    task = "/v1/tasks/c.add/jobs"
    assert made.ask(task, {"input": {"x": 1}}, Prefer="wait=30")["result"] == 2
    made.ask(task, {"input": {"x": 1}}, **{"Idempotency-Key": "one"})
    assert made.ended(made.submit("fail"))["state"] == "FAILURE"
    assert made.ended(made.submit("again", countdown=0.1))["state"] == "SUCCESS"
    assert made.ended(made.submit("goes_on"))["state"] == "SUCCESS"
    assert made.ended(made.submit("steps", {"tags": ["x"], "priority": 5}, count=3))["state"] == "SUCCESS"
    later = made.submit("add", {"countdown": 600}, x=1)
    assert made.ended(made.submit("add", {"countdown": 1}, x=1))["state"] == "SUCCESS"
    made.ask(f"/v1/jobs/{later}/cancel", {})
    running = made.submit("nap", seconds=60)
    wait_for(lambda: made.ask(f"/v1/jobs/{running}")["state"] == "STARTED", 30)
    made.ask(f"/v1/jobs/{running}/cancel", {"terminate": True})
    assert made.ended(running)["state"] == "REVOKED"
    made.ask(f"/v1/jobs/{running}/events")
    one = {"task": "c.add", "input": {"x": 1}}
    made.ask("/v1/batches", {"jobs": [one, one]})
    flow = made.ask(
        "/v1/workflows",
        {"chord": {"header": [one, one], "body": {"task": "c.total", "input": {}}}},
    )
    wait_for(lambda: made.ask(f"/v1/workflows/{flow['id']}")["done"], 30)
    (failed,) = made.ask("/v1/failures")["failures"]
    made.ask(f"/v1/failures/{failed['id']}/retry", {})
    made.ask("/v1/jobs?state=SUCCESS&limit=3")
    for path in ("statistics", "queues", "workers", "audit", "tasks", "schedules"):
        made.ask(f"/v1/{path}")
    made.ask("/metrics")
    made.ask("/readyz?verbose")
    for change, body in (("pause", {}), ("resume", {}), ("purge", {"confirm": QUEUE})):
        made.ask(f"/v1/queues/{QUEUE}/{change}", body)
    (worker,) = made.ask("/v1/workers")["workers"]
    for change in ("grow", "shrink"):
        made.ask(f"/v1/workers/{worker['name']}/{change}", {})
    made.ask("/v1/schedules", {"name": "often", "interval": 1, "task": "c.add", "input": {"x": 1}})
    wait_for(lambda: made.ask("/v1/schedules/often")["last_run"], 30)
    made.ask("/v1/schedules/often/run", {})
    made.ask("/v1/schedules/often/pause", {})
    made.ask("/v1/schedules/often/resume", {})
    made.ask("/v1/schedules/often", method="DELETE")
