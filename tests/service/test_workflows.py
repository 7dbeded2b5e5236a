"""Jobs that come after one another, and beside one another."""

import asyncio
import json
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from tests.service.keys import Guarded
from tests.service.sample import make_app as make_celery
from tests.service.site import Service, problem, running, until
from tornado_celery_bridge import BrokerUnavailable, DispatchUncertain
from tornado_celery_bridge.ledger import BOUNDS, Filter, Histogram, Ledger, Monitor
from tornado_celery_bridge.service.access.keys import SCOPES, Principal
from tornado_celery_bridge.service.http.problems import Problem
from tornado_celery_bridge.service.resources.workflows.service import Workflows

Node = dict[str, Any]


def add(*given: int, **options: Any) -> Node:
    return {"task": "s.add", "input": list(given)} | ({"options": options} if options else {})


def quiet(*given: int) -> Node:
    return add(*given, queue="quiet")


def total(**given: Any) -> Node:
    return {"task": "s.total", "input": given}


FAIL = {"task": "s.fail"}


async def submit(service: Service, body: Any, *, wait: int | None = 20, key: str | None = None) -> HTTPResponse:
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    return await service.post("/v1/workflows", body, headers | ({"Idempotency-Key": key} if key else {}))


async def run(service: Service, body: Any) -> dict[str, Any]:
    """Run a workflow to its end."""
    response = await submit(service, body)
    document: dict[str, Any] = json.loads(response.body)
    assert response.code == 200, document
    assert document["finished"]
    assert document["done"] == document["total"]
    return document


async def read(service: Service, document: dict[str, Any], wait: int | None = None) -> dict[str, Any]:
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    response = await service.fetch(document["links"]["self"], headers=headers)
    assert response.code == 200, response.body
    found: dict[str, Any] = json.loads(response.body)
    return found


async def cancel(service: Service, document: dict[str, Any], **body: Any) -> tuple[int, dict[str, Any]]:
    response = await service.post(document["links"]["cancel"], body)
    return response.code, json.loads(response.body)


def leaves(node: Any) -> list[dict[str, Any]]:
    """Return the jobs in a tree, in its order."""
    if not isinstance(node, dict | list):
        return []
    if isinstance(node, dict) and "task" in node:
        return [node]
    return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)]


def states(document: dict[str, Any]) -> list[str]:
    return [leaf["state"] for leaf in leaves(document["tree"])]


def results(document: dict[str, Any]) -> list[Any]:
    assert document["state"] == "SUCCESS", document
    return [leaf["result"] for leaf in leaves(document["tree"])]


def details(document: dict[str, Any]) -> list[str | None]:
    return [leaf["error"]["detail"] if "error" in leaf else None for leaf in leaves(document["tree"])]


# What runs.


async def test_a_chain_passes_results_on(service: Service) -> None:
    done = await run(service, {"chain": [add(1, 1), add(10), add(100)], "tags": ["t"]})
    assert results(done) == [2, 12, 112]
    assert (done["done"], done["total"], done["tags"]) == (3, 3, ["t"])
    assert done["tree"].keys() == {"chain", "done", "total"}
    assert await read(service, done) == done
    job = json.loads((await service.fetch(done["tree"]["chain"][1]["links"]["self"])).body)
    assert job == done["tree"]["chain"][1]
    assert job["links"]["workflow"] == done["links"]["self"] == f"/v1/workflows/{done['id']}"


async def test_a_group(service: Service) -> None:
    done = await run(service, {"group": [add(1), add(2), {"task": "s.forgetful"}]})
    assert results(done) == [2, 3, 1]


