"""W3C Trace Context: from a request into its jobs' messages, its answer, its problems and its log lines."""

import asyncio
import json
import logging

import pytest

from tests.service.site import Service, problem
from tests.service.traces import PARENT, TRACE, TRACEPARENT
from tornado_celery_bridge.service.http.trace import Trace, current
from tornado_celery_bridge.service.process.logs import OneLineFormatter


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (TRACEPARENT, TRACEPARENT),
        (f"00-{TRACE}-{PARENT}-ff", f"00-{TRACE}-{PARENT}-ff"),
        (f"cc-{TRACE}-{PARENT}-03", f"00-{TRACE}-{PARENT}-01"),  # a version to come
        (f"cc-{TRACE}-{PARENT}-02-what-the-future-will-be-like", f"00-{TRACE}-{PARENT}-00"),
    ],
)
def test_valid_ones(given: str, passed_on: str) -> None:
    trace = Trace.begun(given)
    assert (trace.traceparent, trace.trace_id) == (passed_on, TRACE)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"0-{TRACE}-{PARENT}-01",
        f"{TRACEPARENT},{TRACEPARENT}",
        f"cc-{TRACE}-{PARENT}-01-x,{TRACEPARENT}",
        f"00-{TRACE}-{PARENT}-01\u0661",
    ],
)
def test_others_are_as_none(given: str | None) -> None:
    made, other = Trace.begun(given), Trace.begun(given)
    assert Trace.begun(made.traceparent).traceparent == made.traceparent
    assert TRACE not in made.traceparent
    assert made.trace_id != other.trace_id


async def test_a_task_has_it_the_first_time_after_a_retry_and_published_by_a_worker(service: Service) -> None:
    headers = {"traceparent": TRACEPARENT, "Prefer": "wait=20"}
    answer = await service.post("/v1/tasks/s.headers/jobs", {}, headers)
    shown = json.loads(answer.body)
    assert shown.pop("result") == {"traceparent": TRACEPARENT, "request_id": answer.headers["X-Request-Id"]}
    assert answer.headers["traceparent"] == TRACEPARENT
    assert TRACE not in json.dumps(shown)
    # The second one may not begin at once: a worker publishes it, of what the ledger has.
    answers = await asyncio.gather(*(service.post("/v1/tasks/s.paced/jobs", {}, headers) for _ in range(2)))
    for each in answers:
        told = {"traceparent": TRACEPARENT, "request_id": each.headers["X-Request-Id"]}
        assert json.loads(each.body)["result"] == told


async def test_the_next_request_on_the_connection_has_it_not(service: Service) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    told = []
    for header in (f"traceparent: {TRACEPARENT}\r\n", ""):
        head = "POST /v1/tasks/s.headers/jobs HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=20\r\nContent-Length: 2\r\n"
        writer.write(f"{head}{header}\r\n{{}}".encode())
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answered.partition(b"content-length: ")[2].split()[0])
        told.append(json.loads(await reader.readexactly(length))["result"]["traceparent"])
    writer.close()
    await writer.wait_closed()
    assert told[0] == TRACEPARENT
    assert TRACE not in told[1]


async def test_the_steps_of_a_workflow_have_it(service: Service) -> None:
    body = {"chain": [{"task": "s.headers"}, {"group": [{"task": "s.headers"}, {"task": "s.headers"}]}]}
    answer = await service.post("/v1/workflows", body, {"traceparent": TRACEPARENT, "Prefer": "wait=20"})
    told = {"traceparent": TRACEPARENT, "request_id": answer.headers["X-Request-Id"]}
    assert answer.body.count(b'"result":' + json.dumps(told, separators=(",", ":")).encode()) == 3, answer.body


async def test_one_of_our_own_where_there_is_none(service: Service) -> None:
    answer = await service.submit("s.headers", wait=20)
    assert json.loads(answer.body)["result"]["traceparent"] == answer.headers["traceparent"]
    again = await service.fetch("/v1/jobs/none", headers={"traceparent": "malformed"})
    assert problem(again, 404, "unknown-job")["trace_id"] != answer.headers["traceparent"].split("-")[1]


def test_every_line_that_is_logged_for_a_request_names_it() -> None:
    trace = Trace.begun(TRACEPARENT)
    formatter = OneLineFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord(
        "tornado_celery_bridge.service.resources.jobs.service",
        logging.INFO,
        __file__,
        1,
        "the broker is away",
        (),
        None,
    )
    assert formatter.format(record) == "INFO the broker is away"
    token = current.set(trace)
    try:
        assert formatter.format(record) == f"INFO the broker is away request={trace.request_id} trace={TRACE}"
    finally:
        current.reset(token)
