"""``/metrics``: what is in it agrees with the ledger, with several processes too; and what is asked of it is in it."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import HTTPResponse

from tests.servers import Database, free_port, wait_for
from tests.service.monitoring import read, submit_many
from tests.service.processes import serving
from tests.service.sample import make_app as make_celery
from tests.service.site import ROOT, Service, running, until
from tornado_celery_bridge.service.resources.metrics import CONTENT_TYPE


def parsed(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


async def scrape(service: Service) -> dict[str, Metric]:
    response: HTTPResponse = await service.fetch("/metrics")
    assert (response.code, response.headers["Content-Type"]) == (200, CONTENT_TYPE)
    return parsed(response.body.decode())


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    """The sum of what has these labels."""
    family = found[name.removesuffix("_total").removesuffix("_sum").removesuffix("_count")]
    return sum(each.value for each in family.samples if each.name == name and labels.items() <= each.labels.items())


async def test_the_counts_agree(ours: Service, tmp_path: Path) -> None:
    states = await submit_many(ours, tmp_path)
    found, summary = await scrape(ours), (await read(ours, "/v1/statistics"))["summary"]
    for outcome, state in {"succeeded": "SUCCESS", "failed": "FAILURE", "revoked": "REVOKED"}.items():
        finished = value(found, "tcb_jobs_finished_total", outcome=outcome)
        assert finished == value(found, "tcb_jobs", state=outcome) == states[state] == summary[outcome]
    for name in ("accepted", "started", "retried", "withdrawn", "lost"):
        assert value(found, f"tcb_jobs_{name}_total") == summary[name]
    assert value(found, "tcb_jobs_finished_total", task="s.fail", outcome="failed") == 40
    assert (
        value(found, "tcb_jobs_accepted_total", queue="quiet") == value(found, "tcb_queue_depth", queue="quiet") == 20
    )
    assert value(found, "tcb_job_run_seconds_count") == 150
    assert value(found, "tcb_job_wait_seconds_count") == summary["started"]
    assert value(found, "tcb_dispatches_total", outcome="sent") == value(found, "tcb_dispatch_seconds_count") == 200
    assert value(found, "tcb_queue_consumers", queue="quiet") == 0
    assert value(found, "tcb_queue_consumers", queue="websample") == value(found, "tcb_worker_up") == 1
    assert value(found, "tcb_worker_slots") == 2
    assert value(found, "tcb_ledger_up") == 1
    assert value(found, "tcb_http_requests_total", method="POST", route="/v1/batches", status="207") == 1
    assert value(found, "tcb_http_requests_total", route="/v1/jobs/*/cancel", status="200") == 20
    again = await scrape(ours)
    assert value(again, "tcb_http_requests_total", route="/metrics", status="200") == 1


async def test_what_a_stranger_sends_makes_no_series(service: Service) -> None:
    await service.fetch("/no/such/path")
    await service.fetch("/v1/jobs/x%0a%22", "BREW")
    routes = {each.labels["route"] for each in (await scrape(service))["tcb_http_requests"].samples}
    methods = {each.labels["method"] for each in (await scrape(service))["tcb_http_requests"].samples}
    assert "other" in routes
    assert methods <= {"GET", "other"}


async def test_waits_and_streams(service: Service) -> None:
    job_id = json.loads((await service.submit("s.add", {"input": [1], "options": {"queue": "quiet"}})).body)["id"]
    waiting = asyncio.ensure_future(service.fetch(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"}))
    _, writer = await service.raw(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    metrics = service.jobs.metrics
    await until(lambda: metrics.streams._value.get() == metrics.waiters._value.get() == 1)
    found = await scrape(service)
    assert (value(found, "tcb_waiters"), value(found, "tcb_streams")) == (1, 1)
    writer.close()
    await service.post(f"/v1/jobs/{job_id}/cancel")
    await waiting
    await until(lambda: metrics.streams._value.get() == metrics.waiters._value.get() == 0)


async def test_without_the_ledger(web_url: str) -> None:
    app = make_celery(f"redis://127.0.0.1:{free_port()}/0")
    async with running(app) as service:
        found = await scrape(service)
        assert value(found, "tcb_ledger_up") == 0
        assert value(found, "tcb_web_processes") == 1
        assert "tcb_jobs" not in found
    app.close()


def test_several_processes_tell_of_all_of_them(database: Database, tmp_path: Path) -> None:
    settings = {"REDIS_URL": database.url, "DATA_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    with serving(tmp_path / "log", "--processes", "2", **settings) as web:

        def metrics() -> dict[str, Metric]:
            return parsed(web.read("/metrics"))

        wait_for(lambda: value(metrics(), "tcb_web_processes") == 2)
        before = value(metrics(), "tcb_http_requests_total", route="/v1/tasks")
        for _ in range(40):
            assert web.fetch("/v1/tasks")[0] == 200
        for _ in range(6):  # whichever process answers
            assert value(metrics(), "tcb_http_requests_total", route="/v1/tasks") == before + 40
        wait_for(lambda: value(metrics(), "tcb_loop_lag_seconds_count") > 4)
        assert "tcb_broker_down" in metrics()
        assert list(tmp_path.glob("web-metrics-*"))
        web.process.terminate()
        assert web.process.wait(30) == 0
    assert not list(tmp_path.glob("web-metrics-*"))


# What is asked of it.

DASHBOARD = (ROOT / "deploy/grafana/jobs.json").read_text("utf-8")
ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8")
PAGE = (ROOT / "docs/monitoring.md").read_text("utf-8")
QUERIES = re.compile(r"(tcb_\w+)(?:\{([^}]*)\})?")


def queries() -> list[tuple[str, str]]:
    """Return where and what: each query of the dashboard and of the alerts."""
    panels = json.loads(DASHBOARD)["panels"]
    found = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    found += re.findall(r"- alert: (\w+)\n\s+expr: (?:>-\n)?((?:.|\n)+?)\n\s+(?:for|labels):", ALERTS)
    assert len(found) > 40
    return found


async def test_every_query_asks_for_what_there_is(ours: Service, tmp_path: Path) -> None:
    await submit_many(ours, tmp_path)
    labels: dict[str, set[str]] = {}
    values: set[tuple[str, str]] = set()
    for family in [*(await scrape(ours)).values(), *(await scrape(ours)).values()]:
        for each in family.samples:
            labels.setdefault(each.name, {"instance"}).update(each.labels)  # Prometheus itself adds the instance
            values |= set(each.labels.items())
    for place, query in queries():
        assert query.count("(") == query.count(")"), place
        for name, matchers in QUERIES.findall(query):
            assert name in labels, f"{place}: {name}"
            for label, matched in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                assert label in labels[name], f"{place}: {label} of {name}"
                assert matched.endswith("..") or (label, matched) in values, f"{place}: {matched}"
        for group, inner in aggregations(query):
            assert group <= labels_of(inner, labels), f"{place}: by {group} of {inner}"


def aggregations(query: str) -> Iterator[tuple[set[str], str]]:
    """Yield the labels that each aggregation of a query keeps, and what it aggregates."""
    for found in re.finditer(r"by \(([\w, ]+)\) \(", query):
        depth = 1
        for end in range(found.end(), len(query)):
            depth += {"(": 1, ")": -1}.get(query[end], 0)
            if depth == 0:
                yield set(re.split(r", ?", found[1])), query[found.end() : end]
                break


def labels_of(expression: str, labels: dict[str, set[str]]) -> set[str]:
    """Return the labels that the result of an expression has: those that an aggregation keeps, or its metrics' own."""
    if found := re.match(r"\w+ by \(([\w, ]+)\) \(", expression):
        return set(re.split(r", ?", found[1]))
    return set.intersection(*(labels[name] for name, _ in QUERIES.findall(expression)))


def test_a_label_that_is_not_there_is_found() -> None:
    labels = {"tcb_a": {"task", "queue"}}
    [(outer, inner), (_, innermost)] = aggregations("sum by (task) (max by (queue) (rate(tcb_a[5m])))")
    assert not outer <= labels_of(inner, labels)
    assert labels_of(innermost, labels) == labels["tcb_a"]


async def test_every_metric_and_alert_is_documented(ours: Service) -> None:
    families = await scrape(ours)
    told = set(re.findall(r"^\| `(tcb_\w+)`", PAGE, re.MULTILINE))
    assert told == {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert re.findall(r"^\| `([A-Z]\w+)`", PAGE, re.MULTILINE) == alerts