async def test_a_chord(service: Service) -> None:
    done = await run(service, {"chord": {"header": [add(number, 0) for number in range(20)], "body": total(plus=1)}})
    assert results(done) == [*range(20), 191]
    assert done["tree"]["chord"].keys() == {"header", "body"}
    assert done["tree"]["done"] == 21


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"chain": [add(1)]}, [2]),
        ({"group": [add(1)]}, [2]),
        # In a chain, a group is what a chord's header is: what comes after it gets the list, of one as of many.
        ({"chain": [{"group": [add(1)]}, total()]}, [2, 2]),
        ({"chord": {"header": [add(1)], "body": total()}}, [2, 2]),
        ({"chain": [{"group": [add(1), add(2)]}, total(), add(10)]}, [2, 3, 5, 15]),
        ({"chain": [add(1, 0), {"group": [add(1), add(2)]}]}, [1, 2, 3]),
        ({"chain": [add(1, 0), {"group": [add(1), add(2)]}, total()]}, [1, 2, 3, 5]),
        ({"chain": [{"chain": [add(1), add(1)]}, {"chain": [add(1)]}]}, [2, 3, 4]),
        ({"chain": [{"group": [add(1), add(2)]}, {"group": [total(), total(plus=1)]}, total()]}, [2, 3, 5, 6, 11]),
        (
            {"chord": {"header": [{"chain": [add(1), add(1)]}, add(5)], "body": {"chain": [total(), add(1)]}}},
            [2, 3, 6, 9, 10],
        ),
        ({"chord": {"header": [add(1), add(2)], "body": {"group": [total(), total(plus=1)]}}}, [2, 3, 5, 6]),
        (
            {"chain": [{"chord": {"header": [add(1), add(2)], "body": total()}}, add(1), {"group": [add(1), add(2)]}]},
            [2, 3, 5, 6, 7, 8],
        ),
        # A group in a group, and a chord in a header.
        ({"group": [add(1), {"group": [add(2), {"chain": [add(3), add(1)]}]}]}, [2, 3, 4, 5]),
        ({"chain": [{"group": [add(1), {"group": [add(2), add(3)]}]}, {"task": "s.echo"}]}, [2, 3, 4, [2, 3, 4]]),
        (
            {
                "chord": {
                    "header": [{"chord": {"header": [add(1), add(2)], "body": total()}}, add(3)],
                    "body": {"task": "s.echo"},
                }
            },
            [2, 3, 5, 4, [5, 4]],
        ),
        # What ends in a group, inside a header.
        (
            {
                "chord": {
                    "header": [{"chain": [add(1), {"group": [add(1), add(2)]}]}, add(3)],
                    "body": {"task": "s.echo"},
                }
            },
            [2, 3, 4, 4, [[3, 4], 4]],
        ),
    ],
    ids=lambda value: (
        json.dumps(value).replace('"', "").replace("task: s.", "")[:120] if isinstance(value, dict) else ""
    ),
)
async def test_shapes(service: Service, body: Node, expected: list[Any]) -> None:
    assert results(await run(service, body)) == expected


async def test_options_of_steps(service: Service) -> None:
    first = add(1, priority=9, tags=["a"], queue="websample")
    done = await run(service, {"chain": [first, add(1, countdown=0.01, expires=60)]})
    assert results(done) == [2, 3]
    jobs = leaves(done["tree"])
    assert (jobs[0]["priority"], jobs[0]["tags"], jobs[1]["eta"]) == (9, ["a"], None)


async def test_how_long_others_took_is_not_its_wait(service: Service) -> None:
    async def waits() -> Histogram:
        counts = await Monitor(service.jobs.ledger).counts()
        found = [its.waits for (_, task), its in counts.items() if task == "s.echo"]
        return sum(found, Histogram((0,) * (len(BOUNDS) + 1), 0.0))

    before = await waits()
    await run(service, {"chain": [{"task": "s.nap", "input": [2]}, {"task": "s.echo"}]})
    after = await waits()
    assert after.total == before.total + 1
    assert after.seconds - before.seconds < 1.9


# What fails.


ECHO = {"task": "s.echo", "options": {"tags": ["help"]}}


async def test_help_is_called_for_once(service: Service) -> None:
    done = await run(service, {"chain": [add(1), {"group": [FAIL, FAIL]}, total()], "on_error": ECHO})
    assert (done["state"], done["done"], done["total"]) == ("FAILURE", 4, 4)
    helped = done["on_error"]
    assert (helped["state"], helped["attempt"], helped["tags"]) == ("SUCCESS", 1, ["help"])
    told = helped["result"]
    failed = leaves(done["tree"])[1:3]
    assert told["job"] in [job["id"] for job in failed]
    assert (told["task"], told["state"], told["error"]["type"]) == ("s.fail", "FAILURE", "ValueError")
    assert json.loads((await service.fetch(helped["links"]["self"])).body) == helped
    assert helped["links"]["workflow"] == done["links"]["self"]


