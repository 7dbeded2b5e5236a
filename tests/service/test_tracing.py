"""One trace over the processes that a request goes through: real ones, with OpenTelemetry's SDK."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database, wait_for, worker
from tests.service.processes import Web, serving
from tests.service.site import ROOT, environment
from tests.service.traces import PARENT, TRACE, TRACEPARENT

WORKER = ("--concurrency", "1", "--queues", "websample", "--without-gossip", "--without-mingle")


class Spans:
    """What the processes have exported, each span when it has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, **wanted: Any) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [span for span in found if wanted.items() <= span.items()]

    def wait_for(self, count: int, **wanted: Any) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.read(**wanted)) >= count)
        found = self.read(**wanted)
        assert len(found) == count, [span["name"] for span in found]
        return found

    def tree(self, trace: str, root: str | None) -> list[Any]:
        """Return what is below a span: the kind and the name of each, and what is below it."""
        below = [span for span in self.read(trace=trace) if span["parent"] == root]
        found = [[span["kind"], span["name"], *self.tree(trace, span["id"])] for span in below]
        return sorted(found, key=str)


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Spans:
    return Spans(tmp_path_factory.mktemp("spans") / "spans")


@pytest.fixture(scope="module")
def settings(databases: Iterator[Database], spans: Spans) -> dict[str, str]:
    url = next(databases).url
    return {"SAMPLE_URL": url, "SPANS_FILE": str(spans.path), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def web(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A web process and a worker that are traced."""
    folder = tmp_path_factory.mktemp("traced")
    with running("tests.service.traced", settings, folder) as made:
        yield made


@contextmanager
def running(app: str, settings: Mapping[str, str], folder: Path) -> Iterator[Web]:
    more = {"CELERY_APP": app, "CALLBACK_ALLOW": "127.0.0.1", "DATA_DIR": str(folder), **settings}
    with worker(app, settings, folder / "worker.log", *WORKER), serving(folder / "web.log", **more) as web:
        yield web


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that is called back: its URL, and the headers that it got."""
    calls: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/hooks/confidential?token=confidential", calls
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


def test_from_a_request_over_retries_to_the_callback(web: Web, spans: Spans, tmp_path: Path) -> None:
    with receiver() as (url, calls):
        body = {"input": {"path": str(tmp_path / "confidential")}, "options": {"callback_url": url}}
        headers = {"traceparent": TRACEPARENT, "Prefer": "wait=20"}
        assert web.fetch("/v1/jobs?tag=confidential")[0] == 200
        status, job = web.fetch("/v1/tasks/s.flaky/jobs", body, **headers)
        assert (status, job["state"], job["attempt"]) == (200, "SUCCESS", 3)
        (called,) = spans.wait_for(1, trace=TRACE, kind="CLIENT")
        (request,) = spans.wait_for(1, trace=TRACE, kind="SERVER")
        attempts = spans.wait_for(3, trace=TRACE, kind="CONSUMER")
    (published,) = spans.read(trace=TRACE, kind="PRODUCER")
    assert spans.tree(TRACE, PARENT) == [
        ["SERVER", "POST /v1/tasks/*/jobs", ["PRODUCER", "publish s.flaky", of_attempts("s.flaky", 3, POST)]]
    ]
    assert {request["pid"], published["pid"]} == {web.process.pid, called["pid"]}
    assert web.process.pid not in {attempt["pid"] for attempt in attempts}
    assert request.items() >= {
        *{"http.request.method": "POST", "http.route": "/v1/tasks/*/jobs", "url.scheme": "http"}.items(),
        *{"url.path": "/v1/tasks/s.flaky/jobs", "http.response.status_code": 200, "status": "UNSET"}.items(),
    }
    messaging = {"messaging.system": "celery", "messaging.message.id": job["id"], "celery.task_name": "s.flaky"}
    assert published.items() >= {**messaging, "messaging.operation.type": "send"}.items()
    of_each = messaging | {"messaging.operation.type": "process", "messaging.destination.name": "websample"}
    for number, attempt in enumerate(attempts):
        assert attempt.items() >= {**of_each, "celery.retries": number}.items()
        failed = {"celery.state": "RETRY", "status": "ERROR", "error.type": "OSError"}
        assert attempt.items() >= (failed if number < 2 else {"celery.state": "SUCCESS", "status": "UNSET"}).items()
    assert called.items() >= {"server.address": "127.0.0.1", "http.response.status_code": 200}.items()
    assert [call["traceparent"] for call in calls] == [f"00-{TRACE}-{called['id']}-01"]
    # Neither arguments nor results, what an exception says, queries, or the secret part of a URL.
    assert all(span["said"] == [None] for span in spans.read())
    assert "confidential" not in spans.path.read_text()
    assert "not yet" not in spans.path.read_text()


POST = ["CLIENT", "POST"]


def of_attempts(task: str, count: int, *then: Any) -> list[Any]:
    """Return a task's attempts, each below the one before, and what is below the last."""
    below = [of_attempts(task, count - 1, *then)] if count > 1 else list(then)
    return ["CONSUMER", f"process {task}", *below]


def test_a_workflow(web: Web, spans: Spans) -> None:
    trace = "1" * 32
    body = {"chain": [{"task": "s.headers"}, {"group": [{"task": "s.headers"}, {"task": "s.headers"}]}]}
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "Prefer": "wait=20"}
    status, workflow = web.fetch("/v1/workflows", body, **headers)
    assert (status, workflow["state"]) == (200, "SUCCESS")
    found = spans.wait_for(6, trace=trace, kind="CONSUMER")
    spans.wait_for(1, trace=trace, kind="SERVER")
    beside = [of_attempts("s.headers", 2)] * 2
    assert spans.tree(trace, PARENT) == [
        ["SERVER", "POST /v1/workflows", ["PRODUCER", "publish celery.chain", of_attempts("s.headers", 2, *beside)]]
    ]
    assert {span["status"] for span in found} == {"UNSET"}  # it asked to be run again, and did not fail


def test_errors(web: Web, spans: Spans) -> None:
    trace = "2" * 32
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    body = {"input": {"message": "confidential"}}
    assert web.fetch("/v1/tasks/s.fail/jobs", body, Prefer="wait=20", **headers)[1]["state"] == "FAILURE"
    assert web.fetch("/v1/jobs/none", **headers)[0] == 404
    (failed,) = spans.wait_for(1, trace=trace, kind="CONSUMER")
    assert failed.items() >= {"celery.state": "FAILURE", "status": "ERROR", "error.type": "ValueError"}.items()
    wait_for(lambda: len(spans.read(trace=trace, kind="SERVER")) == 2)
    assert {span["status"] for span in spans.read(trace=trace, kind="SERVER")} == {"UNSET"}  # the client's own fault
    assert "confidential" not in spans.path.read_text()


def test_a_trace_of_ones_own(web: Web, spans: Spans) -> None:
    status, job = web.fetch("/v1/tasks/s.headers/jobs", {}, Prefer="wait=20")
    (published,) = spans.wait_for(1, kind="PRODUCER", **{"messaging.message.id": job["id"]})
    (request,) = spans.wait_for(1, kind="SERVER", trace=published["trace"])
    assert (status, request["parent"], published["parent"]) == (200, None, request["id"])
    assert job["result"]["traceparent"].split("-")[1] == request["trace"]


def test_the_library(web: Web, spans: Spans, settings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tests.service.traced_library"]
    said = subprocess.check_output(command, cwd=ROOT, env=environment(**settings), text=True, timeout=120)
    assert said.split("\n") == ["plain 3", "by name 3", "canvas 13", "submitted 3", ""]
    add = ["CONSUMER", "process s.add"]
    for name, below in {
        "plain": ["PRODUCER", "publish s.add", add],
        "by name": ["PRODUCER", "publish s.add", add],
        "submitted": ["PRODUCER", "publish s.add", add],
    }.items():
        (own,) = spans.wait_for(1, name=name)
        spans.wait_for(1, trace=own["trace"], kind="CONSUMER")
        assert spans.tree(own["trace"], own["id"]) == [below]
    (own,) = spans.wait_for(1, name="canvas")
    spans.wait_for(4, trace=own["trace"], kind="CONSUMER")
    (first,) = spans.read(trace=own["trace"], name="publish celery.chain")
    (begun,) = (span for span in spans.read(trace=own["trace"], kind="CONSUMER") if span["parent"] == first["id"])
    beside = [span["id"] for span in spans.read(trace=own["trace"], name="process s.add", parent=begun["id"])]
    (body,) = spans.read(trace=own["trace"], name="process s.total")
    assert (first["parent"], len(beside)) == (own["id"], 2)
    assert body["parent"] in beside  # of whichever ended last


# Without.


@pytest.fixture
def blocked(settings: dict[str, str], database: Database, tmp_path: Path) -> dict[str, str]:
    """The environment of processes that do not have OpenTelemetry."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('blocked')\n")
    return {**settings, "SAMPLE_URL": database.url, "PYTHONPATH": f"{tmp_path}:{ROOT}"}


def test_without_the_package_what_comes_in_is_passed_on(blocked: dict[str, str], tmp_path: Path) -> None:
    said = run("print(tracing.is_available, tracing.current_headers())", **blocked)
    assert (said.returncode, said.stdout) == (0, "False {}\n")
    with running("tests.service.sample", blocked, tmp_path) as web, receiver() as (url, calls):
        body = {"options": {"callback_url": url}}
        headers = {"traceparent": TRACEPARENT, "Prefer": "wait=20"}
        status, job = web.fetch("/v1/tasks/s.headers/jobs", body, **headers)
        assert (status, job["state"]) == (200, "SUCCESS")
        assert job["result"]["traceparent"] == TRACEPARENT
        wait_for(lambda: calls)
    assert "traceparent" not in calls[0]


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"from tornado_celery_bridge.base import tracing; {code}"]
    given = environment(**variables)
    return subprocess.run(command, cwd="/", env=given, capture_output=True, text=True, timeout=60, check=False)


# As the environment says.

SPAN = "tracing.set_up('web'); tracing.Span('client', 'POST', {}).end()"


def test_the_sdk_by_environment_alone() -> None:
    said = run(SPAN, OTEL_TRACES_EXPORTER="console")
    assert (said.returncode, said.stderr) == (0, "")
    span = json.loads(said.stdout)
    assert (span["name"], span["resource"]["attributes"]["service.name"]) == ("POST", "web")
    said = run(SPAN, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="shop")
    assert json.loads(said.stdout)["resource"]["attributes"]["service.name"] == "shop"
    for exporter in ("", "none"):
        assert run(SPAN, OTEL_TRACES_EXPORTER=exporter).stdout == ""


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "http"),
    ],
)
def test_otlp_by_its_protocol(tmp_path: Path, variables: dict[str, str], name: str) -> None:
    """With packages that have the entry points of OTLP's, and another exporter behind them."""
    installed = tmp_path / "otlp-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: otlp\nVersion: 1.0\n")
    console = "opentelemetry.sdk.trace.export:ConsoleSpanExporter"
    (installed / "entry_points.txt").write_text(f"[opentelemetry_traces_exporter]\notlp_proto_{name} = {console}\n")
    said = run(SPAN, **{"OTEL_TRACES_EXPORTER": "otlp", "PYTHONPATH": f"{tmp_path}:{ROOT}", **variables})
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(said.stdout)["name"] == "POST"


def test_what_is_not_installed_is_said(blocked: dict[str, str]) -> None:
    said = run(SPAN, OTEL_TRACES_EXPORTER="no-such")
    assert "ImproperlyConfigured: OTEL_TRACES_EXPORTER=no-such needs opentelemetry-sdk and its package" in said.stderr
    said = run(SPAN, **{**blocked, "OTEL_TRACES_EXPORTER": "console"})
    assert "ImproperlyConfigured: OTEL_TRACES_EXPORTER=console needs opentelemetry-sdk and its package" in said.stderr


@pytest.mark.parametrize("words", ["tornado_celery_bridge serve", "celery -A tests.service.sample worker"])
def test_nothing_starts_without_what_it_is_to_export_by(settings: dict[str, str], tmp_path: Path, words: str) -> None:
    given = {
        **settings,
        "CELERY_APP": "tests.service.sample",
        "DATA_DIR": str(tmp_path),
        "OTEL_TRACES_EXPORTER": "no-such",
    }
    command = [sys.executable, "-m", *words.split()]
    ended = subprocess.run(
        command, env=environment(**given), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    assert (ended.returncode, "OTEL_TRACES_EXPORTER=no-such needs" in ended.stdout) == (78, True), ended.stdout


def test_a_worker_hands_its_spans_over_before_it_ends(
    settings: dict[str, str], database: Database, tmp_path: Path
) -> None:
    given = {**settings, "SAMPLE_URL": database.url, "OTEL_TRACES_EXPORTER": "console"}
    given["OTEL_BSP_SCHEDULE_DELAY"] = "3600000"  # ms: longer than this takes
    log = tmp_path / "worker.log"
    code = "import sys; from tests.service.sample import app; print(app.tasks['s.add'].delay(1, 2).get(timeout=30))"
    with worker("tests.service.sample", given, log, *WORKER) as process:
        assert run(code, **given).stdout == "3\n"
        process.terminate()
        process.wait(30)
    assert '"name": "process s.add"' in log.read_text()
    assert '"service.name": "worker"' in log.read_text()
