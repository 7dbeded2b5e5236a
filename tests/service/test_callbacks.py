"""Callbacks: whoever asked for it is told of a job's end, whatever dies."""

import asyncio
import json
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from tests.servers import free_port
from tests.service.sample import make_app as make_celery
from tests.service.site import Service, environment, problem, running, until
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.service.access.receivers import Receivers
from tornado_celery_bridge.service.resources.callbacks.deliverer import DELAYS, Deliverer
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets, sign

# Signatures.


def test_the_specifications_own_example() -> None:
    secret, message_id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    headers = sign(secret, message_id, 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": message_id,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_owner_has_a_secret_which_all_processes_know(tmp_path: Path) -> None:
    path = tmp_path / "data" / "secret"
    secrets = Secrets(path)
    secrets.check()
    assert not path.exists()  # nobody needs it yet
    assert secrets.of("alice") == Secrets(path).of("alice")
    assert len({secrets.of(owner) for owner in ("alice", "bob", "")}) == 3
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["secret"]
    headers = sign(secrets.of("alice"), "msg_1", int(time.time()), b"{}")
    assert Webhook(secrets.of("alice")).verify(b"{}", headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(secrets.of("bob")).verify(b"{}", headers)


def test_a_secret_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="openssl rand -base64 32"):
        Secrets(path).check()
    path.write_text("x" * 40)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod o="):
        Secrets(path).check()
    with pytest.raises(SettingsError, match="cannot be read, or made"):
        Secrets(path / "below").of("")


# Deliveries.


class Receiver:
    """A server that is called back."""

    def __init__(self) -> None:
        self.calls: list[HTTPServerRequest] = []
        #: What to do, one after the other; then 200.
        self.answers: list[Callable[[RequestHandler], Awaitable[None] | None]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/done?of=it"

    @property
    def ids(self) -> list[str]:
        return [call.headers["webhook-id"] for call in self.calls]


@asynccontextmanager
async def receiving(**options: Any) -> AsyncIterator[Receiver]:
    made = Receiver()

    class Handler(RequestHandler):
        async def post(self) -> None:
            made.calls.append(self.request)
            if made.answers and (waits := made.answers.pop(0)(self)) is not None:
                await waits

    server = HTTPServer(Application([(".*", Handler)], log_function=lambda _: None), **options)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    made.port = sockets[0].getsockname()[1]
    yield made
    server.stop()
    await server.close_all_connections()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


def status(code: int, **headers: str) -> Callable[[RequestHandler], None]:
    def answer(handler: RequestHandler) -> None:
        handler.set_status(code)
        for name, value in headers.items():
            handler.set_header(name.replace("_", "-"), value)

    return answer


async def hang(handler: RequestHandler) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def delivering(service: Service, path: Path, allow: str = "127.0.0.1") -> AsyncIterator[Secrets]:
    secrets = Secrets(path / "callback-secret")
    deliverer = Deliverer(service.jobs.ledger, Receivers(allow), secrets)
    task = asyncio.ensure_future(deliverer.run())
    try:
        yield secrets
    finally:
        task.cancel()
        await deliverer.close()


@pytest.fixture
async def calling(web_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service where a receiver on this machine may be named, and nobody delivers yet."""
    monkeypatch.setattr("tornado_celery_bridge.service.resources.callbacks.deliverer.POLL", 0.02)
    app = make_celery(web_url)
    async with running(app) as made:
        made.jobs.receivers = Receivers("127.0.0.1,hooks.test")
        yield made
        redis = made.jobs.ledger.redis.client
        await redis.delete("{tcb}callbacks", *[key async for key in redis.scan_iter("{tcb}callbacks:*")])
    app.close()


@pytest.fixture
async def secrets(calling: Service, tmp_path: Path) -> AsyncIterator[Secrets]:
    async with delivering(calling, tmp_path) as made:
        yield made


async def submit(service: Service, url: str, task: str = "s.add", given: Any = (1,), **options: Any) -> dict[str, Any]:
    body = {"input": given, "options": {"callback_url": url, **options}}
    job: dict[str, Any] = json.loads((await service.submit(task, body)).body)
    return job


async def delivery(service: Service, job: dict[str, Any], state: str = "delivered") -> dict[str, Any]:
    """Return a job's delivery once it is in a state."""
    async with asyncio.timeout(10):
        while True:
            [*found] = json.loads((await service.fetch(job["links"]["deliveries"])).body)["deliveries"]
            if found and found[0]["state"] == state:
                return found[0]  # type: ignore[no-any-return]
            await asyncio.sleep(0.01)


async def test_a_signed_event_with_the_job_is_delivered_once(
    calling: Service, secrets: Secrets, receiver: Receiver
) -> None:
    job = await submit(calling, receiver.url, tags=["x"])
    assert job["links"]["deliveries"] == f"/v1/jobs/{job['id']}/deliveries"
    told = await delivery(calling, job)
    [call] = receiver.calls
    assert (call.method, call.path, call.query) == ("POST", "/done", "of=it")
    assert call.headers["Content-Type"].startswith("application/cloudevents+json")
    secret = await asyncio.to_thread(secrets.of, "")
    event = Webhook(secret).verify(call.body, dict(call.headers))
    shown = json.loads((await calling.fetch(job["links"]["self"])).body)
    assert event == {
        **{"specversion": "1.0", "id": told["id"], "source": "/v1/jobs", "type": "tornado-celery-bridge.job.succeeded"},
        **{"subject": job["id"], "time": shown["finished_at"], "datacontenttype": "application/json", "data": shown},
    }
    assert shown["result"] == 2
    [attempt] = told.pop("attempts")
    assert told == {"id": receiver.ids[0], "url": receiver.url, "state": "delivered", "next_attempt_at": None}
    assert attempt.keys() == {"at", "seconds", "status"}
    assert attempt["status"] == 200


async def test_a_job_without_a_callback_has_none(calling: Service) -> None:
    job = json.loads((await calling.submit("s.add", {"input": [1]}, wait=10)).body)
    assert "deliveries" not in job["links"]
    assert json.loads((await calling.fetch(f"/v1/jobs/{job['id']}/deliveries")).body) == {"deliveries": []}
    kept = await calling.jobs.ledger.redis.client.hkeys(f"{{tcb}}job:{job['id']}")
    assert not {b"callback", b"delivery", b"tries"} & set(kept)


async def test_tried_again_until_it_is_delivered(
    calling: Service, secrets: Secrets, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_celery_bridge.service.resources.callbacks.deliverer.DELAYS", (0.02,) * 4)
    async with receiving() as elsewhere:
        receiver.answers = [status(500), status(302, Location=elsewhere.url), status(307, Location=elsewhere.url)]
        told = await delivery(calling, await submit(calling, receiver.url, "s.fail", []))
        assert not elsewhere.calls
    assert [attempt["status"] for attempt in told["attempts"]] == [500, 302, 307, 200]
    assert set(receiver.ids) == {told["id"]}
    assert len(receiver.ids) == 4
    events = [json.loads(call.body) for call in receiver.calls]
    assert events[0]["type"] == "tornado-celery-bridge.job.failed"
    assert events[0]["data"]["error"]["detail"] == "as asked"
    assert all(event == events[0] for event in events)


async def test_given_up_and_replayed(
    calling: Service, secrets: Secrets, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_celery_bridge.service.resources.callbacks.deliverer.DELAYS", (0.02,))
    receiver.answers = [status(410), status(500), status(500), status(500)]
    job = await submit(calling, receiver.url)
    told = await delivery(calling, job, "failed")
    assert [attempt["status"] for attempt in told["attempts"]] == [410]
    path = f"{job['links']['deliveries']}/{told['id']}/replay"
    problem(await calling.post(path, {"x": 1}), 422, "invalid-body")
    for codes in ([410, 500, 500], [410, 500, 500, 500, 200]):
        replayed = await calling.post(path)
        assert (replayed.code, json.loads(replayed.body)["id"]) == (202, told["id"])
        await until(lambda codes=codes: len(receiver.calls) == len(codes))  # type: ignore[misc]
        told = await delivery(calling, job, "delivered" if codes[-1] == 200 else "failed")
        assert [attempt["status"] for attempt in told["attempts"]] == codes
        assert told["next_attempt_at"] is None
    assert set(receiver.ids) == {told["id"]}


async def test_what_there_is_no_delivery_of(calling: Service, receiver: Receiver) -> None:
    job = await submit(calling, receiver.url, "s.nap", [60], queue="quiet")
    assert json.loads((await calling.fetch(job["links"]["deliveries"])).body) == {"deliveries": []}
    problem(await calling.post(f"{job['links']['deliveries']}/msg_1/replay"), 404, "unknown-delivery")
    problem(await calling.fetch("/v1/jobs/nothing/deliveries"), 404, "unknown-job")
    problem(await calling.post("/v1/jobs/nothing/deliveries/msg_1/replay"), 404, "unknown-job")
    await calling.post(f"{job['links']['self']}/cancel")
    problem(await calling.post(f"{job['links']['deliveries']}/msg_1/replay"), 404, "unknown-delivery")
    assert not receiver.calls


async def test_a_receiver_may_ask_for_a_pause(calling: Service, secrets: Secrets, receiver: Receiver) -> None:
    for seconds, least, most in (("100", 95, 101), ("999999", 3_595, 3_601), ("-1", 1, 6), ("soon", 1, 6)):
        receiver.answers = [status(503, Retry_After=seconds)]
        begun = time.time()
        job = await submit(calling, receiver.url)
        await until(lambda: not receiver.answers)
        async with asyncio.timeout(5):
            while not (told := await delivery(calling, job, "waiting"))["attempts"]:
                await asyncio.sleep(0.01)
        due = datetime.fromisoformat(told["next_attempt_at"]).timestamp()
        assert begun + least < due < time.time() + most, (seconds, due - begun)


def test_attempts_go_on_for_a_day_and_no_longer() -> None:
    """A job is kept for a day, and its delivery with it."""
    assert 23 * 3_600 < sum(DELAYS) < 86_400


async def test_a_cancelled_job_calls_back(calling: Service, secrets: Secrets, receiver: Receiver) -> None:
    job = await submit(calling, receiver.url, queue="quiet")
    assert (await calling.post(f"{job['links']['self']}/cancel")).code == 200
    await delivery(calling, job)
    assert json.loads(receiver.calls[0].body)["type"] == "tornado-celery-bridge.job.revoked"


async def test_jobs_of_batches_and_workflows_and_retries_call_back(
    calling: Service, secrets: Secrets, receiver: Receiver
) -> None:
    options = {"callback_url": receiver.url}
    batch = await calling.post("/v1/batches", {"jobs": [{"task": "s.add", "input": [1], "options": options}]})
    job = json.loads(batch.body)["jobs"][0]["job"]
    await delivery(calling, job)
    retried = json.loads((await calling.post(f"{job['links']['self']}/retry")).body)
    assert (await delivery(calling, retried))["id"] == receiver.ids[1] != receiver.ids[0]
    steps = [{"task": "s.fail", "options": options}, {"task": "s.echo", "options": options}]
    made = json.loads((await calling.post("/v1/workflows", {"chain": steps})).body)
    for step in made["tree"]["chain"]:
        await delivery(calling, step)
    types = {event["subject"]: event["type"] for event in (json.loads(call.body) for call in receiver.calls[2:])}
    assert [types[step["id"]].rpartition(".")[2] for step in made["tree"]["chain"]] == ["failed", "revoked"]
    workflow = await calling.post("/v1/workflows", {"chain": [{"task": "s.add", "options": {"callback_url": "x"}}]})
    assert problem(workflow, 422, "invalid-workflow")["errors"][0]["pointer"] == "/chain/0/options/callback_url"


async def test_a_slow_receiver_holds_up_no_other(
    calling: Service, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_celery_bridge.service.resources.callbacks.deliverer.MAX_ATTEMPTS", 3)
    monkeypatch.setattr("tornado_celery_bridge.service.resources.callbacks.deliverer.MAX_SHARE", 2)
    monkeypatch.setattr("tornado_celery_bridge.service.resources.callbacks.deliverer.TIMEOUT", 1.0)
    async with receiving() as slow:
        slow.answers = [hang] * 20
        jobs = [await submit(calling, slow.url) for _ in range(5)] + [await submit(calling, receiver.url)]
        for job in jobs:
            await calling.fetch(job["links"]["self"], headers={"Prefer": "wait=10"})
        async with delivering(calling, tmp_path):
            await delivery(calling, jobs[-1])
            assert len(slow.calls) <= 2
            [attempt] = (await _attempted(calling, jobs[0]))["attempts"]
            assert attempt["error"] == "No answer within 1 s."


async def _attempted(service: Service, job: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not (told := await delivery(service, job, "waiting"))["attempts"]:
            await asyncio.sleep(0.02)
    return told


async def test_nothing_of_an_answer_counts_but_its_status(
    calling: Service, secrets: Secrets, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_celery_bridge.service.resources.callbacks.deliverer.TIMEOUT", 2.0)

    async def dribble(handler: RequestHandler) -> None:
        handler.write("x")
        await handler.flush()
        await hang(handler)

    def flood(handler: RequestHandler) -> None:
        handler.write("x" * 1_000_000)

    for answer in (dribble, flood, status(204)):
        receiver.answers = [answer]
        await delivery(calling, await submit(calling, receiver.url))
    assert len(receiver.calls) == 3


async def test_what_is_not_http(calling: Service, secrets: Secrets) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.test ESMTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    job = await submit(calling, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    [attempt] = (await _attempted(calling, job))["attempts"]
    assert attempt["error"] in ("No HTTP answer.", "No connection.")
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("name", ["hooks.test", "other.test"])
async def test_tls_is_to_the_name_at_the_checked_address(
    calling: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    authority = trustme.CA()
    inner, outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    await asyncio.to_thread(authority.issue_cert(name).configure_cert, inner)
    await asyncio.to_thread(authority.configure_trust, outer)
    monkeypatch.setattr("tornado.simple_httpclient._client_ssl_defaults", lambda: outer)
    real, ours = socket.getaddrinfo, {"hooks.test": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: real(ours.get(host, host), *rest))
    async with receiving(ssl_options=inner) as receiver, delivering(calling, tmp_path, "hooks.test"):
        job = await submit(calling, f"https://hooks.test:{receiver.port}/")
        if name == "hooks.test":
            await delivery(calling, job)
            assert receiver.calls[0].headers["Host"] == f"hooks.test:{receiver.port}"
        else:
            [attempt] = (await _attempted(calling, job))["attempts"]
            assert attempt["error"].startswith("TLS failed: ")
            assert not receiver.calls


async def test_another_process_goes_on_when_one_is_killed(
    calling: Service, web_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answers = [hang]
    job = await submit(calling, receiver.url)
    settings = {"SAMPLE_URL": web_url, "REDIS_URL": web_url, "CELERY_APP": "tests.service.sample"}
    settings |= {"CALLBACK_ALLOW": "127.0.0.1", "DATA_DIR": str(tmp_path), "PORT": str(free_port())}
    # With a shorter lease, for the test's sake.
    code = """
from tornado_celery_bridge.cli.main import main
from tornado_celery_bridge.service.resources.callbacks import deliverer

deliverer.LEASE = 1.0
main()
"""
    command = (sys.executable, "-c", code, "serve")
    process = await asyncio.create_subprocess_exec(*command, env=environment(**settings))
    try:
        await until(lambda: receiver.calls, 20)
    finally:
        process.kill()
        await process.wait()
    assert (await delivery(calling, job, "waiting"))["attempts"] == []
    async with delivering(calling, tmp_path) as secrets:
        told = await delivery(calling, job)
        assert receiver.ids == [told["id"]] * 2
        Webhook(await asyncio.to_thread(secrets.of, "")).verify(receiver.calls[0].body, dict(receiver.calls[0].headers))