async def test_help_that_is_not_needed_does_not_run(service: Service) -> None:
    done = await run(service, {"chain": [add(1), add(2)], "on_error": ECHO})
    assert (done["state"], done["done"], done["total"]) == ("SUCCESS", 2, 2)
    assert (done["on_error"]["state"], done["on_error"]["attempt"]) == ("REVOKED", 0)
    assert done["on_error"]["error"]["detail"] == "nothing failed"


async def test_help_when_a_branch_is_cancelled_but_not_when_all_is(service: Service) -> None:
    made = json.loads((await submit(service, {"group": [quiet(1), quiet(2)], "on_error": ECHO}, wait=None)).body)
    await cancel(service, made, branch="/group/0")
    _, ended = await cancel(service, made, branch="/group/1")
    ended = await read(service, made, wait=20)
    assert (ended["on_error"]["state"], ended["on_error"]["result"]["state"]) == ("SUCCESS", "REVOKED")
    made = json.loads((await submit(service, {"group": [quiet(1)], "on_error": ECHO}, wait=None)).body)
    _, ended = await cancel(service, made)
    assert (ended["state"], ended["finished"], ended["on_error"]["state"]) == ("REVOKED", True, "REVOKED")
    assert ended["on_error"]["error"]["detail"] == "cancelled"


async def test_help_that_does_not_fit(service: Service) -> None:
    for on_error, pointer in (
        ([], "/on_error"),
        ({"chain": [add(1)]}, "/on_error"),
        ({"task": "s.none"}, "/on_error/task"),
        ({"task": "s.add", "input": {"x": 1}}, "/on_error/input/x"),
    ):
        found = problem(await submit(service, {"group": [quiet(1)], "on_error": on_error}), 422, "invalid-workflow")
        assert [fault["pointer"] for fault in found["errors"]] == [pointer]


async def test_a_failure_ends_what_comes_after_it(service: Service) -> None:
    body = {"chain": [add(1), FAIL, add(1), {"group": [add(1), add(2)]}, total()]}
    done = await run(service, body)
    assert done["state"] == "FAILURE"
    assert states(done) == ["SUCCESS", "FAILURE", *["REVOKED"] * 4]
    failed, *after = leaves(done["tree"])[1:]
    assert {job["error"]["detail"] for job in after} == {
        f"job {failed['id']}, which this one waited for, ended as FAILURE"
    }
    events = await service.fetch(after[-1]["links"]["events"])
    assert b"event: end" in events.body
    found = json.loads((await service.fetch(after[-1]["links"]["self"], headers={"Prefer": "wait=5"})).body)
    assert found == after[-1]


async def test_a_failure_in_a_chords_header(service: Service) -> None:
    header = [add(1), {"chain": [FAIL, add(1)]}, {"task": "s.nap", "input": [0.2]}]
    done = await run(service, {"chord": {"header": header, "body": total()}})
    assert done["state"] == "FAILURE"
    assert states(done) == ["SUCCESS", "FAILURE", "REVOKED", "SUCCESS", "REVOKED"]
    # Celery itself says in the end that the body failed; what the ledger said first stays, for all who ask.
    body = done["tree"]["chord"]["body"]
    assert (await service.bridge.wait(body["id"], timeout=10)).state == "REVOKED"
    assert await read(service, done) == done


async def test_a_failure_in_a_group_leaves_the_others_alone(service: Service) -> None:
    done = await run(service, {"group": [FAIL, add(1)]})
    assert (done["state"], states(done)) == ("FAILURE", ["FAILURE", "SUCCESS"])


async def test_a_job_that_expires_ends_what_comes_after_it(service: Service) -> None:
    late = add(1, countdown=1, expires=0.5)
    done = await run(service, {"chain": [late, add(1)]})
    assert (done["state"], states(done)) == ("FAILURE", ["REVOKED", "REVOKED"])


# Cancelling.


async def test_cancelled_before_any_worker_came(service: Service) -> None:
    body = {"chain": [quiet(1), {"group": [quiet(1), {"chain": [quiet(1), quiet(1)]}]}, total()]}
    accepted = await submit(service, body, wait=None)
    assert accepted.code == 202
    document = json.loads(accepted.body)
    assert accepted.headers["Location"] == document["links"]["self"]
    assert int(accepted.headers["Retry-After"]) >= 1
    assert (document["state"], document["finished"], document["done"], document["total"]) == ("PENDING", False, 0, 5)
    assert await read(service, document) == document
    waiting = asyncio.ensure_future(read(service, document, wait=20))
    await until(lambda: service.jobs.ledger.events.following)
    code, cancelled = await cancel(service, document)
    assert (code, cancelled["state"], cancelled["done"]) == (200, "REVOKED", 5)
    assert details(cancelled) == ["cancelled"] * 5
    assert await waiting == cancelled
    assert not service.jobs.ledger.events.following
    assert await cancel(service, document) == (200, cancelled)


async def test_a_branch_is_cancelled(service: Service) -> None:
    body = {"group": [{"chain": [quiet(1), quiet(1)]}, quiet(1)]}
    document = json.loads((await submit(service, body, wait=None)).body)
    code, cancelled = await cancel(service, document, branch="/group/0")
    assert (code, cancelled["state"], states(cancelled)) == (202, "PENDING", ["REVOKED", "REVOKED", "PENDING"])
    assert (cancelled["tree"]["done"], cancelled["tree"]["group"][0]["done"]) == (2, 2)
    code, cancelled = await cancel(service, document, branch="/group/1")
    assert (code, cancelled["state"]) == (200, "FAILURE")  # each was revoked, and the whole never


async def test_cancelling_a_job_ends_what_comes_after_it(service: Service) -> None:
    body = {"chord": {"header": [quiet(1), quiet(2)], "body": {"chain": [total(), add(1)]}}}
    document = json.loads((await submit(service, body, wait=None)).body)
    first = leaves(document["tree"])[0]
    await service.post(f"{first['links']['self']}/cancel")
    found = await read(service, document)
    assert states(found) == ["REVOKED", "PENDING", "REVOKED", "REVOKED"]
    assert details(found)[2:] == [f"job {first['id']}, which this one waited for, ended as REVOKED"] * 2


async def test_one_that_runs_is_terminated(service: Service) -> None:
    body = {"chain": [{"task": "s.nap", "input": [60]}, add(1)]}
    document = json.loads((await submit(service, body, wait=None)).body)
    with service.jobs.ledger.events.follow(leaves(document["tree"])[0]["id"]) as events:
        await anext(events)
    assert (await read(service, document))["state"] == "STARTED"
    code, cancelled = await cancel(service, document, terminate=True)
    assert (code, states(cancelled)) == (202, ["STARTED", "REVOKED"])
    done = await read(service, document, wait=20)
    assert (done["state"], states(done)) == ("REVOKED", ["REVOKED", "REVOKED"])


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        *(
            ({"branch": branch}, "/branch")
            for branch in (1, "group", "/chain", "/group/2", "/group/-1", "/group/0/x", "/")
        ),
        ({"terminate": 1}, "/terminate"),
        ({"all": True}, "/all"),
    ],
)
async def test_cancels_that_do_not_fit(service: Service, body: Any, pointer: str) -> None:
    document = json.loads((await submit(service, {"group": [quiet(1), quiet(2)]}, wait=None)).body)
    response = await service.post(document["links"]["cancel"], body)
    assert problem(response, 422, "invalid-body")["errors"][0]["pointer"] == pointer
    assert states(await read(service, document)) == ["PENDING", "PENDING"]


# What does not fit.


def nested(depth: int) -> Node:
    node: Node = quiet(1)
    for _ in range(depth):
        node = {"chain": [node]}
    return node


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, [""]),
        ({"chain": []}, ["/chain"]),
        ({"group": {}}, ["/group"]),
        ({"chain": [add(1)], "group": [add(1)]}, [""]),
        ({"chain": [add(1)], "tags": [1]}, ["/tags/0"]),
        ({"task": "s.add", "input": [1]}, [""]),
        ({"chord": [add(1)]}, ["/chord"]),
        ({"chord": {"header": [add(1)]}}, ["/chord"]),
        ({"chord": {"header": [], "body": 1}}, ["/chord/header", "/chord/body"]),
        ({"chain": [1, {"task": 1}, {"task": "s.hidden"}]}, ["/chain/0", "/chain/1/task", "/chain/2/task"]),
        ({"chain": [{"chain": [add(1)], "x/y": 1}]}, ["/chain/0/x~1y"]),
        ({"chain": [add(), add(1, 2, 3), add(1, 2)]}, ["/chain/0/input/0", "/chain/1/input/1", "/chain/2/input/1"]),
        ({"chain": [add(1), {"task": "s.add", "input": {"x": 1}}]}, ["/chain/1/input/x"]),
        ({"chain": [add(1), {"task": "s.add", "input": {"z": 1, "y": "2"}}]}, ["/chain/1/input/y", "/chain/1/input/z"]),
        ({"chain": [add(1), {"task": "s.nan"}]}, ["/chain/1/task"]),
        ({"group": [{"group": [add(1), {"task": "s.add"}]}]}, ["/group/0/group/1/input/x"]),
        (
            {"chord": {"header": [add(1), add()], "body": total(numbers=[])}},
            ["/chord/header/1/input/0", "/chord/body/input/numbers"],
        ),
        (
            {"chain": [{"group": [add(1)]}, {"chord": {"header": [add(1, 2)], "body": {"task": "s.total"}}}]},
            ["/chain/1/chord/header/0/input/1"],
        ),
        ({"chain": [add(1, queue="no such")]}, ["/chain/0/options/queue"]),
        ({"chain": [add(1, on_disconnect="cancel")]}, ["/chain/0/options/on_disconnect"]),
        ({"chain": [{**add(1), "extra": 1}]}, ["/chain/0/extra"]),
        ({"group": [add(1)] * 1001}, ["/group/1000"]),
        (nested(11), ["/chain/0" * 10]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_bodies_that_do_not_fit(service: Service, body: Any, pointers: list[str]) -> None:
    before = await service.messages()
    document = problem(await submit(service, body), 422, "invalid-workflow")
    assert [error["pointer"] for error in document["errors"]] == pointers
    assert await service.messages() == before


async def test_ten_deep(service: Service) -> None:
    assert (await submit(service, nested(10), wait=None)).code == 202


async def test_too_much_to_carry(service: Service) -> None:
    header = [quiet(1)] * 300
    assert (await submit(service, {"chord": {"header": header, "body": total(plus=1)}}, wait=None)).code == 202
    body = total(note="x" * 200_000)
    problem(await submit(service, {"chord": {"header": header, "body": body}}, wait=None), 422, "workflow-too-large")


@pytest.mark.parametrize(
    "body",
    [
        {"group": [quiet(1)] * 1000},
        {"chain": [quiet(1), *[quiet()] * 999]},
        {"chord": {"header": [quiet(1)] * 999, "body": total()}},
    ],
    ids=("group", "chain", "chord"),
)
async def test_a_thousand(patient_service: Service, body: Node) -> None:
    service = patient_service
    before = await service.messages()
    accepted = await submit(service, body, wait=None)
    assert accepted.code == 202, accepted.body
    document = json.loads(accepted.body)
    assert await service.messages() == before + (1 if "chain" in body else 1000 - ("chord" in body))
    assert len({job["id"] for job in leaves(document["tree"])}) == 1000
    first = leaves(document["tree"])[0]
    await service.post(f"{first['links']['self']}/cancel")
    assert (await read(service, document))["done"] == {"group": 1, "chain": 1000, "chord": 2}[next(iter(body))]
    code, cancelled = await cancel(service, document)
    assert (code, cancelled["done"]) == (200, 1000)
    assert cancelled["state"] == ("FAILURE" if "chain" in body else "REVOKED")


# What is accepted, and what is not.


async def test_sent_again_with_the_same_key(service: Service) -> None:
    body = {"group": [quiet(1), quiet(2)]}
    before = await service.messages()
    first = await submit(service, body, wait=None, key="wf-1")
    again = await submit(service, body, wait=None, key="wf-1")
    assert (again.code, again.body, again.headers["Location"]) == (202, first.body, first.headers["Location"])
    assert await service.messages() == before + 2
    problem(await submit(service, {"group": [quiet(1)]}, wait=None, key="wf-1"), 422, "idempotency-key-reused")
    _, cancelled = await cancel(service, json.loads(first.body))
    again = await submit(service, body, wait=None, key="wf-1")
    assert (again.code, json.loads(again.body)) == (200, cancelled)  # as it is now
    assert json.loads((await submit(service, body, wait=None, key="wf-2")).body)["id"] != cancelled["id"]


async def test_in_flight_and_then_taken_over(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    dispatch = service.bridge.dispatch

    async def slow(*args: Any, **options: Any) -> Any:
        began.set()
        await go_on.wait()
        return await dispatch(*args, **options)

    body = {"chain": [{"group": [add(1), add(2)]}, total()]}
    with monkeypatch.context() as patch:
        patch.setattr(service.bridge, "dispatch", slow)
        first = asyncio.ensure_future(submit(service, body, wait=None, key="wf-3"))
        await began.wait()
    refused = problem(await submit(service, body, key="wf-3"), 409, "idempotency-key-in-flight")
    redis = service.jobs.ledger.redis.client
    async for held in redis.scan_iter("{tcb}key:*"):
        await redis.hset(held, "lease", 0)
    taken_over = await submit(service, body, wait=None, key="wf-3")
    assert json.loads(taken_over.body)["id"] == refused["workflow"]["id"]
    done = await read(service, json.loads(taken_over.body), wait=20)
    assert results(done) == [2, 3, 5]
    go_on.set()
    assert (await first).code == 202
    done = await read(service, done)
    assert [job["attempt"] for job in leaves(done["tree"])] == [1, 1, 1]


async def test_a_chord_that_was_published_twice(service: Service) -> None:
    body = {"chord": {"header": [quiet(1), quiet(2)], "body": total()}}
    document = json.loads((await submit(service, body, wait=None, key="wf-5")).body)
    redis = service.jobs.ledger.redis.client
    async for held in redis.scan_iter("{tcb}key:*"):
        await redis.hdel(held, "response")
        await redis.hset(held, "lease", 0)
    assert json.loads((await submit(service, body, wait=None, key="wf-5")).body)["id"] == document["id"]
    # A worker takes up the one job of the first time, and the other of the second.
    second, _, _, first = await redis.lrange("quiet\x06\x169", 0, 3)  # where kombu has what comes last
    await redis.lpush("websample", first, second)
    assert results(await read(service, document, wait=20)) == [2, 3, 5]


async def test_one_that_was_not_published_leaves_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: object, **options: object) -> None:
        raise BrokerUnavailable("as if")

    body = {"chain": [quiet(1), quiet(1)], "tags": ["w"]}
    redis = service.jobs.ledger.redis.client
    before = await redis.dbsize()
    with monkeypatch.context() as patch:
        patch.setattr(service.bridge, "dispatch", refuse)
        patch.setattr("tornado_celery_bridge.bridge.sending.MAX_OUTBOX", 0)
        problem(await submit(service, body, key="wf-4"), 503, "broker-unavailable")
    assert await redis.dbsize() == before
    assert (await submit(service, body, wait=None, key="wf-4")).code == 202


async def test_what_celery_does_not_take(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    amqp = service.bridge.app.amqp
    send = amqp.send_task_message

    def refuse(producer: Any, name: str, message: Any, **options: Any) -> Any:
        if message.headers["argsrepr"] == "(2,)":
            raise TypeError("as if")
        return send(producer, name, message, **options)

    monkeypatch.setattr(amqp, "send_task_message", refuse)
    before = await service.messages()
    problem(await submit(service, {"group": [quiet(1), quiet(2), quiet(3)]}), 422, "unpublishable")
    assert "could not be published: TypeError('as if')" in caplog.text
    # The first was sent, and will be dropped.
    assert await service.messages() == before + 1
    page = await service.jobs.find(Filter(), limit=3)
    assert [job.state for job in page.jobs] == ["REVOKED"] * 3


@pytest.mark.parametrize("reason", [BrokerUnavailable, DispatchUncertain])
async def test_one_that_was_perhaps_not_published_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch, reason: type[Exception]
) -> None:
    async def refuse(*args: object, **options: object) -> None:
        raise reason("as if")

    body = {"chain": [add(1), {"group": [add(1), add(2)]}, total()]}
    with monkeypatch.context() as patch:
        patch.setattr(service.bridge, "dispatch", refuse)
        made = await submit(service, body, wait=30)
    assert made.code == 200, made.body
    assert {job["attempt"] for job in leaves(json.loads(made.body)["tree"])} == {1}


async def test_unfinished_jobs_are_counted(service: Service) -> None:
    workflows = Workflows(service.jobs)
    greedy = Principal(owner="greedy", scopes=frozenset(SCOPES), max_unfinished=3)
    with pytest.raises(Problem) as refused:
        await workflows.submit(greedy, {"group": [quiet(1)] * 4})
    assert refused.value.code == "too-many-unfinished-jobs"
    accepted = await workflows.submit(greedy, {"group": [quiet(1)] * 3})
    with pytest.raises(Problem):
        await workflows.submit(greedy, {"group": [quiet(1)]})
    await workflows.cancel(greedy, accepted.record.id, "", terminate=False)
    await workflows.submit(greedy, {"group": [quiet(1)] * 3})


async def test_belongs_to_whoever_sent_it(site: Guarded) -> None:
    body = json.dumps({"chain": [quiet(1)]}).encode()
    response = await site.fetch("alice", "/v1/workflows", "POST", body=body)
    assert response.code == 202
    path = response.headers["Location"]
    for name, status in (("alice2", 200), ("admin", 200), ("bob", 404)):
        assert (await site.fetch(name, path)).code == status
    for name, status in (("bob", 404), ("alice2", 403), ("canceller", 200)):
        assert (await site.fetch(name, f"{path}/cancel", "POST")).code == status
    problem(await site.fetch("bob", path), 404, "unknown-workflow")
    body = json.dumps({"chain": [add(1), {"task": "s.nap"}]}).encode()
    refused = problem(await site.fetch("some", "/v1/workflows", "POST", body=body), 422, "invalid-workflow")
    assert [error["pointer"] for error in refused["errors"]] == ["/chain/1/task"]


# How long it is kept.


async def test_kept_until_all_of_it_has_ended(web_url: str) -> None:
    app = make_celery(web_url)
    ledger = await asyncio.to_thread(Ledger, app, ttl=0)
    async with running(app, ledger) as service:
        document = json.loads((await submit(service, {"group": [quiet(1), quiet(2)]}, wait=None)).body)
        await cancel(service, document, branch="/group/0")
        while await ledger.jobs.sweep():
            pass
        assert states(await read(service, document)) == ["REVOKED", "PENDING"]
        await cancel(service, document)
        while await ledger.jobs.sweep():
            pass
        problem(await service.fetch(document["links"]["self"]), 410, "expired-workflow")
        for job in leaves(document["tree"]):
            problem(await service.fetch(job["links"]["self"]), 410, "expired-job")
        problem(await service.fetch(f"/v1/workflows/{leaves(document['tree'])[0]['id']}"), 404, "unknown-workflow")
    app.close()


# A worker that died.


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery, of redis-py
async def test_a_part_of_a_chord_that_its_worker_did_not_tell(service: Service) -> None:
    body = {"chord": {"header": [quiet(1)], "body": total()}}
    document = json.loads((await submit(service, body, wait=None)).body)
    header = leaves(document["tree"])[0]["id"]
    # It ran, and the worker died before it told the chord: the message is delivered again.
    await asyncio.to_thread(lambda: service.bridge.app.backend.store_result(header, 2, "SUCCESS"))
    redis = service.jobs.ledger.redis.client
    [message] = [each for each in await redis.lrange("quiet\x06\x169", 0, -1) if header.encode() in each]
    await redis.lpush("websample", message)
    assert results(await read(service, document, wait=20)) == [2, 2]
